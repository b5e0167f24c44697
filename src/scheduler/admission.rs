//! Decides which requests are accepted. A request must fit into the queue, and its answer must be expected before its deadline. Any
//! other request is refused at once, with the time after which it would be accepted. These are pure functions: the queue passes in
//! the numbers.

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
    /// The request fits into the queue, but would not be answered in time.
    #[error(
        "{ahead} tokens run first: at {rate:.0} tokens a second this request would not be answered within {timeout:?}"
    )]
    DeadlineExceeded {
        /// Tokens that run or are in the queue.
        ahead: usize,
        /// Tokens a second.
        rate: f64,
        /// How long a request may take.
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

/// The rules of admission.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    /// The maximum number of tokens in the queue.
    pub(super) limit: usize,
    /// How long a request may take.
    pub(super) timeout: Duration,
}

/// The work that comes before a new request, and the speed at which it is done.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Tokens in the queue.
    pub(super) waiting: usize,
    /// Tokens of the batch that runs.
    pub(super) running: usize,
    pub(super) throughput: Throughput,
}

impl Admission {
    /// Whether a request of `tokens` tokens is accepted.
    pub(super) fn check(&self, load: &Load, tokens: usize) -> Result<(), Refused> {
        // An empty queue accepts any request. Otherwise a request that is larger than the whole queue would never be accepted.
        if load.waiting == 0 {
            return Ok(());
        }
        let retry_after = || self.retry_after(load, tokens);
        if load.waiting.saturating_add(tokens) > self.limit {
            let (queued, limit) = (load.waiting, self.limit);
            return Err(Refused::Overloaded { queued, tokens, limit, retry_after: retry_after() });
        }
        let (ahead, timeout) = (load.ahead(), self.timeout);
        match load.throughput.rate(timeout.as_secs_f64() * EVIDENCE) {
            Some(rate) if ahead.saturating_add(tokens) as f64 > self.tokens_in_time(rate) => {
                Err(Refused::DeadlineExceeded { ahead, rate, timeout, retry_after: retry_after() })
            }
            _ => Ok(()),
        }
    }

    /// How many tokens can run before the deadline of a request that arrives now.
    fn tokens_in_time(&self, rate: f64) -> f64 {
        self.timeout.as_secs_f64() * MARGIN * rate
    }

    /// When a refused request is expected to be accepted: the tokens that must run first, divided by the measured rate. It is in whole
    /// seconds, rounded up, and at least 1. It is at most the time-out, after which every request that waits now has been answered.
    fn retry_after(&self, load: &Load, tokens: usize) -> Duration {
        let must_run = |rate: f64| {
            let over_limit = load.waiting.saturating_add(tokens).saturating_sub(self.limit).min(load.waiting);
            // Tokens leave the queue when their batch starts, which is after the batch that runs now.
            let for_room = if over_limit > 0 { load.running.saturating_add(over_limit) } else { 0 };
            let for_deadline = load.ahead().saturating_add(tokens) as f64 - self.tokens_in_time(rate);
            // An empty queue accepts every request.
            (for_room as f64).max(for_deadline).min(load.ahead() as f64)
        };
        let seconds = load.throughput.rate(0.0).map_or(0.0, |rate| must_run(rate) / rate);
        let most = self.timeout.as_secs_f64().ceil().max(1.0);
        Duration::from_secs(seconds.ceil().clamp(1.0, most) as u64)
    }
}

impl Load {
    /// Tokens that come before a new request.
    fn ahead(&self) -> usize {
        self.running.saturating_add(self.waiting)
    }
}

/// How fast recent batches ran: tokens divided by seconds. Older batches weigh less. Large batches weigh more than small ones, because
/// a full queue produces large batches.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    tokens: f64,
    seconds: f64,
}

impl Throughput {
    /// Seconds of work after which an earlier batch weighs a third.
    const MEMORY: f64 = 5.0;

