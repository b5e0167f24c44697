//! Decides which requests are accepted. A request must fit into the queue and into its adapter's share of the queue, and its answer
//! must be expected before its deadline. Any other request is refused at once, with the time after which it would be accepted. These
//! are pure functions: the queue passes in the numbers.
//!
//! # Shares
//!
//! A flow (the waiting requests of an adapter) may hold at most [`SHARE`] times as many tokens as the queue has free. This is the
//! dynamic threshold by which switches share their buffers among ports (Choudhury and Hahne, 1998). However much one adapter is asked,
//! it alone fills at most four fifths of the queue, plus one request. `n` such adapters fill `4 n / (4 n + 1)` of it. The rest stays
//! free for the other adapters, whose first requests are always accepted while there is room. When the queue fills up, the flow that
//! holds the most is refused first.

use std::time::Duration;

use thiserror::Error;

/// The reason why a request was not accepted.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refused {
    /// The request does not fit into the queue.
    #[error("{queued} tokens are queued; {tokens} more would exceed {limit}")]
    Overloaded {
        /// Tokens in the queue.
        queued: usize,
        /// Tokens of the request.
        tokens: usize,
        /// The maximum number of tokens in the queue.
        limit: usize,
        /// When the request is expected to be accepted, in whole seconds, at least 1.
        retry_after: Duration,
    },
    /// The request fits into the queue, but its adapter would take more than its share of the queue.
    #[error("{held} tokens of this adapter are queued; {tokens} more would exceed its share of the queue, {share}")]
    ShareExceeded {
        /// Tokens of the adapter in the queue.
        held: usize,
        /// Tokens of the request.
        tokens: usize,
        /// The maximum number of tokens of one adapter now.
        share: usize,
        /// When the request is expected to be accepted, in whole seconds, at least 1.
        retry_after: Duration,
    },
    /// The request fits into the queue, but would not be answered in time.
    #[error(
        "{ahead} tokens run first: at {rate:.0} tokens a second this request would not be answered within {timeout:?}"
    )]
    DeadlineExceeded {
        /// Tokens that run before the request.
        ahead: usize,
        /// Tokens a second.
        rate: f64,
        /// How long the request may take.
        timeout: Duration,
        /// When the request is expected to be accepted, in whole seconds, at least 1.
        retry_after: Duration,
    },
    /// The server is shutting down.
    #[error("shutting down")]
    Draining,
}

/// How long batches must have run before their rate is trusted, as a share of a request's time-out. The first batches are slow,
/// because the base's pages are still being loaded.
const EVIDENCE: f64 = 1.0 / 32.0;

/// The estimated time until a request's answer may fill this share of its time-out, because the next batches may run slower than the
/// last ones.
const MARGIN: f64 = 0.8;

/// A flow may hold this many times as many tokens as the queue has free.
const SHARE: usize = 4;

/// The rules of admission.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    /// The maximum number of tokens in the queue.
    pub(super) limit: usize,
    /// How long a request may take, unless its own deadline is earlier.
    pub(super) timeout: Duration,
}

/// The work that comes before a new request, and the speed at which it is done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    /// Tokens in the queue.
    pub(super) waiting: usize,
    /// Tokens of the batch that runs.
    pub(super) running: usize,
    /// The speed.
    pub(super) throughput: Throughput,
}

/// A request that asks to be accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Tokens of the request.
    pub(super) tokens: usize,
    /// Tokens in the queue that wait in the request's flow.
    pub(super) held: usize,
    /// Tokens in the queue that run before the request.
    pub(super) ahead: usize,
    /// The time until the request's own deadline, if it has one.
    pub(super) time: Option<Duration>,
}

