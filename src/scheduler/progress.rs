//! What the worker reports to the watchdog.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The worker's steps, as the worker reports them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of steps so far.
    pub(super) steps: AtomicU64,
    pub(super) busy: AtomicBool,
    /// The milliseconds that the current step should take, plus 1; 0 if that is not known.
    pub(super) expected: AtomicU64,
    /// The factor by which the current step may exceed the time that it should take; 0 counts as 1.
    pub(super) time_factor: AtomicU64,
    /// Whether the device of the forward passes is lost.
    pub(super) lost: AtomicBool,
    /// Whether no thread runs forward passes any more.
    pub(super) abandoned: AtomicBool,
    /// The milliseconds that the current step has taken, where that is too long, else 0.
    pub(super) stalled: AtomicU64,
}

/// The whole milliseconds of `time`.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Progress {
    /// The worker begins a step, which should take the time `expected`, and may take `time_factor` times as long before it has stalled.
    pub(super) fn begin(&self, expected: Option<Duration>, time_factor: u32) {
        self.time_factor.store(time_factor.into(), Ordering::Relaxed);
        let expected = expected.map_or(0, |time| milliseconds(time).saturating_add(1));
        self.expected.store(expected, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Release);
    }

    /// The worker has nothing to do.
    pub(super) fn rest(&self) {
        self.busy.store(false, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Release);
    }

    /// Whether no forward pass can succeed any more.
    pub(super) fn is_over(&self) -> bool {
        self.lost.load(Ordering::Relaxed) || self.abandoned.load(Ordering::Relaxed)
    }

    /// How long the current step has taken, if that is too long.
    pub(super) fn stalled(&self) -> Option<Duration> {
        Some(self.stalled.load(Ordering::Relaxed)).filter(|&time| time > 0).map(Duration::from_millis)
    }
}