    /// Adds the measurement of a batch.
    pub(super) fn learn(&mut self, tokens: usize, took: Duration) {
        let keep = (-took.as_secs_f64() / Self::MEMORY).exp();
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    /// Tokens a second; `None` while fewer than `least` seconds were measured.
    fn rate(&self, least: f64) -> Option<f64> {
        (self.tokens > 0.0 && self.seconds > 0.0 && self.seconds >= least).then(|| self.tokens / self.seconds)
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

    fn admission(limit: usize, seconds: u64) -> Admission {
        Admission { limit, timeout: Duration::from_secs(seconds) }
    }

    fn retry_after(refused: &Refused) -> u64 {
        match refused {
            Refused::Overloaded { retry_after, .. } | Refused::DeadlineExceeded { retry_after, .. } => {
                assert_eq!(retry_after.subsec_nanos(), 0);
                retry_after.as_secs()
            }
            Refused::Draining => unreachable!(),
        }
    }

    #[test]
    fn accepts_request_with_room_and_time() {
        admission(100, 30).check(&load(60, 10, 10), 40).unwrap();
        // The speed is not known yet.
        let load = Load { waiting: 60, running: 10_000, throughput: Throughput::default() };
        admission(100, 1).check(&load, 40).unwrap();
    }

    #[test]
    fn empty_queue_accepts_request_larger_than_the_queue() {
        admission(100, 1).check(&load(0, 10_000, 1), usize::MAX).unwrap();
        assert!(matches!(admission(100, 1).check(&load(1, 0, 1), usize::MAX), Err(Refused::Overloaded { .. })));
    }

    #[test]
    fn full_queue_estimates_when_there_is_room() {
        // 80 + 50 exceed 100 by 30 tokens, which leave the queue after the 20 that run: 50 tokens at 10 a second.
        let refused = admission(100, 3600).check(&load(80, 20, 10), 50).unwrap_err();
        assert!(matches!(refused, Refused::Overloaded { queued: 80, tokens: 50, limit: 100, .. }), "{refused:?}");
        assert_eq!(retry_after(&refused), 5);
        // Rounded up.
        assert_eq!(retry_after(&admission(100, 3600).check(&load(80, 21, 10), 50).unwrap_err()), 6);
        // A request larger than the queue waits until the queue is empty.
        assert_eq!(retry_after(&admission(100, 3600).check(&load(80, 20, 10), 1000).unwrap_err()), 10);
        // There is room almost at once, but 1 second is the minimum.
        assert_eq!(retry_after(&admission(100, 3600).check(&load(80, 20, 100_000), 50).unwrap_err()), 1);
    }

    #[test]
    fn exceeded_deadline_estimates_when_it_can_be_met() {
        // 80% of 10 s are 8 s, in which 80 tokens run. 100 tokens come first, and 10 are the request's: 30 too many, at 10 a second.
        let refused = admission(1000, 10).check(&load(90, 10, 10), 10).unwrap_err();
        assert!(matches!(refused, Refused::DeadlineExceeded { ahead: 100, .. }), "{refused:?}");
        assert_eq!(retry_after(&refused), 3);
    }

    #[test]
    fn full_queue_estimate_includes_the_deadline() {
        // One token too many for the queue, and 130 tokens too many for the deadline.
        let refused = admission(100, 10).check(&load(91, 109, 10), 10).unwrap_err();
        assert!(matches!(refused, Refused::Overloaded { .. }), "{refused:?}");
        assert_eq!(retry_after(&refused), 10, "13, but at most the time-out");
        assert_eq!(retry_after(&admission(100, 10).check(&load(91, 49, 10), 10).unwrap_err()), 7);
    }

    #[test]
    fn unknown_speed_estimates_one_second() {
        let load = Load { waiting: 100, running: 100, throughput: Throughput::default() };
        assert_eq!(retry_after(&admission(100, 30).check(&load, 1).unwrap_err()), 1);
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

    proptest! {
        /// For any numbers, `retry_after` is at least one second and at most the time-out.
        #[test]
        fn retry_after_is_bounded(
            waiting in any::<usize>(), running in any::<usize>(), tokens in any::<usize>(), limit in any::<usize>(),
            rate in any::<u32>(), seconds in 1u64..10_000,
        ) {
            if let Err(refused) = admission(limit, seconds).check(&load(waiting, running, rate as usize), tokens) {
                prop_assert!((1..=seconds).contains(&retry_after(&refused)), "{:?}", refused);
            }
        }

        /// Once as many tokens have run as run in the estimated time, the request is accepted.
        #[test]
        fn request_is_accepted_after_retry_after(
            waiting in 1usize..10_000, running in 0usize..1000, tokens in 1usize..2000, limit in 1usize..10_000,
            rate in 1usize..1000, seconds in 1u64..100,
        ) {
            let admission = admission(limit, seconds);
            if let Err(refused) = admission.check(&load(waiting, running, rate), tokens) {
                let retry_after = retry_after(&refused);
                let ran = rate * retry_after as usize;
                // With batches of one token each, the tokens of the running batch ran first.
                let left = (waiting + running).saturating_sub(ran);
                let later = load(left.min(waiting), left.saturating_sub(waiting), rate);
                prop_assert!(retry_after == seconds || admission.check(&later, tokens).is_ok());
            }
        }
    }
}
