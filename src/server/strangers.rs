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
pub(super) struct Strangers(Mutex<LruCache<String, Stranger>>);

struct Stranger {
    since: Instant,
    /// Whether the name is being looked up again.
    asked: bool,
}

/// What is known of a host's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    /// It names no adapter.
    Stranger,
    /// It named no adapter, but that was long ago. This caller should look it up again.
    Expired,
}

impl Strangers {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }

    /// What is known of `name`. Once an entry has expired, only one caller gets [`Known::Expired`].
    pub(super) fn known(&self, name: &str, now: Instant) -> Known {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_mut(name) {
            None => Known::Nothing,
            Some(stranger) if stranger.asked || now.saturating_duration_since(stranger.since) < KNOWN_FOR => {
                Known::Stranger
            }
            Some(stranger) => {
                stranger.asked = true;
                Known::Expired
            }
        }
    }

    /// Notes that a look-up failed, for example because the disk fails. The entry of `name` stays, and is looked up again later.
    pub(super) fn keep(&self, name: &str, now: Instant) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stranger) = names.get_mut(name) {
            *stranger = Stranger { since: now, asked: false };
        }
    }

    /// Notes whether a name that was looked up is a stranger.
    pub(super) fn note(&self, name: &str, is_stranger: bool, now: Instant) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_stranger {
            names.put(name.to_owned(), Stranger { since: now, asked: false });
        } else {
            names.pop(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_looked_up_again_by_one_request_at_a_time() {
        let (strangers, start) = (Strangers::new(), Instant::now());
        assert_eq!(strangers.known("a", start), Known::Nothing);
        strangers.note("a", true, start);
        assert_eq!(strangers.known("a", start + KNOWN_FOR / 2), Known::Stranger);
        assert_eq!(strangers.known("a", start + KNOWN_FOR), Known::Expired);
        assert_eq!(strangers.known("a", start + 9 * KNOWN_FOR), Known::Stranger, "one request looks it up");
        strangers.keep("a", start + 9 * KNOWN_FOR);
        assert_eq!(strangers.known("a", start + 9 * KNOWN_FOR), Known::Stranger, "the disk fails");
        assert_eq!(strangers.known("a", start + 10 * KNOWN_FOR), Known::Expired);
        strangers.note("a", false, start);
        assert_eq!(strangers.known("a", start), Known::Nothing);
        strangers.keep("a", start);
        assert_eq!(strangers.known("a", start), Known::Nothing);
        for i in 0..2 * MOST.get() {
            strangers.note(&i.to_string(), true, start);
        }
        assert_eq!(strangers.known("0", start), Known::Nothing);
    }
}
