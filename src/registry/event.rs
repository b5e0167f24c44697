//! What happens to adapters, as it is logged.

use std::sync::Arc;

use super::residents::Key;

/// Something that an operator may want to know.
pub(super) enum Event {
    /// A version came into memory: the first of its adapter, or `again` after it had been evicted.
    Loaded { key: Key, bytes: usize, again: bool },
    /// A version took the place of an older one.
    Swapped { key: Key, before: u64, bytes: usize },
    /// A version left memory for another.
    Evicted { key: Key },
    /// An adapter that was asked cannot be loaded.
    Failed { name: Arc<str>, reason: String },
    /// A newer version on disk is not served.
    Refused { name: Arc<str>, reason: String },
    /// An adapter's folder is gone, or it was taken out of service by a request.
    Removed { key: Key },
    /// An adapter is served although it may not fit.
    Warning { name: Arc<str>, warning: String },
    /// The adapters' folder is gone, or it is there again.
    Root { gone: bool },
}

impl Event {
    pub(super) fn log(&self) {
        match self {
            // With memory for a part of the adapters, these come with every other request.
            Self::Loaded { key, bytes, again: true } => {
                tracing::debug!(adapter = &*key.name, generation = key.generation, bytes, "loaded again");
            }
            Self::Loaded { key, bytes, again: false } => {
                tracing::info!(adapter = &*key.name, generation = key.generation, bytes, "loaded");
            }
            Self::Swapped { key, before, bytes } => {
                tracing::info!(adapter = &*key.name, generation = key.generation, before, bytes, "swapped");
            }
            Self::Evicted { key } => {
                tracing::debug!(adapter = &*key.name, generation = key.generation, "evicted");
            }
            Self::Failed { name, reason } => tracing::warn!(adapter = &**name, reason, "cannot be loaded"),
            Self::Refused { name, reason } => {
                tracing::warn!(adapter = &**name, reason, "a newer version on disk is not served");
            }
            Self::Removed { key } => {
                tracing::info!(adapter = &*key.name, generation = key.generation, "out of service");
            }
            Self::Warning { name, warning } => tracing::warn!(adapter = &**name, "{warning}"),
            Self::Root { gone: true } => tracing::error!("the adapters' folder is gone"),
            Self::Root { gone: false } => tracing::info!("the adapters' folder is there again"),
        }
    }
}
