//! A pin: a value that keeps a version of an adapter in memory.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::residents::{Key, Shared};
use crate::adapter::Adapter;

/// One version of an adapter, which stays in memory for as long as the pin lives. A clone is another pin.
pub struct Pin {
    key: Key,
    adapter: Arc<Adapter>,
    /// The requests that this version has answered, also before it was evicted and loaded again.
    requests: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl Pin {
    /// Makes the value of a pin that the residents have counted already.
    pub(super) fn counted(key: Key, adapter: Arc<Adapter>, requests: Arc<AtomicU64>, shared: Arc<Shared>) -> Self {
        Self { key, adapter, requests, shared }
    }

    /// The adapter's name, which is its folder's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// The version's generation. It increases with each new version, across all adapters of the registry.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.key.generation
    }

    /// The adapter. A clone of the `Arc` does not pin it: keep the pin for as long as the adapter is used.
    #[must_use]
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// Counts a request that was answered.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.shared.lock().pin(&self.key);
        let (adapter, requests) = (Arc::clone(&self.adapter), Arc::clone(&self.requests));
        Self { key: self.key.clone(), adapter, requests, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.lock().unpin(&self.key);
    }
}

impl Debug for Pin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({} {})", self.key.name, self.key.generation)
    }
}
