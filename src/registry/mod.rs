//! Adapters by name: found in a folder, loaded on first use, kept within a budget of bytes.

mod files;
mod status;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lru::LruCache;
use thiserror::Error;

use self::files::Folder;
use self::status::Facts;
pub use self::status::{Status, Tier};
use crate::adapter::Adapter;
use crate::engine::{Engine, Error};
use crate::params::Layout;

/// Where a registry's adapters come from: an engine, or a test's stand-in.
pub trait Source: Send + Sync {
    /// Reads and checks the adapter in the folder `dir`.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load(&self, dir: &Path) -> Result<Adapter, Error>;

    /// The sites of the base.
    fn layout(&self) -> &Layout;
}

impl Source for Engine {
    fn load(&self, dir: &Path) -> Result<Adapter, Error> {
        self.load_adapter(dir)
    }

    fn layout(&self) -> &Layout {
        Engine::layout(self)
    }
}

/// Why a name has no adapter to give.
#[derive(Debug, Clone, Error)]
pub enum RegistryError {
    /// No folder of that name holds an adapter.
    #[error("no adapter is named {name:?}")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// A symlink leads out of the adapters' folder.
    #[error("adapter {name:?} is outside the adapters' folder: {file} leads out of it")]
    OutsideRoot {
        /// The name asked for.
        name: String,
        /// What leads out, relative to the root.
        file: String,
    },
    /// The files are no longer those that were loaded.
    #[error("the files of adapter {name:?} changed since it was loaded")]
    Changed {
        /// The name asked for.
        name: String,
    },
    /// The adapter is malformed, or made for another base.
    #[error("adapter {name:?}: {reason}")]
    Invalid {
        /// The name asked for.
        name: String,
        /// File, tensor, expected and found, with paths relative to the root.
        reason: String,
        /// The reason as it was raised.
        source: Arc<Error>,
    },
    /// The adapter alone is larger than the budget.
    #[error("adapter {name:?} takes {bytes} bytes, more than the {budget} bytes that all adapters may take")]
    TooLarge {
        /// The name asked for.
        name: String,
        /// What it takes in memory.
        bytes: usize,
        /// What all adapters may take.
        budget: usize,
    },
    /// Every adapter that would have to give way is in use.
    #[error("adapter {name:?} takes {bytes} bytes, and adapters in use hold {held} of {budget}")]
    Busy {
        /// The name asked for.
        name: String,
        /// What it takes in memory.
        bytes: usize,
        /// Bytes of the adapters in use.
        held: usize,
        /// What all adapters may take.
        budget: usize,
    },
}

/// An adapter that is ready. While a request holds it, or the adapter inside, it stays in memory.
#[derive(Debug)]
pub struct Loaded {
    /// Its name, the folder's.
    pub name: String,
    /// Grows with each version of files taken in, over all adapters of the registry.
    pub generation: u64,
    /// The adapter.
    pub adapter: Arc<Adapter>,
    requests: Arc<AtomicU64>,
}

impl Loaded {
    /// Counts a request that was answered.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// The adapters of one folder. Shared by `Arc`; its methods may block on the disk.
pub struct Registry {
    source: Arc<dyn Source>,
    /// Canonical.
    root: PathBuf,
    budget: usize,
    state: Mutex<State>,
}

struct State {
    /// In memory, most recently used first.
    resident: LruCache<String, Arc<Loaded>>,
    /// The sum of the residents' bytes.
    bytes: usize,
    /// What was ever loaded. It stays when an adapter is evicted: its files are still the version in service.
    versions: HashMap<String, Version>,
    /// Loads under way; who comes second waits for the first.
    loading: HashMap<String, Arc<Gate>>,
    last_generation: u64,
}

/// Holds the outcome of a load for all who wait for it.
type Gate = OnceLock<Result<Arc<Loaded>, RegistryError>>;

struct Version {
    folder: Folder,
    facts: Facts,
    requests: Arc<AtomicU64>,
}

impl Registry {
    /// The adapters in the subfolders of `root`, in at most `budget` bytes of memory.
    ///
    /// # Errors
    /// `root` is not a folder that can be read.
    pub fn new(source: Arc<dyn Source>, root: &Path, budget: usize) -> Result<Self, Error> {
        let canonical = root.canonicalize().map_err(Error::io(root))?;
        std::fs::read_dir(&canonical).map_err(Error::io(root))?;
        let state = State {
            resident: LruCache::unbounded(),
            bytes: 0,
            versions: HashMap::new(),
            loading: HashMap::new(),
            last_generation: 0,
        };
        Ok(Self { source, root: canonical, budget, state: Mutex::new(state) })
    }

