//! The errors of looking up and loading adapters.

use std::sync::Arc;

use crate::engine::Error;

/// An error while an adapter is looked up by name or loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// No folder of this name holds an adapter.
    #[error("no adapter is named {name:?}")]
    NotFound {
        /// The requested name.
        name: String,
    },
    /// A symlink points outside the adapters' folder.
    #[error("adapter {name:?}: {file} is a link to outside the adapters' folder")]
    OutsideRoot {
        /// The requested name.
        name: String,
        /// The path that leads outside, relative to the root.
        file: String,
    },
    /// The files have changed since they were loaded.
    #[error("the files of adapter {name:?} have changed since it was loaded")]
    Changed {
        /// The requested name.
        name: String,
    },
    /// The adapter is malformed or was made for another base.
    #[error("adapter {name:?}: {reason}")]
    Invalid {
        /// The requested name.
        name: String,
        /// The file, the tensor, and the expected and found values; paths are relative to the root.
        reason: String,
        /// The original error.
        source: Arc<Error>,
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
    /// The adapter fits the budget, but pinned adapters leave too little of it.
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
}
