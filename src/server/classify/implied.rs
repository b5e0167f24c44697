//! The adapter of a request that names none: the one that the request's host names, or else the default adapter.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::super::app::App;
use super::super::error::ApiError;
use crate::registry::{Pin, RegistryError};

/// For this long it counts as known that a host names no adapter. After that, it is looked up again beside the requests.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// The maximum number of hosts of which this is known.
const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// The hosts that named no adapter a moment ago. Without it, each request of such a host would wait for the disk, although the default
/// adapter is in memory.
pub(in crate::server) struct Strangers(Mutex<LruCache<String, Stranger>>);

struct Stranger {
    since: Instant,
    /// Whether the name is being looked up again.
    asked: bool,
}

/// What is known of a host's name.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    /// It names no adapter.
    Stranger,
    /// It named no adapter, and the caller should look it up again.
    Old,
}

impl Strangers {
    pub(in crate::server) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }

    fn known(&self, name: &str, now: Instant) -> Known {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_mut(name) {
            None => Known::Nothing,
            Some(stranger) if stranger.asked || now.saturating_duration_since(stranger.since) < KNOWN_FOR => {
                Known::Stranger
            }
            Some(stranger) => {
                stranger.asked = true;
                Known::Old
            }
        }
    }

    /// Notes whether a name that was looked up is a stranger.
    fn note(&self, name: &str, is_stranger: bool, now: Instant) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_stranger {
            names.put(name.to_owned(), Stranger { since: now, asked: false });
        } else {
            names.pop(name);
        }
    }
}

/// Pins the adapter that the host names, or else the default adapter. Upper and lower case are the same in a host, so that the adapter
/// may also have the host's name in lower case.
pub(super) async fn pin(app: &Arc<App>, host: Option<String>) -> Result<Pin, ApiError> {
    let lower = host.as_ref().map(|name| name.to_ascii_lowercase()).filter(|lower| host.as_ref() != Some(lower));
    for name in host.iter().chain(&lower) {
        if let Some(pin) = named(app, name).await? {
            return Ok(pin);
        }
    }
    match &app.config().default_adapter {
        Some(name) => Ok(app.registry().pin(name).await?),
        None => Err(ApiError::NoAdapter { host }),
    }
}

/// The adapter of this name; `None` if there is none.
async fn named(app: &Arc<App>, name: &str) -> Result<Option<Pin>, ApiError> {
    if let Some(pin) = app.registry().pinned(name) {
        return Ok(Some(pin));
    }
    // An adapter that was taken out of service is missed. Another one's answer would hide that.
    if app.registry().is_withdrawn(name) {
        return Err(RegistryError::NotFound { name: name.into() }.into());
    }
    let known = match &app.config().default_adapter {
        Some(_) => app.strangers().known(name, Instant::now()),
        None => Known::Nothing,
    };
    match known {
        Known::Stranger => Ok(None),
        Known::Old => {
            let (app, name) = (Arc::clone(app), name.to_owned());
            tokio::spawn(async move { look_up(&app, &name).await });
            Ok(None)
        }
        Known::Nothing => Ok(look_up(app, name).await?),
    }
}

/// Looks for the adapter of this name, also on the disk.
async fn look_up(app: &Arc<App>, name: &str) -> Result<Option<Pin>, RegistryError> {
    let found = match app.registry().pin(name).await {
        Err(RegistryError::NotFound { .. }) if app.registry().is_withdrawn(name) => {
            Err(RegistryError::NotFound { name: name.into() })
        }
        Err(RegistryError::NotFound { .. } | RegistryError::OutsideRoot { .. }) => Ok(None),
        found => found.map(Some),
    };
    app.strangers().note(name, matches!(found, Ok(None)), Instant::now());
    found
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
        assert_eq!(strangers.known("a", start + KNOWN_FOR), Known::Old);
        assert_eq!(strangers.known("a", start + 9 * KNOWN_FOR), Known::Stranger, "one request looks it up");
        strangers.note("a", false, start);
        assert_eq!(strangers.known("a", start), Known::Nothing);
        for i in 0..2 * MOST.get() {
            strangers.note(&i.to_string(), true, start);
        }
        assert_eq!(strangers.known("0", start), Known::Nothing);
    }
}
