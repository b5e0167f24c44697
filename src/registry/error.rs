//! The errors of looking up, loading and replacing adapters.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::AdapterError;
use crate::engine::Error;

/// An error while an adapter is looked up by name, loaded or replaced.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// No folder of this name holds an adapter, or the adapter was taken out of service.
    #[error("no adapter is named {name:?}")]
    NotFound {
        /// The requested name.
        name: String,
    },
    /// A path leads outside the adapters' folder.
    #[error("adapter {name:?}: {file:?} leads outside the adapters' folder, or to that folder itself")]
    OutsideRoot {
        /// The requested name.
        name: String,
        /// The path that leads outside, relative to the root.
        file: String,
    },
    /// The adapters' folder itself does not exist.
    #[error("the adapters' folder is gone")]
    RootGone,
    /// The adapters' folder itself cannot be read.
    #[error("the adapters' folder cannot be read: {reason}")]
    RootUnreadable {
        /// The machine's reason.
        reason: String,
    },
    /// The files changed a moment ago or while they were read. They are loaded once they have stopped changing.
    #[error("the files of adapter {name:?} are still changing")]
    Changing {
        /// The requested name.
        name: String,
    },
    /// The files have changed since they were loaded, and only a `PUT` may replace the version in service.
    #[error(
        "the files of adapter {name:?}{} have changed since it was loaded; with manual updates, a PUT of this folder loads them",
        in_folder(name, folder)
    )]
    Changed {
        /// The requested name.
        name: String,
        /// The folder of the files, relative to the root.
        folder: PathBuf,
    },
    /// The adapter is malformed or was made for another base.
    #[error("adapter {name:?}: {reason}")]
    Invalid {
        /// The requested name.
        name: String,
        /// The file, the tensor, and the expected and found values; paths are relative to the root.
        reason: String,
        /// The original error. Logs do not print it as a cause, because it says the same as the reason, with whole paths.
        error: Arc<Error>,
    },
    /// The adapter names another base, and the registry was opened with [`super::Settings::strict_base`].
    #[error("adapter {name:?}: {warning}")]
    OtherBase {
        /// The requested name.
        name: String,
        /// The names of the two bases.
        warning: String,
    },
    /// Reading the adapter panicked: a bug.
    #[error("adapter {name:?}: reading it panicked: {reason}")]
    Panicked {
        /// The requested name.
        name: String,
        /// The panic's message.
        reason: String,
    },
    /// The adapter alone is larger than the budget.
    #[error("adapter {name:?} needs {bytes} bytes, more than the budget of {budget} bytes for all adapters")]
    TooLarge {
        /// The requested name.
        name: String,
        /// The bytes that it needs in memory.
        bytes: usize,
        /// The budget for all adapters, in bytes.
        budget: usize,
    },
    /// The adapter does not fit beside the preloaded adapters, which stay in memory.
    #[error("adapter {name:?} needs {bytes} bytes, but preloaded adapters hold {held} of the budget of {budget} bytes")]
    NoRoom {
        /// The requested name.
        name: String,
        /// The bytes that it needs in memory.
        bytes: usize,
        /// Bytes of the preloaded adapters.
        held: usize,
        /// The budget for all adapters, in bytes.
        budget: usize,
    },
    /// Several adapters of one request do not fit into the budget at once.
    #[error(
        "the {adapters} adapters of the request need {bytes} bytes, more than the budget of {budget} bytes for all adapters"
    )]
    TooLargeTogether {
        /// How many different adapters the request asks.
        adapters: usize,
        /// The bytes that they need in memory.
        bytes: usize,
        /// The budget for all adapters, in bytes.
        budget: usize,
    },
    /// The adapter fits the budget, but adapters in use left too little of it for as long as the request could wait.
    #[error("adapter {name:?} needs {bytes} bytes, but adapters in use hold {held} of the budget of {budget} bytes")]
    Busy {
        /// The requested name.
        name: String,
        /// The bytes that it needs in memory.
        bytes: usize,
        /// Bytes of the adapters in use.
        held: usize,
        /// The budget for all adapters, in bytes.
        budget: usize,
    },
    /// The adapter fits the budget, but the device has too little free memory for it.
    #[error("adapter {name:?}: {needed} bytes do not fit into the device's memory, of which {free} bytes are free")]
    DeviceMemory {
        /// The requested name.
        name: String,
        /// The bytes that could not be allocated.
        needed: usize,
        /// The bytes that were free.
        free: usize,
    },
    /// No more requests may wait for this adapter.
    #[error("{limit} requests wait for adapter {name:?} already")]
    TooManyWaiters {
        /// The requested name.
        name: String,
        /// The maximum number of waiting requests.
        limit: usize,
    },
    /// No more adapters may wait for the disk.
    #[error("{limit} adapters wait to be loaded already")]
    TooManyLoads {
        /// The maximum number of waiting adapters.
        limit: usize,
    },
    /// No more requests may wait for the list of adapters.
    #[error("{limit} requests wait for the list of adapters already")]
    TooManyLists {
        /// The maximum number of waiting requests.
        limit: usize,
    },
    /// The adapter's files are being read, and the disk has not answered for a long time.
    #[error("adapter {name:?} has been loading for {taken:?}")]
    Slow {
        /// The requested name.
        name: String,
        /// The time since the load began.
        taken: Duration,
    },
    /// Another version is in service than the one that the caller expected.
    #[error("adapter {name:?}: expected {expected}, found {found}", found = generation(*found))]
    Stale {
        /// The requested name.
        name: String,
        /// What the caller expected.
        expected: super::Expected,
        /// The generation in service, if there is one.
        found: Option<u64>,
    },
    /// A `DELETE` took the adapter out of service after this version was put.
    #[error("adapter {name:?} was deleted while this version of it was read")]
    Deleted {
        /// The name that was put.
        name: String,
    },
    /// The registry is shutting down.
    #[error("the registry is shutting down")]
    Stopped,
}

