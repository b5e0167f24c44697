//! The versions in memory, by (name, generation), within a budget of bytes. Nothing here reads a clock, a disk or another thread.

use std::sync::Arc;

use lru::LruCache;

use crate::adapter::Adapter;

/// One version of one adapter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
}

/// The versions in memory.
pub(super) struct Residents {
    /// The versions, most recently used first.
    versions: LruCache<Key, Resident>,
    /// The sum of the versions' bytes.
    bytes: usize,
    budget: usize,
}

struct Resident {
    adapter: Arc<Adapter>,
    /// The number of live pins.
    pins: usize,
    /// Whether it is never evicted for another adapter.
    kept: bool,
    /// Whether its files cannot be loaded again, so that it leaves after all others.
    unreadable: bool,
    /// Whether it gets no new pins, because another adapter waits for its room.
    draining: bool,
    /// Whether it is out of service. It leaves memory with its last pin.
    retired: bool,
}

/// Whether there is room for a further version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It fits once these versions are evicted. Nobody uses them.
    Now(Vec<Key>),
    /// It fits once the pins of these versions are gone.
    Later(Vec<Key>),
    /// It does not fit beside the versions that are never evicted, which have this many bytes.
    Never(usize),
}

impl Residents {
    pub(super) fn new(budget: usize) -> Self {
        Self { versions: LruCache::unbounded(), bytes: 0, budget }
    }

    /// Pins the version once more and marks it as used. `None` if it is not in memory, or gets no new pins.
    pub(super) fn take(&mut self, key: &Key) -> Option<Arc<Adapter>> {
        let resident = self.versions.get_mut(key).filter(|resident| !resident.draining && !resident.retired)?;
        resident.pins += 1;
        Some(Arc::clone(&resident.adapter))
    }

    /// Pins a version that is pinned already once more.
    pub(super) fn pin(&mut self, key: &Key) {
        if let Some(resident) = self.versions.peek_mut(key) {
            resident.pins += 1;
        }
    }

    /// Releases a pin. Returns the adapter if it left memory.
    pub(super) fn unpin(&mut self, key: &Key) -> Option<Arc<Adapter>> {
        let resident = self.versions.peek_mut(key)?;
        resident.pins = resident.pins.saturating_sub(1);
        if resident.retired && resident.pins == 0 { self.remove(key) } else { None }
    }

    /// Inserts a version, for which there must be room.
    pub(super) fn insert(&mut self, key: Key, adapter: Arc<Adapter>, kept: bool) {
        self.remove(&key);
        self.bytes += adapter.bytes();
        self.versions.put(key, Resident { adapter, pins: 0, kept, unreadable: false, draining: false, retired: false });
    }

    /// Takes a version out of service. It leaves memory with its last pin; returns it if that is now.
    pub(super) fn retire(&mut self, key: &Key) -> Option<Arc<Adapter>> {
        let resident = self.versions.peek_mut(key)?;
        resident.retired = true;
        if resident.pins == 0 { self.remove(key) } else { None }
    }

    /// Removes a version from memory.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Adapter>> {
        let resident = self.versions.pop(key)?;
        self.bytes -= resident.adapter.bytes();
        Some(resident.adapter)
    }

    /// Keeps a version in memory until it is out of service.
    pub(super) fn keep(&mut self, key: &Key) {
        if let Some(resident) = self.versions.peek_mut(key) {
            resident.kept = true;
        }
    }

    /// Notes whether a version's files can be loaded again.
    pub(super) fn set_unreadable(&mut self, key: &Key, unreadable: bool) {
        if let Some(resident) = self.versions.peek_mut(key) {
            resident.unreadable = unreadable;
        }
    }

    /// Whether `bytes` more fit into the budget, and what has to leave for it. `replaced` is the version that the new one replaces,
    /// which leaves first; after it, the least recently used leave first, and those that cannot be loaded again last.
    pub(super) fn fit(&self, bytes: usize, replaced: Option<&Key>) -> Fit {
        // Versions out of service leave by themselves.
        let retired = self.versions.iter().filter(|(_, resident)| resident.retired);
        let leaving: usize = retired.map(|(_, resident)| resident.adapter.bytes()).sum();
        let first = replaced.and_then(|key| self.versions.peek(key).map(|resident| (key, resident)));
        let others = self.versions.iter().rev().filter(|(key, resident)| !resident.kept && Some(*key) != replaced);
        let of = |unreadable| others.clone().filter(move |(_, resident)| resident.unreadable == unreadable);
        let candidates =
            || first.into_iter().chain(of(false)).chain(of(true)).filter(|(_, resident)| !resident.retired);
        let fit = |mut left: usize, unused: bool| {
            let mut keys = Vec::new();
            for (key, resident) in candidates() {
                if left + bytes <= self.budget {
                    break;
                }
                if !unused || resident.pins == 0 {
                    left -= resident.adapter.bytes();
                    keys.push(key.clone());
                }
            }
            if left + bytes <= self.budget { Ok(keys) } else { Err(left) }
        };
        match (fit(self.bytes, true), fit(self.bytes - leaving, false)) {
            (Ok(keys), _) => Fit::Now(keys),
            (Err(_), Ok(keys)) => Fit::Later(keys),
            (Err(_), Err(held)) => Fit::Never(held),
        }
    }

    /// Lets these versions have no new pins.
    pub(super) fn drain(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(resident) = self.versions.peek_mut(key) {
                resident.draining = true;
            }
        }
    }

    /// Lets all draining versions have new pins again, and returns their names.
    pub(super) fn undrain(&mut self) -> Vec<Arc<str>> {
        let draining = self.versions.iter_mut().filter(|(_, resident)| resident.draining);
        draining
            .map(|(key, resident)| {
                resident.draining = false;
                Arc::clone(&key.name)
            })
            .collect()
    }

    /// Whether a version is in memory.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.versions.contains(key)
    }

    /// Whether a version is in memory and never evicted.
    pub(super) fn is_kept(&self, key: &Key) -> bool {
        self.versions.peek(key).is_some_and(|resident| resident.kept)
    }

    /// Bytes of the versions that cannot be evicted now.
    pub(super) fn held(&self) -> usize {
        let held = self.versions.iter().filter(|(_, resident)| resident.pins > 0 || resident.kept);
        held.map(|(_, resident)| resident.adapter.bytes()).sum()
    }

    /// The versions in memory, most recently used first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.versions.iter().map(|(key, _)| key)
    }

    /// Bytes of all versions in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most bytes that all versions may have together.
    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// Number of versions in memory.
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }
}
