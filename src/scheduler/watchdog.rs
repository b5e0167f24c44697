//! Notices a worker that stands still: a forward pass that takes many times what it should.
//!
//! Such a pass cannot be interrupted. The watchdog logs the stacks of all threads, which show where they stand, and
//! [`super::Scheduler::stalled`] returns the pass's time, so that health checks fail. If the pass does not end within a further grace, the
//! watchdog calls the callback of [`super::Scheduler::on_stall`], with which `polyrank serve` ends its process. It does the same once the
//! device is lost, or no thread runs passes any more.
//!
//! The watchdog's own thread takes no lock, allocates no memory and writes no log, because the allocator or the log may be what stands
//! still. A second thread logs.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::progress::{Progress, milliseconds};
use super::queue::Queue;
use super::stacks;

/// How long a forward pass may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallTimeouts {
    /// A pass has stalled once it takes this many times as long as its tokens take at the measured speed.
    pub times: u32,
    /// A pass that takes less than this has never stalled.
    pub least: Duration,
    /// The limit while no speed is known yet, and for the worker's steps between passes.
    pub unknown: Duration,
    /// The further time after which a stalled pass is given up.
    pub grace: Duration,
}

impl Default for StallTimeouts {
    fn default() -> Self {
        Self {
            times: 20,
            least: Duration::from_secs(10),
            unknown: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}

/// What a step of the worker looks like after some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Stalled,
    Hopeless,
}

impl StallTimeouts {
    /// The verdict on a step that should take the time `expected`, may take `time_factor` times as long as usual, and has taken the time
    /// `ran`.
    fn verdict(&self, expected: Option<Duration>, time_factor: u32, ran: Duration) -> Verdict {
        let limit = expected.map_or(self.unknown, |time| time.saturating_mul(self.times).max(self.least));
        let limit = limit.saturating_mul(time_factor.max(1));
        if ran < limit {
            Verdict::Fine
        } else if ran < limit.saturating_add(self.grace) {
            Verdict::Stalled
        } else {
            Verdict::Hopeless
        }
    }

    /// How often the watchdog looks.
    fn tick(&self) -> Duration {
        (self.least / 10).clamp(Duration::from_millis(1), Duration::from_secs(1))
    }
}

/// What the watchdog has seen of the current step.
#[derive(Debug)]
struct Watch {
    steps: u64,
    /// The time that the watchdog has seen the step take. It is counted in ticks: a process that was stopped, or a machine that slept,
    /// has not stalled.
    ran: Duration,
    verdict: Verdict,
}

impl Watch {
    fn new() -> Self {
        Self { steps: 0, ran: Duration::ZERO, verdict: Verdict::Fine }
    }

    /// Looks at the worker after a tick. Returns the verdict if it has changed.
    fn look(&mut self, progress: &Progress, stall_timeouts: &StallTimeouts, tick: Duration) -> Option<Verdict> {
        let steps = progress.steps.load(Ordering::Acquire);
        if steps == self.steps && progress.busy.load(Ordering::Relaxed) {
            self.ran = self.ran.saturating_add(tick);
        } else {
            (self.steps, self.ran) = (steps, Duration::ZERO);
        }
        let expected = progress.expected.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis);
        let time_factor = u32::try_from(progress.time_factor.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let verdict = stall_timeouts.verdict(expected, time_factor, self.ran);
        let stalled = if verdict == Verdict::Fine { 0 } else { milliseconds(self.ran).max(1) };
        progress.stalled.store(stalled, Ordering::Relaxed);
        (std::mem::replace(&mut self.verdict, verdict) != verdict).then_some(verdict)
    }
}

type Callback = Box<dyn Fn() + Send + Sync>;

/// The running watchdog, which ends when this value is dropped.
pub(super) struct Watchdog {
    _stop: Sender<()>,
    callback: Arc<OnceLock<Callback>>,
}

impl Watchdog {
    /// Watches the worker of `queue`.
    pub(super) fn start(queue: Arc<Queue>, stall_timeouts: StallTimeouts) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let callback = Arc::new(OnceLock::new());
        let (reports, received) = sync_channel(2);
        thread::Builder::new().name("watchdog-log".into()).spawn(move || log(&received, &stall_timeouts))?;
        let called = Arc::clone(&callback);
        let watch = move || watch(&queue.progress, &stall_timeouts, &stopped, &reports, &called);
        thread::Builder::new().name("watchdog".into()).spawn(watch)?;
        Ok(Self { _stop: stop, callback })
    }

    /// Sets what happens once a stalled pass is given up. Only the first call counts.
    pub(super) fn on_stall(&self, callback: Callback) {
        let _ = self.callback.set(callback);
    }
}

fn watch(
    progress: &Progress,
    stall_timeouts: &StallTimeouts,
    stopped: &Receiver<()>,
    reports: &SyncSender<(Verdict, Duration)>,
    callback: &OnceLock<Callback>,
) {
    let (mut watch, tick) = (Watch::new(), stall_timeouts.tick());
    // Whether the last look gave the pass up. It may still have ended before the next one.
    let mut hopeless = false;
    // A stall that is found before the callback is set is reported once it is.
    let call = || callback.get().into_iter().for_each(|callback| callback());
    let mut over = false;
    while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
        // The worker has logged the error.
        if !over && callback.get().is_some() && progress.is_over() {
            over = true;
            call();
        }
        let verdict = watch.look(progress, stall_timeouts, tick);
        let Some(verdict) = verdict else {
            // The report has been logged in the tick between.
            if callback.get().is_some() && std::mem::take(&mut hopeless) {
                call();
            }
            continue;
        };
        hopeless = verdict == Verdict::Hopeless;
        // If the thread that logs stands still too, the report is lost.
        let _ = reports.try_send((verdict, watch.ran));
    }
}

