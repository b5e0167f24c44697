//! Adapters by name: found in a folder, loaded on first use, kept within a budget of bytes, and replaced when their files change.
//!
//! A request for an adapter in memory takes no lock but the state's, which nobody holds for long, and makes no system call. Everything
//! that waits for the disk runs on threads of the registry's own, so that a dead volume holds up nothing else.
//!
//! | file | idea |
//! | --- | --- |
//! | `files.rs` | finds a folder by a plain name, inside the root, and reads it as one version |
//! | `stamp.rs` | what the system says about the files, by which changes are noticed |
//! | `state.rs` | the state, and the transitions of requests and jobs |
//! | `service.rs` | the transitions by which a version comes into service, waits for room, and leaves |
//! | `entry.rs` | what is known about one name |
//! | `residents.rs` | the versions in memory by (name, generation), and which of them leave for others |
//! | `shared.rs` | the state under its lock, and what happens outside of the lock |
//! | `loader.rs` | the threads that wait for the disk |
//! | `jobs.rs` | what these threads do: look at folders, and read adapters |
//! | `updates.rs` | the transitions by which changed files are noticed, and the thread that has them looked at |
//! | `pin.rs` | a value that keeps a version in memory |
//! | `status.rs` | what clients can read about an adapter |
//! | `names.rs` | whether an adapter names another base |
//! | `event.rs` | what happens to adapters, as it is logged |
//! | `error.rs` | the errors |

mod entry;
mod error;
mod event;
mod files;
mod jobs;
mod loader;
mod names;
mod pin;
mod residents;
mod service;
mod shared;
mod stamp;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod updates;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::entry::{Order, OrderKind};
pub use self::error::{Fault, RegistryError};
pub use self::pin::Pin;
use self::shared::Shared;
use self::state::{Asked, State};
pub(crate) use self::status::Cause;
pub use self::status::{Counters, Status, Tier};
use crate::adapter::{self, Adapter, AdapterError, Files, OpenFiles, Summary};
use crate::engine::{Engine, Error};
use crate::params::{Form, Layout};

/// The source of a registry's adapters: an engine, or a stand-in in tests.
pub trait Source: Send + Sync {
    /// Makes an adapter of its files, and checks all of it.
    ///
    /// # Errors
    /// If the adapter is malformed or does not fit the base.
    fn load(&self, files: &Files) -> Result<Adapter, Error>;

    /// A lower bound of the bytes that [`Source::load`] makes of the files, or 0 if that is unknown. It is asked before the
    /// files are read.
    ///
    /// # Errors
    /// A file is malformed.
    fn least_bytes(&self, _files: &OpenFiles) -> Result<usize, AdapterError> {
        Ok(0)
    }

    /// What the files in the folder `dir` show without a load.
    ///
    /// # Errors
    /// A file is missing or malformed, or states what is not served. [`Source::load`] would fail, too.
    fn summary(&self, dir: &Path) -> Result<Summary, AdapterError> {
        adapter::summary(dir, self.layout())
    }

    /// The sites of the base.
    fn layout(&self) -> &Layout;

    /// Where the adapters are that [`Source::load`] makes.
    fn tier(&self) -> Tier {
        Tier::Memory
    }

    /// The names by which the base is known. Without any, no adapter is taken to be of another base.
    fn base_names(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Source for Engine {
    fn load(&self, files: &Files) -> Result<Adapter, Error> {
        self.parse_adapter(files)
    }

    // The head's tensors are f32 on every device. Where a delta of a linear of the head is added to the base's weight, the sum is larger
    // than the delta, as long as its rank is at most half of the width.
    fn least_bytes(&self, files: &OpenFiles) -> Result<usize, AdapterError> {
        Ok(files.elements()?.saturating_mul(self.backend().dtype().size_in_bytes()))
    }

    fn layout(&self) -> &Layout {
        Engine::layout(self)
    }

    fn tier(&self) -> Tier {
        if self.backend().form() == Form::Cuda { Tier::Device } else { Tier::Memory }
    }

    fn base_names(&self) -> Vec<String> {
        Engine::base_names(self)
    }
}

/// What happens when the files of an adapter change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Updates {
    /// The new version is loaded beside the old one and takes its place, once its files have stopped changing and are valid.
    #[default]
    Auto,
    /// The version in memory serves on until a request replaces it.
    Manual,
}

/// What a caller expects to be in service when it replaces or removes an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Any version.
    Any,
    /// The version of this generation.
    Generation(u64),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("a version in service"),
            Self::Generation(generation) => write!(f, "generation {generation}"),
        }
    }
}

/// The settings of a registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most bytes that all adapters in memory may have together: in the device's memory where operations run on a GPU.
    pub budget: usize,
    /// What happens when files change.
    pub updates: Updates,
    /// Whether adapters are refused that name another base, instead of served with a warning.
    pub strict_base: bool,
    /// For how long a load waits for room that adapters in use hold.
    pub room_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let (budget, updates, room_wait) = (usize::MAX, Updates::Auto, Duration::from_secs(1));
        Self { budget, updates, strict_base: false, room_wait }
    }
}

