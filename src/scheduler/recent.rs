//! The flows that had requests lately, by which the queue sees that a light flow may be back at any moment.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A flow counts as recent for this long after its last request.
const LATELY: Duration = Duration::from_secs(1);

/// The recent flows, with the time of their last request.
pub(super) struct Recent<K>(HashMap<K, Instant>);

impl<K: Eq + Hash> Recent<K> {
    /// No flow is recent.
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes that `flow` has a request at `now`.
    pub(super) fn note(&mut self, flow: K, now: Instant) {
        self.0.insert(flow, now);
    }

    /// Whether there is a recent flow for which nothing waits at `now`. It forgets the flows that are no longer recent.
    pub(super) fn any_away(&mut self, now: Instant, waits: impl Fn(&K) -> bool) -> bool {
        self.0.retain(|_, last| now.saturating_duration_since(*last) < LATELY);
        self.0.keys().any(|flow| !waits(flow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_is_away_until_it_is_forgotten() {
        let (mut recent, begun) = (Recent::new(), Instant::now());
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        assert!(!recent.any_away(at(0), |_| false));
        recent.note("a", at(0));
        recent.note("b", at(500));
        assert!(!recent.any_away(at(500), |_| true), "both wait");
        assert!(recent.any_away(at(600), |flow| *flow == "b"), "a was answered");
        assert!(!recent.any_away(at(1000), |flow| *flow == "b"), "a is forgotten");
        assert!(recent.any_away(at(1499), |_| false));
        assert!(!recent.any_away(at(1500), |_| false));
        recent.note("b", at(1500));
        assert!(recent.any_away(at(1501), |_| false));
    }
}
