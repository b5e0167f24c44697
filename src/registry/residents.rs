//! The versions in memory, by (name, generation), within a budget of bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::RegistryError;
use crate::adapter::Adapter;

/// One version of one adapter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
}

/// The residents, which the pins share.
#[derive(Default)]
pub(super) struct Shared(Mutex<Residents>);

impl Shared {
    /// Locks the residents. A panic in another thread does not matter, because they are consistent after every statement.
    pub(super) fn lock(&self) -> MutexGuard<'_, Residents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The versions in memory.
pub(super) struct Residents {
    /// The versions, most recently used first.
    versions: LruCache<Key, Resident>,
    /// The sum of the versions' bytes.
    bytes: usize,
}

struct Resident {
    adapter: Arc<Adapter>,
    /// The number of live pins.
    pins: usize,
}

impl Default for Residents {
    fn default() -> Self {
        Self { versions: LruCache::unbounded(), bytes: 0 }
    }
}

impl Residents {
    /// Pins the adapter once more and marks it as used; `None` if it is not in memory.
    pub(super) fn take(&mut self, key: &Key) -> Option<Arc<Adapter>> {
        let resident = self.versions.get_mut(key)?;
        resident.pins += 1;
        Some(Arc::clone(&resident.adapter))
    }

    /// Pins a version once more. A pinned version is always in memory.
    pub(super) fn pin(&mut self, key: &Key) {
        if let Some(resident) = self.versions.peek_mut(key) {
            resident.pins += 1;
        }
    }

    /// Releases a pin.
    pub(super) fn unpin(&mut self, key: &Key) {
        if let Some(resident) = self.versions.peek_mut(key) {
            resident.pins = resident.pins.saturating_sub(1);
        }
    }

    /// Inserts a version with one pin. [`Self::make_room`] must have made room for it.
    pub(super) fn insert(&mut self, key: Key, adapter: Arc<Adapter>) {
        self.bytes += adapter.bytes();
        if let Some(before) = self.versions.put(key, Resident { adapter, pins: 1 }) {
            self.bytes -= before.adapter.bytes();
        }
    }

    /// Evicts versions without pins, least recently used first, until `bytes` more fit into `budget`. If they cannot fit, evicts
    /// nothing.
    pub(super) fn make_room(&mut self, name: &str, bytes: usize, budget: usize) -> Result<(), RegistryError> {
        if bytes > budget {
            return Err(RegistryError::TooLarge { name: name.into(), bytes, budget });
        }
        let mut left = self.bytes;
        let mut leaving = Vec::new();
        for (key, resident) in self.versions.iter().rev() {
            if left + bytes <= budget {
                break;
            }
            if resident.pins == 0 {
                left -= resident.adapter.bytes();
                leaving.push(key.clone());
            }
        }
        if left + bytes > budget {
            return Err(RegistryError::Busy { name: name.into(), bytes, held: left, budget });
        }
        for key in leaving {
            self.versions.pop(&key);
            tracing::info!(adapter = &*key.name, generation = key.generation, "evicted");
        }
        self.bytes = left;
        Ok(())
    }

    /// Whether a version is in memory.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.versions.contains(key)
    }

    /// Bytes of all versions in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of versions in memory.
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }
}