fn log(reports: &Receiver<(Verdict, Duration)>, stall_timeouts: &StallTimeouts) {
    for (verdict, ran) in reports {
        match verdict {
            Verdict::Fine => tracing::warn!("the forward pass that stalled has ended"),
            Verdict::Stalled => {
                let grace = stall_timeouts.grace;
                tracing::error!("the forward pass has stalled: it takes {ran:?}; it is given up in {grace:?}");
                stacks::log();
            }
            Verdict::Hopeless => tracing::error!("the forward pass is given up after {ran:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn verdict_follows_the_expected_time() {
        let stall_timeouts = StallTimeouts::default();
        let verdicts = |expected: Option<u64>, time_factor: u32, seconds: [u64; 3]| {
            let expected = expected.map(Duration::from_secs);
            seconds.map(|ran| stall_timeouts.verdict(expected, time_factor, Duration::from_secs(ran)))
        };
        let all = [Verdict::Fine, Verdict::Stalled, Verdict::Hopeless];
        assert_eq!(verdicts(Some(0), 1, [9, 10, 40]), all);
        assert_eq!(verdicts(Some(2), 1, [39, 69, 70]), all);
        assert_eq!(verdicts(None, 1, [59, 60, 90]), all);
        assert_eq!(verdicts(Some(2), 16, [639, 640, 670]), all);
        assert_eq!(verdicts(None, 16, [959, 960, 990]), all);
        assert_eq!(stall_timeouts.verdict(Some(Duration::MAX), 1, Duration::from_secs(u64::MAX / 2)), Verdict::Fine);
    }

    #[test]
    fn watch_counts_only_the_ticks_of_one_busy_step() {
        let (progress, stall_timeouts) = (Progress::default(), StallTimeouts::default());
        let mut watch = Watch::new();
        let mut look = |ticks: u32| (0..ticks).filter_map(|_| watch.look(&progress, &stall_timeouts, SECOND)).last();
        assert_eq!(look(1000), None, "nothing to do");
        progress.begin(Some(Duration::from_millis(1)), 1);
        assert_eq!(look(10), None);
        progress.begin(Some(Duration::from_millis(1)), 1);
        assert_eq!((look(10), progress.stalled()), (None, None));
        assert_eq!((look(1), progress.stalled()), (Some(Verdict::Stalled), Some(10 * SECOND)));
        assert_eq!((look(29), progress.stalled()), (None, Some(39 * SECOND)));
        assert_eq!(look(1), Some(Verdict::Hopeless));
        assert_eq!(look(100), None, "told once");
        progress.rest();
        assert_eq!((look(1), progress.stalled()), (Some(Verdict::Fine), None));
    }

    #[test]
    fn end_of_the_last_worker_is_given_up_once() {
        let stall_timeouts = StallTimeouts { least: Duration::from_millis(10), ..StallTimeouts::default() };
        let (progress, callback) = (Progress::default(), OnceLock::new());
        let (called, calls) = channel();
        let call: Callback = Box::new(move || assert!(called.send(()).is_ok()));
        let _ = callback.set(call);
        let (stop, stopped) = channel();
        let (reports, _received) = sync_channel(2);
        thread::scope(|scope| {
            let (progress, stall_timeouts, callback) = (&progress, &stall_timeouts, &callback);
            let watching = scope.spawn(move || watch(progress, stall_timeouts, &stopped, &reports, callback));
            assert_eq!(calls.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
            progress.abandoned.store(true, Ordering::Relaxed);
            assert_eq!(calls.recv(), Ok(()));
            assert_eq!(calls.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
            drop(stop);
            assert!(watching.join().is_ok());
        });
    }

    #[test]
    fn pass_that_ends_once_it_is_given_up_ends_nothing() {
        // It is given up as soon as it has taken a second. The next look is a second later.
        let (unknown, grace) = (SECOND, Duration::ZERO);
        let stall_timeouts = StallTimeouts { times: 1, least: 10 * SECOND, unknown, grace };
        let (progress, callback) = (Progress::default(), OnceLock::new());
        let call: Callback = Box::new(|| panic!("given up"));
        let _ = callback.set(call);
        let (stop, stopped) = channel();
        let (reports, received) = sync_channel(2);
        progress.begin(None, 1);
        thread::scope(|scope| {
            let (progress, stall_timeouts, callback) = (&progress, &stall_timeouts, &callback);
            let watching = scope.spawn(move || watch(progress, stall_timeouts, &stopped, &reports, callback));
            assert_eq!(received.recv().map(|(verdict, _)| verdict), Ok(Verdict::Hopeless));
            progress.rest();
            assert_eq!(received.recv().map(|(verdict, _)| verdict), Ok(Verdict::Fine));
            drop(stop);
            assert!(watching.join().is_ok());
        });
    }
}
