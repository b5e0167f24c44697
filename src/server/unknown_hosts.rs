//! The hosts that name no adapter.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// For this long it counts as known that a host names no adapter. After that, it is looked up again beside the requests.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// The maximum number of hosts of which this is known.
const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// The hosts that named no adapter a moment ago. Without it, each request of such a host would wait for the disk, although the default
/// adapter is in memory.
pub(super) struct UnknownHosts(Mutex<LruCache<String, UnknownHost>>);

struct UnknownHost {
    since: Instant,
    /// Whether the name is being looked up again.
    asked: bool,
}

/// What is known of a host's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    /// It names no adapter.
    NoAdapter,
    /// It named no adapter, but that was long ago. This caller should look it up again.
    Expired,
}

impl UnknownHosts {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }

    /// What is known of `name`. Once an entry has expired, only one caller gets [`Known::Expired`].
    pub(super) fn known(&self, name: &str, now: Instant) -> Known {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_mut(name) {
            None => Known::Nothing,
            Some(host) if host.asked || now.saturating_duration_since(host.since) < KNOWN_FOR => Known::NoAdapter,
            Some(host) => {
                host.asked = true;
                Known::Expired
            }
        }
    }

    /// Notes that a look-up failed, for example because the disk fails. The entry of `name` stays, and is looked up again later.
    pub(super) fn keep(&self, name: &str, now: Instant) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = names.get_mut(name) {
            *host = UnknownHost { since: now, asked: false };
        }
    }

    /// Notes whether a name that was looked up names no adapter.
    pub(super) fn note(&self, name: &str, is_unknown: bool, now: Instant) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_unknown {
            names.put(name.to_owned(), UnknownHost { since: now, asked: false });
        } else {
            names.pop(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_hosts_are_looked_up_again_by_one_request_at_a_time() {
        let (unknown_hosts, start) = (UnknownHosts::new(), Instant::now());
        assert_eq!(unknown_hosts.known("a", start), Known::Nothing);
        unknown_hosts.note("a", true, start);
        assert_eq!(unknown_hosts.known("a", start + KNOWN_FOR / 2), Known::NoAdapter);
        assert_eq!(unknown_hosts.known("a", start + KNOWN_FOR), Known::Expired);
        assert_eq!(unknown_hosts.known("a", start + 9 * KNOWN_FOR), Known::NoAdapter, "one request looks it up");
        unknown_hosts.keep("a", start + 9 * KNOWN_FOR);
        assert_eq!(unknown_hosts.known("a", start + 9 * KNOWN_FOR), Known::NoAdapter, "the disk fails");
        assert_eq!(unknown_hosts.known("a", start + 10 * KNOWN_FOR), Known::Expired);
        unknown_hosts.note("a", false, start);
        assert_eq!(unknown_hosts.known("a", start), Known::Nothing);
        unknown_hosts.keep("a", start);
        assert_eq!(unknown_hosts.known("a", start), Known::Nothing);
        for i in 0..2 * MOST.get() {
            unknown_hosts.note(&i.to_string(), true, start);
        }
        assert_eq!(unknown_hosts.known("0", start), Known::Nothing);
    }
}
