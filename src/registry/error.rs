//! Why a name has no adapter to give.

use std::sync::Arc;

use crate::engine::Error;

/// Why a name has no adapter to give.
#[derive(Debug, Clone, thiserror::Error)]
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