    /// The adapter `name`, from memory or, on first use, from its folder. Of requests that come at once, one loads.
    ///
    /// # Errors
    /// See [`RegistryError`]. A failed load changes nothing.
    pub fn get(&self, name: &str) -> Result<Arc<Loaded>, RegistryError> {
        let folder = Folder::find(&self.root, name)?;
        let mut state = self.lock();
        if state.versions.get(name).is_some_and(|version| version.folder != folder) {
            return Err(RegistryError::Changed { name: name.into() });
        }
        if let Some(loaded) = state.resident.get(name) {
            return Ok(Arc::clone(loaded));
        }
        let gate = Arc::clone(state.loading.entry(name.into()).or_default());
        drop(state);
        let result = gate.get_or_init(|| self.load(name, &folder)).clone();
        let mut state = self.lock();
        if state.loading.get(name).is_some_and(|current| Arc::ptr_eq(current, &gate)) {
            state.loading.remove(name);
        }
        result
    }

    /// Whether there is an adapter `name`, without loading it.
    ///
    /// # Errors
    /// There is none, or it cannot be looked at.
    pub fn find(&self, name: &str) -> Result<(), RegistryError> {
        Folder::find(&self.root, name).map(drop)
    }

    /// Reads, checks and takes in an adapter; what gives way to it is dropped only then.
    fn load(&self, name: &str, folder: &Folder) -> Result<Arc<Loaded>, RegistryError> {
        let adapter = self.source.load(&folder.path).map_err(|source| {
            let root = format!("{}{}", self.root.display(), std::path::MAIN_SEPARATOR);
            let reason = source.to_string().replace(&root, "");
            RegistryError::Invalid { name: name.into(), reason, source: Arc::new(source) }
        })?;
        // Files that changed meanwhile may have been read half old and half new.
        if Folder::find(&self.root, name)? != *folder {
            return Err(RegistryError::Changed { name: name.into() });
        }
        let mut state = self.lock();
        state.make_room(name, adapter.bytes(), self.budget)?;
        let loaded = state.insert(name, adapter, folder, self.source.layout());
        drop(state);
        tracing::info!(adapter = name, generation = loaded.generation, bytes = loaded.adapter.bytes(), "loaded");
        Ok(loaded)
    }

    /// Every adapter of the folder in order of name. What is only known of a loaded adapter is `None` for one that never was.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Status>, Error> {
        let names = files::names(&self.root).map_err(Error::io(&self.root))?;
        let state = self.lock();
        Ok(names.into_iter().map(|name| state.status(name)).collect())
    }

    /// One adapter as in [`Registry::list`], with all there is to know: one that never was loaded is loaded.
    ///
    /// # Errors
    /// As [`Registry::get`]; files that changed since they were loaded are none.
    pub fn describe(&self, name: &str) -> Result<Status, RegistryError> {
        Folder::find(&self.root, name)?;
        if !self.lock().versions.contains_key(name) {
            self.get(name)?;
        }
        Ok(self.lock().status(name.into()))
    }

    /// Bytes of the adapters in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Number of adapters in memory.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.lock().resident.len()
    }

    /// Locks; the state is whole between any two statements, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops adapters that no request holds, least recently used first, until `bytes` more fit; drops none where they never
    /// would.
    fn make_room(&mut self, name: &str, bytes: usize, budget: usize) -> Result<(), RegistryError> {
        if bytes > budget {
            return Err(RegistryError::TooLarge { name: name.into(), bytes, budget });
        }
        let mut left = self.bytes;
        let mut leaving = Vec::new();
        for (other, loaded) in self.resident.iter().rev() {
            if left + bytes <= budget {
                break;
            }
            if !in_use(loaded) {
                left -= loaded.adapter.bytes();
                leaving.push(other.clone());
            }
        }
        if left + bytes > budget {
            return Err(RegistryError::Busy { name: name.into(), bytes, held: left, budget });
        }
        for other in leaving {
            self.resident.pop(&other);
            tracing::info!(adapter = other, "evicted");
        }
        self.bytes = left;
        Ok(())
    }

    fn insert(&mut self, name: &str, adapter: Adapter, folder: &Folder, layout: &Layout) -> Arc<Loaded> {
        // The same files come back as the same version.
        if !self.versions.contains_key(name) {
            self.last_generation += 1;
            let facts = Facts::new(self.last_generation, &adapter, layout);
            self.versions.insert(name.into(), Version { folder: folder.clone(), facts, requests: Arc::default() });
        }
        let version = &self.versions[name];
        self.bytes += adapter.bytes();
        let loaded = Arc::new(Loaded {
            name: name.into(),
            generation: version.facts.generation,
            adapter: Arc::new(adapter),
            requests: Arc::clone(&version.requests),
        });
        self.resident.put(name.into(), Arc::clone(&loaded));
        loaded
    }

    fn status(&self, name: String) -> Status {
        let tier = if self.resident.contains(&name) { Tier::Memory } else { Tier::Disk };
        let version = self.versions.get(&name);
        let requests = version.map_or(0, |version| version.requests.load(Ordering::Relaxed));
        Status::new(name, tier, requests, version.map(|version| &version.facts))
    }
}

/// Whether anybody but the registry holds it. Under the registry's lock nobody can begin to.
fn in_use(loaded: &Arc<Loaded>) -> bool {
    Arc::strong_count(loaded) > 1 || Arc::strong_count(&loaded.adapter) > 1
}