impl Admission {
    /// Whether a request is accepted.
    pub(super) fn check(&self, load: &Load, candidate: &Candidate) -> Result<(), Refused> {
        let &Candidate { tokens, held, ahead, time } = candidate;
        // An empty queue accepts any request. Otherwise a request that is larger than the whole queue would never be accepted. A
        // request's own deadline is an exception while a batch runs, but not on an idle server, because only batches measure the speed.
        if load.waiting == 0 && (time.is_none() || load.running == 0) {
            return Ok(());
        }
        let retry_after = || self.retry_after(load, candidate);
        if load.waiting > 0 && load.waiting.saturating_add(tokens) > self.limit {
            let (queued, limit) = (load.waiting, self.limit);
            return Err(Refused::Overloaded { queued, tokens, limit, retry_after: retry_after() });
        }
        let share = self.limit.saturating_sub(load.waiting).saturating_mul(SHARE);
        if held > 0 && held.saturating_add(tokens) > share {
            return Err(Refused::ShareExceeded { held, tokens, share, retry_after: retry_after() });
        }
        let (ahead, timeout) = (load.running.saturating_add(ahead), self.time(candidate));
        match load.throughput.rate(timeout.as_secs_f64() * EVIDENCE) {
            Some(rate) if ahead.saturating_add(tokens) as f64 > timeout.as_secs_f64() * MARGIN * rate => {
                Err(Refused::DeadlineExceeded { ahead, rate, timeout, retry_after: retry_after() })
            }
            _ => Ok(()),
        }
    }

    /// How long the request may take.
    fn time(&self, candidate: &Candidate) -> Duration {
        candidate.time.map_or(self.timeout, |time| time.min(self.timeout))
    }

    /// When a refused request is expected to be accepted: the tokens that must run first, divided by the measured rate. It is in whole
    /// seconds, rounded up, and at least 1. It is at most the time-out, after which every request that waits now has been answered.
    fn retry_after(&self, load: &Load, candidate: &Candidate) -> Duration {
        let &Candidate { tokens, held, ahead, .. } = candidate;
        let must_run = |rate: f64| {
            let over_limit = load.waiting.saturating_add(tokens).saturating_sub(self.limit);
            // The flow's own tokens become fewer as well, which would only make it sooner.
            let free = if held > 0 { held.saturating_add(tokens).div_ceil(SHARE) } else { 0 };
            let over_share = load.waiting.saturating_add(free).saturating_sub(self.limit);
            let over_room = over_limit.max(over_share).min(load.waiting);
            // Tokens leave the queue when their batch starts, which is after the batch that runs now.
            let for_room = if over_room > 0 { load.running.saturating_add(over_room) } else { 0 };
            let in_time = self.time(candidate).as_secs_f64() * MARGIN * rate;
            let for_deadline = load.running.saturating_add(ahead).saturating_add(tokens) as f64 - in_time;
            // An empty queue accepts every request.
            (for_room as f64).max(for_deadline).min(load.running.saturating_add(load.waiting) as f64)
        };
        let seconds = load.throughput.rate(0.0).map_or(0.0, |rate| must_run(rate) / rate);
        let most = self.timeout.as_secs_f64().ceil().max(1.0);
        Duration::from_secs(seconds.ceil().clamp(1.0, most) as u64)
    }
}

/// How fast recent batches ran: tokens divided by seconds. Older batches weigh less. Large batches weigh more than small ones, because
/// a full queue produces large batches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Throughput {
    tokens: f64,
    seconds: f64,
}

impl Throughput {
    /// Seconds of work after which an earlier batch weighs a third.
    const MEMORY: f64 = 5.0;

    /// A batch counts as at most this many times slower than those before it.
    const SLOWEST: u32 = 20;

