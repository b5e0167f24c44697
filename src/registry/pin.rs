//! A pin: a value that keeps a version of an adapter in memory.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::residents::Key;
use crate::adapter::Adapter;

/// One version of an adapter, which stays in memory for as long as the pin lives. A clone is another pin.
pub struct Pin {
    taken: Taken,
    holder: Arc<dyn Holder>,
}

/// What counts the pins of each version: the registry's state.
pub(super) trait Holder: Send + Sync {
    /// Counts another pin of a version that is pinned.
    fn pin(self: Arc<Self>, key: &Key);

    /// Counts a pin less.
    fn unpin(self: Arc<Self>, key: &Key);
}

/// A version that the residents have counted a pin of.
#[derive(Clone)]
pub(super) struct Taken {
    pub(super) key: Key,
    pub(super) adapter: Arc<Adapter>,
    /// The requests that the adapter has answered.
    pub(super) requests: Arc<AtomicU64>,
}

impl Pin {
    pub(super) fn new(taken: Taken, holder: Arc<dyn Holder>) -> Self {
        Self { taken, holder }
    }

    /// The name under which the adapter was asked.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.taken.key.name
    }

    /// The version's generation. It increases with each new version, across all adapters of the registry.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.taken.key.generation
    }

    /// The adapter. A clone of the `Arc` does not pin it: keep the pin for as long as the adapter is used.
    #[must_use]
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.taken.adapter
    }

    /// Counts a request that was answered.
    pub fn count_request(&self) {
        self.taken.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        Arc::clone(&self.holder).pin(&self.taken.key);
        Self { taken: self.taken.clone(), holder: Arc::clone(&self.holder) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        Arc::clone(&self.holder).unpin(&self.taken.key);
    }
}

impl Debug for Pin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({} {})", self.name(), self.generation())
    }
}
