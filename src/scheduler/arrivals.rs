//! How often flows had requests lately, by which the queue sees how soon a flow for which nothing waits will be back.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Seconds after which an earlier request weighs a third.
const MEMORY: f64 = 1.0;

/// A flow with fewer requests a second is forgotten. One request is, after 3 s.
const FORGOTTEN: f64 = 0.05;

/// The longest time for which a batch takes further rounds. Longer batches are hardly faster, and all requests wait for them.
pub(super) const BATCH_TIME: Duration = Duration::from_millis(30);

/// The requests of flows for which nothing waits that may be expected during one batch. Each of them would wait for the whole batch.
const HELD_UP: f64 = 0.1;

/// The rates of requests, by flow.
pub(super) struct Arrivals<K>(HashMap<K, Rate>);

/// A moving average of the requests a second.
struct Rate {
    at: Instant,
    requests: f64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { at: now, requests: 0.0 }
    }

    fn at(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.requests * (-elapsed / MEMORY).exp()
    }

    fn note(&mut self, now: Instant) {
        *self = Self { at: now, requests: self.at(now) + 1.0 / MEMORY };
    }
}

impl<K: Eq + Hash> Arrivals<K> {
    /// No flow had a request.
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes that `flow` has a request at `now`.
    pub(super) fn note(&mut self, flow: K, now: Instant) {
        self.0.entry(flow).or_insert_with(|| Rate::new(now)).note(now);
    }

    /// The time for which a batch takes further rounds if it begins at `now`: short if flows for which nothing waits have many requests.
    /// It forgets the flows that had none for a while.
    pub(super) fn batch_time(&mut self, now: Instant, waits: impl Fn(&K) -> bool) -> Duration {
        self.0.retain(|_, rate| rate.at(now) >= FORGOTTEN);
        let away = self.0.iter().filter(|(flow, _)| !waits(flow)).map(|(_, rate)| rate.at(now)).sum::<f64>();
        Duration::try_from_secs_f64(HELD_UP / away).map_or(BATCH_TIME, |time| time.min(BATCH_TIME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_short_while_other_flows_have_many_requests() {
        let (mut arrivals, begun) = (Arrivals::new(), Instant::now());
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        assert_eq!(arrivals.batch_time(at(0), |_| false), BATCH_TIME, "nobody is away");
        for second in 0..10 {
            arrivals.note("rare", at(1000 * second));
        }
        assert_eq!(
            arrivals.batch_time(at(9500), |_| false),
            BATCH_TIME,
            "one request a second is held up once in 30 batches"
        );
        for request in 0..200 {
            arrivals.note("light", at(9500 + 10 * request));
        }
        let now = at(11_500);
        assert_eq!(arrivals.batch_time(now, |flow| *flow == "light"), BATCH_TIME, "light waits");
        let time = arrivals.batch_time(now, |flow| *flow == "rare");
        assert!((Duration::from_micros(900)..Duration::from_micros(1300)).contains(&time), "{time:?} at 100 a second");
        assert!(arrivals.batch_time(at(13_500), |_| false) < BATCH_TIME, "some 12 a second still count");
        assert_eq!(arrivals.batch_time(at(16_500), |_| false), BATCH_TIME, "light is gone");
        assert!(arrivals.batch_time(at(21_500), |_| false) == BATCH_TIME && arrivals.0.is_empty(), "all are forgotten");
    }

    #[test]
    fn rates_are_those_of_the_requests() {
        let (mut rate, begun) = (Rate::new(Instant::now()), Instant::now());
        for request in 0..400 {
            rate.note(begun + Duration::from_millis(25 * request));
        }
        assert!((38.0..42.0).contains(&rate.at(begun + Duration::from_millis(9_990))), "40 a second");
    }
}