    /// Adds the measurement of a batch. One that took far too long counts only in part: the process may have been stopped meanwhile, as by
    /// a debugger or while the machine slept, which says nothing about the device. That a device has become slow shows within a few
    /// batches.
    pub(super) fn learn(&mut self, tokens: usize, took: Duration) {
        let most = self.time_of(tokens).map_or(took, |expected| expected.saturating_mul(Self::SLOWEST));
        let took = took.min(most);
        let keep = (-took.as_secs_f64() / Self::MEMORY).exp();
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    /// Tokens a second; `None` while fewer than `least` seconds were measured.
    fn rate(&self, least: f64) -> Option<f64> {
        (self.tokens > 0.0 && self.seconds > 0.0 && self.seconds >= least).then(|| self.tokens / self.seconds)
    }

    /// The tokens that run in `time`; `None` if nothing was measured yet.
    pub(super) fn tokens_in(&self, time: Duration) -> Option<usize> {
        self.rate(0.0).map(|rate| (rate * time.as_secs_f64()) as usize)
    }

    /// The time in which `tokens` tokens run; `None` if nothing was measured yet.
    pub(super) fn time_of(&self, tokens: usize) -> Option<Duration> {
        let seconds = tokens as f64 / self.rate(0.0)?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// `rate` tokens a second, measured for a second.
    fn load(waiting: usize, running: usize, rate: usize) -> Load {
        let mut throughput = Throughput::default();
        throughput.learn(rate, Duration::from_secs(1));
        Load { waiting, running, throughput }
    }

    /// A request of a flow that is empty, behind everything that waits.
    fn newcomer(load: &Load, tokens: usize) -> Candidate {
        Candidate { tokens, held: 0, ahead: load.waiting, time: None }
    }

    /// Whether a request of `tokens` tokens of an empty flow is accepted.
    fn check(admission: Admission, load: &Load, tokens: usize) -> Result<(), Refused> {
        admission.check(load, &newcomer(load, tokens))
    }

    fn admission(limit: usize, seconds: u64) -> Admission {
        Admission { limit, timeout: Duration::from_secs(seconds) }
    }

    fn retry_after(refused: &Refused) -> u64 {
        match refused {
            Refused::Overloaded { retry_after, .. }
            | Refused::ShareExceeded { retry_after, .. }
            | Refused::DeadlineExceeded { retry_after, .. } => {
                assert_eq!(retry_after.subsec_nanos(), 0);
                retry_after.as_secs()
            }
            Refused::Draining => unreachable!(),
        }
    }

    #[test]
    fn accepts_request_with_room_and_time() {
        check(admission(100, 30), &load(60, 10, 10), 40).unwrap();
        // The speed is not known yet.
        let load = Load { waiting: 60, running: 10_000, throughput: Throughput::default() };
        check(admission(100, 1), &load, 40).unwrap();
    }

    #[test]
    fn empty_queue_accepts_request_larger_than_the_queue() {
        check(admission(100, 1), &load(0, 10_000, 1), usize::MAX).unwrap();
        assert!(matches!(check(admission(100, 1), &load(1, 0, 1), usize::MAX), Err(Refused::Overloaded { .. })));
    }

    #[test]
    fn full_queue_estimates_when_there_is_room() {
        // 80 + 50 exceed 100 by 30 tokens, which leave the queue after the 20 that run: 50 tokens at 10 a second.
        let refused = check(admission(100, 3600), &load(80, 20, 10), 50).unwrap_err();
        assert!(matches!(refused, Refused::Overloaded { queued: 80, tokens: 50, limit: 100, .. }), "{refused:?}");
        assert_eq!(retry_after(&refused), 5);
        // Rounded up.
        assert_eq!(retry_after(&check(admission(100, 3600), &load(80, 21, 10), 50).unwrap_err()), 6);
        // A request larger than the queue waits until the queue is empty.
        assert_eq!(retry_after(&check(admission(100, 3600), &load(80, 20, 10), 1000).unwrap_err()), 10);
        // There is room almost at once, but 1 second is the minimum.
        assert_eq!(retry_after(&check(admission(100, 3600), &load(80, 20, 100_000), 50).unwrap_err()), 1);
    }

    #[test]
    fn exceeded_deadline_estimates_when_it_can_be_met() {
        // 80% of 10 s are 8 s, in which 80 tokens run. 100 tokens come first, and 10 are the request's: 30 too many, at 10 a second.
        let refused = check(admission(1000, 10), &load(90, 10, 10), 10).unwrap_err();
        assert!(matches!(refused, Refused::DeadlineExceeded { ahead: 100, .. }), "{refused:?}");
        assert_eq!(retry_after(&refused), 3);
    }

    #[test]
    fn full_queue_estimate_includes_the_deadline() {
        // One token too many for the queue, and 130 tokens too many for the deadline.
        let refused = check(admission(100, 10), &load(91, 109, 10), 10).unwrap_err();
        assert!(matches!(refused, Refused::Overloaded { .. }), "{refused:?}");
        assert_eq!(retry_after(&refused), 10, "13, but at most the time-out");
        assert_eq!(retry_after(&check(admission(100, 10), &load(91, 49, 10), 10).unwrap_err()), 7);
    }

    #[test]
    fn unknown_speed_estimates_one_second() {
        let load = Load { waiting: 100, running: 100, throughput: Throughput::default() };
        assert_eq!(retry_after(&check(admission(100, 30), &load, 1).unwrap_err()), 1);
    }

    #[test]
    fn recent_batches_weigh_more() {
        let mut throughput = Throughput::default();
        assert_eq!(throughput.rate(0.0), None);
        for _ in 0..100 {
            throughput.learn(10, Duration::from_secs(1));
        }
        assert!((throughput.rate(1.0).unwrap() - 10.0).abs() < 1e-9);
        for _ in 0..20 {
            throughput.learn(1000, Duration::from_secs(1));
        }
        assert!(throughput.rate(1.0).unwrap() > 900.0);
        assert_eq!(throughput.rate(1000.0), None, "too little was measured");
    }

    #[test]
    fn own_deadline_counts_if_it_is_earlier() {
        let load = load(50, 10, 10);
        let asks = |time| admission(1000, 10).check(&load, &Candidate { time, ..newcomer(&load, 10) });
        // 70 tokens at 10 a second are 7 s, which must be 80% of the time.
        asks(None).unwrap();
        asks(Some(Duration::from_secs(60))).unwrap();
        asks(Some(Duration::from_secs(9))).unwrap();
        let time = Duration::from_secs(8);
        let refused = asks(Some(time)).unwrap_err();
        assert!(
            matches!(refused, Refused::DeadlineExceeded { ahead: 60, timeout, .. } if timeout == time),
            "{refused:?}"
        );
        // What runs before the request matters, not what waits.
        let soon = Candidate { ahead: 5, time: Some(Duration::from_secs(4)), ..newcomer(&load, 10) };
        admission(1000, 10).check(&load, &soon).unwrap();
    }

    #[test]
    fn own_deadline_also_counts_for_an_empty_queue() {
        let asks = |running| {
            let load = load(0, running, 10);
            let time = Some(Duration::from_secs(1));
            admission(1000, 10).check(&load, &Candidate { time, ..newcomer(&load, 5) })
        };
        asks(3).unwrap();
        assert!(matches!(asks(4).unwrap_err(), Refused::DeadlineExceeded { ahead: 4, .. }));
        // Otherwise an idle server that was slow once would refuse for ever.
        asks(0).unwrap();
    }

    #[test]
    fn flow_with_more_than_its_share_is_refused_first() {
        let load = load(80, 20, 10);
        let asks = |held, tokens| admission(100, 3600).check(&load, &Candidate { held, ..newcomer(&load, tokens) });
        let refused = asks(78, 10).unwrap_err();
        assert!(matches!(refused, Refused::ShareExceeded { held: 78, tokens: 10, share: 80, .. }), "{refused:?}");
        // 22 tokens must be free, and 20 are: 2 more leave the queue after the 20 that run, at 10 a second.
        assert_eq!(retry_after(&refused), 3);
        asks(70, 10).unwrap();
        asks(0, 20).unwrap();
        assert!(matches!(asks(78, 21).unwrap_err(), Refused::Overloaded { .. }), "no room for anyone");
    }

    proptest! {
        /// For any numbers, `retry_after` is at least one second and at most the time-out.
        #[test]
        fn retry_after_is_bounded(
            waiting in any::<usize>(), running in any::<usize>(), tokens in any::<usize>(), held in any::<usize>(),
            ahead in any::<usize>(), time in any::<Option<u32>>(), limit in any::<usize>(), rate in any::<u32>(),
            seconds in 1u64..10_000,
        ) {
            let time = time.map(|time| Duration::from_millis(time.into()));
            let candidate = Candidate { tokens, held, ahead, time };
            if let Err(refused) = admission(limit, seconds).check(&load(waiting, running, rate as usize), &candidate) {
                prop_assert!((1..=seconds).contains(&retry_after(&refused)), "{:?}", refused);
            }
        }

        /// Once as many tokens have run as run in the estimated time, the request is accepted.
        #[test]
        fn request_is_accepted_after_retry_after(
            waiting in 1usize..10_000, running in 0usize..1000, tokens in 1usize..2000, limit in 1usize..10_000,
            rate in 1usize..1000, seconds in 1u64..100, share in 0.0..1.0,
        ) {
            let admission = admission(limit, seconds);
            let asks = |load: &Load| {
                let held = (load.waiting as f64 * share) as usize;
                admission.check(load, &Candidate { held, ..newcomer(load, tokens) })
            };
            if let Err(refused) = asks(&load(waiting, running, rate)) {
                let retry_after = retry_after(&refused);
                let ran = rate * retry_after as usize;
                // With batches of one token each, the tokens of the running batch ran first.
                let left = (waiting + running).saturating_sub(ran);
                let later = load(left.min(waiting), left.saturating_sub(waiting), rate);
                prop_assert!(retry_after == seconds || asks(&later).is_ok());
            }
        }

        /// Adapters that send as much as they can leave room for one that has nothing in the queue.
        #[test]
        fn greedy_flows_leave_room_for_others(greedy in 1usize..20, size in 1usize..20, limit in 1000usize..10_000) {
            let mut held = vec![0; greedy];
            let mut accepted = true;
            while accepted {
                accepted = false;
                for flow in 0..greedy {
                    let load = load(held.iter().sum(), 1, 0);
                    let candidate = Candidate { held: held[flow], ..newcomer(&load, size) };
                    if admission(limit, 3600).check(&load, &candidate).is_ok() {
                        held[flow] += size;
                        accepted = true;
                    }
                }
            }
            let free = limit as f64 - held.iter().sum::<usize>() as f64;
            prop_assert!(free >= limit as f64 / (4 * greedy + 1) as f64 - (size * greedy) as f64, "{} free", free);
            let (least, most) = (held.iter().min().copied(), held.iter().max().copied());
            prop_assert!(most <= least.map(|least| least + size), "{:?}", held);
        }
    }
    /// As after SIGSTOP and SIGCONT: a batch that seems to have taken a minute.
    #[test]
    fn pause_of_the_process_is_not_taken_for_a_slow_device() {
        let mut throughput = Throughput::default();
        for _ in 0..100 {
            throughput.learn(100, Duration::from_millis(10));
        }
        throughput.learn(100, Duration::from_secs(60));
        let rate = throughput.tokens_in(Duration::from_secs(1)).unwrap();
        assert!(rate > 5000, "{rate}");
        // A device that is slow from now on is learned.
        for _ in 0..20 {
            throughput.learn(100, Duration::from_secs(1));
        }
        let rate = throughput.tokens_in(Duration::from_secs(1)).unwrap();
        assert!(rate < 200, "{rate}");
    }
}