fn generation(found: Option<u64>) -> String {
    found.map_or("no version in service".into(), |generation| format!("generation {generation}"))
}

/// What is at fault where an adapter cannot be made of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The files.
    Files,
    /// The disk, or a machine that is out of memory or of file handles.
    Machine,
    /// The base or the device.
    Engine,
}

impl Fault {
    /// What is at fault for an error of [`super::Source::load`].
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Adapter(AdapterError::Io { source, .. }) if !is_fault_of_file(source) => Self::Machine,
            Error::Adapter(AdapterError::Tensor(_) | AdapterError::Base(_)) => Self::Engine,
            Error::Adapter(_) => Self::Files,
            _ => Self::Engine,
        }
    }
}

/// Names the folder of an adapter that does not have the folder's name.
fn in_folder(name: &str, folder: &Path) -> String {
    if folder == Path::new(name) { String::new() } else { format!(", in the folder {folder:?},") }
}

impl RegistryError {
    /// Whether a load that ends like this has failed. It has not where the adapter does not exist, is still written, or waits for room.
    pub(super) fn is_failed_load(&self) -> bool {
        !matches!(
            self,
            Self::NotFound { .. }
                | Self::Changing { .. }
                | Self::Busy { .. }
                | Self::DeviceMemory { .. }
                | Self::Stale { .. }
                | Self::Deleted { .. }
        )
    }

    /// Whether it is about the adapter, and not only about a registry or a disk that fails.
    pub(crate) fn is_of_adapter(&self) -> bool {
        match self {
            Self::Invalid { error, .. } => Fault::of(error) != Fault::Machine,
            Self::TooManyWaiters { .. }
            | Self::TooManyLoads { .. }
            | Self::Slow { .. }
            | Self::RootGone
            | Self::RootUnreadable { .. }
            | Self::Stopped => false,
            _ => true,
        }
    }

    /// Whether there is no room for the files until others leave memory, of which there is no notice.
    pub(super) fn lacks_memory(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::DeviceMemory { .. })
    }

    /// Whether the same files may be read later, as where their permissions change.
    pub(super) fn may_pass(&self) -> bool {
        let Self::Invalid { error, .. } = self else { return false };
        matches!(&**error, Error::Adapter(AdapterError::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied)
    }

    /// Whether the files themselves are at fault, so that reading them again gives the same error.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Invalid { error, .. } => Fault::of(error) == Fault::Files,
            Self::OutsideRoot { .. }
            | Self::OtherBase { .. }
            | Self::Panicked { .. }
            | Self::TooLarge { .. }
            | Self::TooLargeTogether { .. }
            | Self::NoRoom { .. }
            | Self::Changed { .. } => true,
            _ => false,
        }
    }
}

/// Whether the file is at fault, rather than the machine.
fn is_fault_of_file(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
            | ErrorKind::FileTooLarge
            | ErrorKind::InvalidInput
    ) || error.raw_os_error() == Some(libc::ELOOP)
}