/// The first adapters in a registry's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstAdapters {
    /// Their names.
    pub names: Vec<String>,
    /// Whether there are others, which were not looked for.
    pub others: bool,
    /// The names of adapters before the others that are not served, because links in them lead outside of the folder.
    pub outside: Vec<String>,
    /// The names of folders before the others for which the disk fails, so that adapters inside them are not known.
    pub unreadable: Vec<String>,
}

/// The adapters of one folder. Shared by `Arc`.
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
    shared: Arc<Shared>,
}

impl Registry {
    /// [`Registry::open`] with the default settings, except that all adapters use at most `budget` bytes of memory.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn new(source: Arc<dyn Source>, root: &Path, budget: usize) -> Result<Self, Error> {
        Self::open(source, root, Settings { budget, ..Settings::default() })
    }

    /// Opens a registry of the adapters in the subfolders of `root`. No adapter is read yet. `root` may be a link, which is followed
    /// anew at each look.
    ///
    /// # Errors
    /// If `root` is not a folder that can be read, or the system starts no thread.
    pub fn open(source: Arc<dyn Source>, root: &Path, settings: Settings) -> Result<Self, Error> {
        std::fs::read_dir(root).map_err(Error::io(root))?;
        let state = State::new(&settings, source.tier());
        let shared = Shared::new(source, root.to_owned(), settings.strict_base, state);
        let registry = Self { shared: Arc::new(shared) };
        updates::start(&registry.shared).map_err(Error::Thread)?;
        Ok(registry)
    }

    /// The version of the adapter `name` that is in service, pinned, if it is in memory. Makes no system call.
    #[must_use]
    pub fn pinned(&self, name: &str) -> Option<Pin> {
        let pin = self.taken(name)?;
        self.shared.with(|state| state.hit(1));
        Some(pin)
    }

    /// [`Registry::pinned`] without a count.
    fn taken(&self, name: &str) -> Option<Pin> {
        let taken = self.shared.with(|state| state.taken(name))?;
        Some(Pin::new(taken, Arc::clone(&self.shared) as _))
    }

    /// The adapter `name`, pinned. It comes from memory or, on first use, from its folder. Many callers may wait for one load; none of
    /// them holds a thread.
    ///
    /// # Errors
    /// See [`RegistryError`]. A failed load changes nothing, and is remembered for a second.
    pub async fn pin(self: &Arc<Self>, name: &str) -> Result<Pin, RegistryError> {
        match self.ask(name)? {
            Asked::Now(taken) => Ok(Pin::new(taken, Arc::clone(&self.shared) as _)),
            Asked::Wait(answer) => answer.await.unwrap_or(Err(RegistryError::Stopped)),
        }
    }

    /// Pins of several adapters, in the order of `names`. Holds no pin while it waits for another adapter, so that requests for several
    /// adapters do not wait for each other when memory is short.
    ///
    /// # Errors
    /// As [`Registry::pin`]; [`RegistryError::TooLargeTogether`] if the adapters do not fit into memory at once, and
    /// [`RegistryError::Busy`] if others leave them no room.
    pub async fn pin_all(self: &Arc<Self>, names: &[impl AsRef<str>]) -> Result<Vec<Pin>, RegistryError> {
        // Each round loads one adapter, and others may evict some of them again.
        let (mut loaded, mut last) = (None, "");
        for round in 0..2 * names.len() + 2 {
            let pins: Vec<_> = names.iter().map(|name| self.taken(name.as_ref()).ok_or(name.as_ref())).collect();
            // Only now, so that the adapter of the last round is still there.
            drop(loaded.take());
            let Some(missing) = pins.iter().find_map(|pin| pin.as_ref().err().copied()) else {
                self.shared.with(|state| state.hit(names.len().saturating_sub(round)));
                return Ok(pins.into_iter().flatten().collect());
            };
            drop(pins);
            (loaded, last) = (Some(self.pin(missing).await?), missing);
        }
        Err(self.shared.with(|state| state.not_together(names.iter().map(AsRef::as_ref), last)))
    }

    /// Whether an adapter can have this name: a folder's name, or two joined by `/`, which are not hidden.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        files::is_name(name)
    }

    /// Whether the adapter was taken out of service by a `DELETE`.
    pub fn is_withdrawn(&self, name: &str) -> bool {
        self.shared.with(|state| state.is_withdrawn(name))
    }

    /// [`Registry::pin`] for a caller that may block its thread.
    ///
    /// # Errors
    /// As [`Registry::pin`].
    pub fn get(&self, name: &str) -> Result<Pin, RegistryError> {
        match self.ask(name)? {
            Asked::Now(taken) => Ok(Pin::new(taken, Arc::clone(&self.shared) as _)),
            Asked::Wait(answer) => answer.blocking_recv().unwrap_or(Err(RegistryError::Stopped)),
        }
    }

    fn ask(&self, name: &str) -> Result<Asked, RegistryError> {
        self.shared.with(|state| state.ask(name, Instant::now()))
    }

    /// Loads the adapter `name` and never evicts it for others.
    ///
    /// # Errors
    /// As [`Registry::pin`].
    pub fn preload(&self, name: &str) -> Result<(), RegistryError> {
        let _pin = self.get(name)?;
        self.shared.with(|state| state.keep(name));
        Ok(())
    }

    /// Sets what happens when a load finds the device lost. Only the first call counts.
    pub fn on_device_lost(&self, callback: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.on_device_lost.set(Box::new(callback));
    }

    /// Puts the adapter in `folder` into service as `name`, whatever was in service before. `folder` is relative to the root, and must
    /// lie inside it. It may be the folder that is in service already.
    ///
    /// # Errors
    /// See [`RegistryError`]. What was in service before serves on.
    pub async fn put(&self, name: &str, folder: &Path, expected: Option<Expected>) -> Result<Status, RegistryError> {
        // `./NAME` is the same folder as `NAME`, and must count as the adapter's own.
        let folder = folder.strip_prefix(".").ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(folder);
        self.order(name, OrderKind::Put(folder.to_owned()), expected).await
    }

    /// Takes an adapter out of service until a [`Registry::put`]. Its files stay. Returns its last status.
    ///
    /// # Errors
    /// If there is no such adapter, or another version is in service than expected.
    pub async fn delete(&self, name: &str, expected: Option<Expected>) -> Result<Status, RegistryError> {
        self.order(name, OrderKind::Delete, expected).await
    }

    async fn order(&self, name: &str, kind: OrderKind, expected: Option<Expected>) -> Result<Status, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.shared.with(|state| state.order(name, Order { kind, expected, reply, number: 0 }, Instant::now()));
        answer.await.unwrap_or(Err(RegistryError::Stopped))
    }

    /// All adapters, in order of name. Of those that were never loaded, the status shows what the files show without a load. Reads the
    /// folder.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Status>, RegistryError> {
        self.shared.list()
    }

    /// The first `most` adapters in the folder, in about the order of name. Only as many are looked for, because a folder may have
    /// thousands.
    ///
    /// # Errors
    /// As [`Registry::list`].
    pub fn first(&self, most: usize) -> Result<FirstAdapters, RegistryError> {
        self.shared.first(most)
    }

    /// [`Registry::list`], read by the registry's own threads.
    ///
    /// # Errors
    /// As [`Registry::list`].
    pub async fn listed(&self) -> Result<Vec<Status>, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.shared.loader.list(&self.shared, reply);
        answer.await.unwrap_or(Err(RegistryError::Stopped))
    }

    /// The statuses of all adapters in service, in order of name. Does not touch the disk.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        let mut statuses: Vec<_> = self.shared.with(|state| state.snapshots()).into_iter().map(Status::from).collect();
        statuses.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        statuses
    }

    /// The number of adapters that are not in service because their files cannot be loaded. Does not touch the disk.
    pub(crate) fn broken(&self) -> usize {
        self.shared.with(|state| state.broken())
    }

    /// The adapters in service of which the files on disk are not served, in order of name, and why.
    pub(crate) fn unserved(&self) -> Vec<(Arc<str>, Cause)> {
        let mut unserved = self.shared.with(|state| state.unserved());
        unserved.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        unserved
    }

    /// The status of one adapter. An adapter that was never loaded is loaded.
    ///
    /// # Errors
    /// As for [`Registry::pin`].
    pub async fn describe(self: &Arc<Self>, name: &str) -> Result<Status, RegistryError> {
        let known = self.shared.with(|state| state.snapshot(name).filter(|known| known.generation.is_some()));
        match known {
            Some(snapshot) if snapshot.tier != Tier::Disk => {
                self.ready()?;
                // A client that waits for a new version may ask only here, so this question has the files looked at, too.
                self.shared.with(|state| state.touch(&snapshot.name));
                return Ok(snapshot.into());
            }
            Some(_) => return self.order(name, OrderKind::Describe, None).await,
            None => {}
        }
        let _pin = self.pin(name).await?;
        let snapshot = self.shared.with(|state| state.snapshot(name));
        snapshot.map(Status::from).ok_or_else(|| RegistryError::NotFound { name: name.into() })
    }

    /// Whether the adapters' folder was there at the last look.
    ///
    /// # Errors
    /// If it is gone.
    pub fn ready(&self) -> Result<(), RegistryError> {
        if self.shared.with(|state| state.root_gone) { Err(RegistryError::RootGone) } else { Ok(()) }
    }

    /// What the registry has done since it was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.with(|state| state.counters)
    }

    /// Bytes of the adapters in memory, including versions out of service that requests still use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.with(|state| state.residents.bytes())
    }

    /// Number of versions in memory.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.shared.with(|state| state.residents.len())
    }

    /// Answers everybody who waits for an adapter with an error, and loads nothing more. Pins stay valid.
    pub fn close(&self) {
        self.shared.with(State::stop);
        self.shared.loader.stop();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.close();
    }
}
