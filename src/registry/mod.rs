//! Adapters by name: found in a folder, loaded on first use, and kept within a budget of bytes.
//!
//! | file | idea |
//! | --- | --- |
//! | `files.rs` | finds a folder by a plain name, inside the root, and detects changes of its files |
//! | `residents.rs` | the versions in memory by (name, generation), and which are evicted |
//! | `pin.rs` | a value that keeps a version in memory |
//! | `status.rs` | what clients can read about an adapter |

mod error;
mod files;
mod pin;
mod residents;
mod status;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use self::error::RegistryError;
use self::files::Folder;
pub use self::pin::Pin;
use self::residents::{Key, Shared};
use self::status::Facts;
pub use self::status::{Status, Tier};
use crate::adapter::Adapter;
use crate::engine::{Engine, Error};
use crate::params::Layout;

/// The source of a registry's adapters: an engine, or a stand-in in tests.
pub trait Source: Send + Sync {
    /// Reads and checks the adapter in the folder `dir`.
    ///
    /// # Errors
    /// If the adapter is malformed or does not fit the base.
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

/// The adapters of one folder. Shared by `Arc`; its methods may block on the disk.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use polyrank::engine::Engine;
/// use polyrank::params::Backend;
/// use polyrank::registry::Registry;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert"));
/// let engine = Arc::new(Engine::open(dir, Backend::cpu())?);
/// // The adapters lie in subfolders of the base's own folder here, and may take 1 MiB of memory.
/// let registry = Registry::new(engine, dir, 1 << 20)?;
/// let pin = registry.get("ragged")?;
/// assert_eq!(pin.adapter().info.labels, ["negative", "neutral", "positive"]);
/// assert_eq!(registry.resident(), 1);
/// assert!(registry.get("unknown").is_err());
/// # Ok(())
/// # }
/// ```
pub struct Registry {
    source: Arc<dyn Source>,
    /// The adapters' folder as a canonical path.
    root: PathBuf,
    budget: usize,
    residents: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    /// The version of each name that is in service. It stays when the adapter is evicted, because its files are still that version.
    versions: HashMap<String, Version>,
    /// The loads in progress. A second caller waits for the first.
    loading: HashMap<String, Arc<Gate>>,
    last_generation: u64,
}

/// Holds the result of a load for all callers that wait for it.
type Gate = OnceLock<Result<Pin, RegistryError>>;

struct Version {
    key: Key,
    folder: Folder,
    facts: Facts,
    requests: Arc<AtomicU64>,
}

impl Registry {
    /// Opens a registry of the adapters in the subfolders of `root`, which use at most `budget` bytes of memory.
    ///
    /// # Errors
    /// If `root` is not a folder that can be read.
    pub fn new(source: Arc<dyn Source>, root: &Path, budget: usize) -> Result<Self, Error> {
        let canonical = root.canonicalize().map_err(Error::io(root))?;
        std::fs::read_dir(&canonical).map_err(Error::io(root))?;
        let state = State { versions: HashMap::new(), loading: HashMap::new(), last_generation: 0 };
        Ok(Self { source, root: canonical, budget, residents: Arc::default(), state: Mutex::new(state) })
    }

    /// The adapter `name`, pinned. It comes from memory or, on first use, from its folder. If several callers ask for it at once,
    /// one of them loads it.
    ///
    /// # Errors
    /// See [`RegistryError`]. A failed load changes nothing.
    pub fn get(&self, name: &str) -> Result<Pin, RegistryError> {
        let folder = Folder::find(&self.root, name)?;
        let mut state = self.lock();
        if let Some(version) = state.versions.get(name) {
            if version.folder != folder {
                return Err(RegistryError::Changed { name: name.into() });
            }
            if let Some(pin) = self.pinned(version) {
                return Ok(pin);
            }
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

    /// A pin of `version`, if it is in memory.
    fn pinned(&self, version: &Version) -> Option<Pin> {
        let adapter = self.residents.lock().take(&version.key)?;
        let (key, requests) = (version.key.clone(), Arc::clone(&version.requests));
        Some(Pin::counted(key, adapter, requests, Arc::clone(&self.residents)))
    }

    /// Checks that there is an adapter `name`, without loading it.
    ///
    /// # Errors
    /// If there is no such adapter, or its folder cannot be read.
    pub fn find(&self, name: &str) -> Result<(), RegistryError> {
        Folder::find(&self.root, name).map(drop)
    }

    /// Reads, checks and inserts an adapter. Other adapters are evicted for it only after it has been read and checked.
    fn load(&self, name: &str, folder: &Folder) -> Result<Pin, RegistryError> {
        let adapter = self.source.load(&folder.path).map_err(|source| {
            let root = format!("{}{}", self.root.display(), std::path::MAIN_SEPARATOR);
            let reason = source.to_string().replace(&root, "");
            RegistryError::Invalid { name: name.into(), reason, source: Arc::new(source) }
        })?;
        // If the files have changed meanwhile, the adapter may have been read half from the old version and half from the new one.
        if Folder::find(&self.root, name)? != *folder {
            return Err(RegistryError::Changed { name: name.into() });
        }
        let mut state = self.lock();
        let mut residents = self.residents.lock();
        residents.make_room(name, adapter.bytes(), self.budget)?;
        let adapter = Arc::new(adapter);
        let version = state.version(name, &adapter, folder, self.source.layout());
        residents.insert(version.key.clone(), Arc::clone(&adapter));
        let (key, requests) = (version.key.clone(), Arc::clone(&version.requests));
        tracing::info!(adapter = name, generation = key.generation, bytes = adapter.bytes(), "loaded");
        Ok(Pin::counted(key, adapter, requests, Arc::clone(&self.residents)))
    }

    /// All adapters of the folder, in order of name. Fields that are known only after loading are `None` for adapters that were
    /// never loaded.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Status>, Error> {
        let names = files::names(&self.root).map_err(Error::io(&self.root))?;
        let state = self.lock();
        Ok(names.into_iter().map(|name| self.status(&state, name)).collect())
    }

    /// One adapter as in [`Registry::list`], with all fields: an adapter that was never loaded is loaded.
    ///
    /// # Errors
    /// As for [`Registry::get`], except that files that changed since they were loaded are no error.
    pub fn describe(&self, name: &str) -> Result<Status, RegistryError> {
        Folder::find(&self.root, name)?;
        if !self.lock().versions.contains_key(name) {
            self.get(name)?;
        }
        Ok(self.status(&self.lock(), name.into()))
    }

    fn status(&self, state: &State, name: String) -> Status {
        let version = state.versions.get(&name);
        let resident = version.is_some_and(|version| self.residents.lock().contains(&version.key));
        let tier = if resident { Tier::Memory } else { Tier::Disk };
        let requests = version.map_or(0, |version| version.requests.load(Ordering::Relaxed));
        Status::new(name, tier, requests, version.map(|version| &version.facts))
    }

    /// Bytes of the adapters in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.residents.lock().bytes()
    }

    /// Number of adapters in memory.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.residents.lock().len()
    }

    /// Locks the state. A panic in another thread does not matter, because the state is consistent after every statement. Code that
    /// locks both the state and the residents locks the state first.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The version of `name` with these files. The same files give the same version again.
    fn version(&mut self, name: &str, adapter: &Adapter, folder: &Folder, layout: &Layout) -> &Version {
        let last = &mut self.last_generation;
        self.versions.entry(name.into()).or_insert_with(|| {
            *last += 1;
            let key = Key { name: name.into(), generation: *last };
            let facts = Facts::new(*last, adapter, layout);
            Version { key, folder: folder.clone(), facts, requests: Arc::default() }
        })
    }
}
