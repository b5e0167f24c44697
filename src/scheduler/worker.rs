//! The thread that runs the forward pass.
//!
//! Where the pipeline has several places, this thread only begins passes, and a second thread finishes them in the same order and
//! answers their requests.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::admission::{Admission, Refused};
use super::pipeline::Pipeline;
use super::queue::{Batch, Entry, Queue, Request, Running};
use super::reply::{Answer, Failed, Pass, ReplySlot};
use super::watchdog::{StallTimeouts, Watchdog};
use crate::engine::{Error, Pending, Row};
use crate::panics;

/// Limits of batches, of the queue and of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of tokens in a batch; a single text may be longer.
    pub batch_tokens: usize,
    /// The maximum number of tokens in the queue.
    pub queued_tokens: usize,
    /// How long a request may take. A request that could not be answered in this time is refused at once.
    pub timeout: Duration,
    /// How long a forward pass may take.
    pub stall_timeouts: StallTimeouts,
}

/// A batch that has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchReport {
    /// Its rows.
    pub rows: usize,
    /// The tokens that its requests were charged: a text that several adapters share counts once, and more only where they run apart.
    pub tokens: usize,
    /// Its different adapters.
    pub adapters: usize,
    /// The requests of which it ran rows.
    pub requests: usize,
    /// How long the forward pass took. Where it began before an earlier one had ended, it is counted from that end.
    pub took: Duration,
}

/// A queue and its worker. Every accepted request gets exactly one answer.
pub struct Scheduler {
    queue: Arc<Queue>,
    worker: Arc<Handle>,
    watchdog: Watchdog,
}

/// The worker's thread; `None` once it was joined.
type Handle = Mutex<Option<JoinHandle<()>>>;

impl Scheduler {
    /// Starts the worker. `forward` returns the logits `[labels]` of each row, in the rows' order; only the worker calls it. If it
    /// panics or returns an error, the requests of that batch fail, and the worker continues. `on_batch` is called after each batch,
    /// before its requests are answered.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(
        limits: Limits,
        forward: impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error> + Send + 'static,
        on_batch: impl Fn(&BatchReport) + Send + 'static,
    ) -> std::io::Result<Self> {
        Self::pipelined(limits, Pipeline::ONE, move |rows| forward(rows).map(Pending::ready), on_batch)
    }

    /// [`Scheduler::start`] with a forward pass in two halves ([`crate::engine::Engine::begin`]). As many passes are begun at a time as
    /// `pipeline` has places; each is finished before the next, in the order in which they began. If either half panics or returns an
    /// error, the requests of that batch fail.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn pipelined(
        limits: Limits,
        pipeline: Pipeline,
        begin: impl Fn(&[Row]) -> Result<Pending, Error> + Send + 'static,
        on_batch: impl Fn(&BatchReport) + Send + 'static,
    ) -> std::io::Result<Self> {
        let admission = Admission { limit: limits.queued_tokens, timeout: limits.timeout };
        let queue = Arc::new(Queue::new(admission, pipeline, limits.batch_tokens));
        let watchdog = Watchdog::start(Arc::clone(&queue), limits.stall_timeouts)?;
        let worker = Arc::new(Handle::default());
        let post = Post {
            queue: Arc::clone(&queue),
            overlaps: pipeline.passes > 1,
            calls: Mutex::new((begin, on_batch)),
            handle: Arc::clone(&worker),
        };
        Arc::new(post).start_worker(1)?;
        Ok(Self { queue, worker, watchdog })
    }

    /// Accepts all rows of a request, or none.
    ///
    /// # Errors
    /// The queue or the adapter's share of it has no room for the rows' tokens, the answer would be late, or the scheduler is shutting
    /// down.
    pub fn submit(&self, request: impl Into<Request>) -> Result<Answer, Refused> {
        self.queue.push(request.into())
    }

    /// Whether a request of at least `tokens` tokens for the adapter of this name could be accepted now. It is asked before a request's
    /// texts are tokenized.
    ///
    /// # Errors
    /// As [`Scheduler::submit`].
    pub fn admits(&self, adapter: &str, tokens: usize, deadline: Option<Instant>) -> Result<(), Refused> {
        self.queue.admits(adapter, tokens, deadline)
    }

    /// The number of tokens in the queue.
    #[must_use]
    pub fn queued_tokens(&self) -> usize {
        self.queue.tokens()
    }

    /// The names of the adapters for which requests wait, in order, each with the number of these requests. Only pins have names.
    #[must_use]
    pub fn waiting(&self) -> Vec<(Arc<str>, usize)> {
        self.queue.waiting()
    }

    /// The names of the adapters of the batches that run, in order. Only pins have names.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<str>> {
        self.queue.running()
    }

    /// How many accepted requests were dropped because their deadline passed.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.queue.expired()
    }

    /// How many accepted requests were dropped because nobody waited for their answers any more: their client went away, or the
    /// server's time-out passed.
    #[must_use]
    pub fn withdrawn(&self) -> u64 {
        self.queue.withdrawn()
    }

    /// How long the current forward pass has taken, if that is many times what it should take.
    #[must_use]
    pub fn stalled(&self) -> Option<Duration> {
        self.queue.progress.stalled()
    }

    /// Whether the device of the forward passes is lost, so that every further pass fails.
    #[must_use]
    pub fn device_lost(&self) -> bool {
        self.queue.progress.lost.load(Ordering::Relaxed)
    }

    /// How others report to the scheduler that the device is lost.
    pub fn device_lost_teller(&self) -> impl Fn() + Send + Sync + use<> {
        let queue = Arc::clone(&self.queue);
        move || queue.progress.lost.store(true, Ordering::Relaxed)
    }

    /// Whether no thread runs forward passes any more: one that ended by a panic could not be replaced.
    #[must_use]
    pub fn abandoned(&self) -> bool {
        self.queue.progress.abandoned.load(Ordering::Relaxed)
    }

    /// Sets what happens once a stalled forward pass is given up, the device is lost, or no thread runs passes any more. A pass cannot be
    /// interrupted, and a device not be opened again, so that only the end of the process helps. Only the first call counts.
    pub fn on_stall(&self, callback: impl Fn() + Send + Sync + 'static) {
        self.watchdog.on_stall(Box::new(callback));
    }

    /// Whether it is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        !self.queue.is_open()
    }

    /// Accepts no more requests; those in the queue still run.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Closes the queue, and returns once every accepted request is answered.
    pub fn drain(&self) {
        self.close();
        // A worker that panics leaves the handle of the worker that replaces it.
        while let Some(worker) = take(&self.worker) {
            // The worker catches panics.
            let _ = worker.join();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.drain();
    }
}

fn take(handle: &Handle) -> Option<JoinHandle<()>> {
    handle.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What a worker needs. A worker that panics hands it to the next.
struct Post<F, B> {
    queue: Arc<Queue>,
    /// Whether a pass begins before the one before it has ended.
    overlaps: bool,
    /// What begins a forward pass, and what gets the report of each batch. The worker holds the lock.
    calls: Mutex<(F, B)>,
    handle: Arc<Handle>,
}

impl<F, B> Post<F, B>
where
    F: Fn(&[Row]) -> Result<Pending, Error> + Send + 'static,
    B: Fn(&BatchReport) + Send + 'static,
{
    /// Starts the worker of this number. If it panics, it starts the next.
    fn start_worker(self: Arc<Self>, number: usize) -> std::io::Result<()> {
        let (name, post) = (format!("forward-{number}"), Arc::clone(&self));
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = thread::Builder::new().name(name.clone()).spawn(move || {
            // The panic has dropped the rows of its batch, which fails their requests. What waits stays in the queue.
            let panic = match catch_unwind(AssertUnwindSafe(|| post.work())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::error!("the thread that finishes batches cannot be started: {error}");
                    post.queue.abandon();
                    return;
                }
                Err(panic) => panic,
            };
            tracing::error!(worker = name, "the worker panicked, and is replaced: {}", panics::message(&*panic));
            post.queue.replaced();
            if let Err(error) = Arc::clone(&post).start_worker(number + 1) {
                tracing::error!("the worker cannot be replaced: {error}");
                post.queue.abandon();
            }
        })?;
        *handle = Some(worker);
        Ok(())
    }

    /// Runs batches until the queue is closed and empty.
    fn work(&self) -> std::io::Result<()> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (begin, on_batch) = &mut *calls;
        let begun = || Some(Begun::new(self.queue.next_batch()?, begin));
        let mut finisher = Finisher { queue: &self.queue, on_batch, last: None };
        if !self.overlaps {
            while let Some(begun) = begun() {
                finisher.finish(begun);
            }
            return Ok(());
        }
        thread::scope(|scope| {
            let (sender, receiver) = channel();
            thread::Builder::new().name("finish".into()).spawn_scoped(scope, move || finisher.finish_all(&receiver))?;
            while let Some(begun) = begun() {
                // The other thread lives until the sender is dropped.
                let _ = sender.send(begun);
            }
            Ok(())
        })
    }
}

/// A batch whose pass has begun.
struct Begun {
    running: Running,
    tokens: usize,
    /// They keep the adapters in memory until the pass has ended.
    rows: Vec<Row>,
    slots: Vec<ReplySlot>,
    at: Instant,
    pending: Result<Pending, Failed>,
}

impl Begun {
    fn new(Batch { entries, tokens, running }: Batch, begin: &impl Fn(&[Row]) -> Result<Pending, Error>) -> Self {
        let (rows, slots): (Vec<Row>, Vec<ReplySlot>) =
            entries.into_iter().map(|Entry { row, slot }| (row, slot)).unzip();
        let at = Instant::now();
        let pending = caught(|| begin(&rows));
        Self { running, tokens, rows, slots, at, pending }
    }
}

/// Finishes passes in the order in which they began, and answers their requests.
struct Finisher<'a, B> {
    queue: &'a Queue,
    on_batch: &'a mut B,
    /// When the last pass ended.
    last: Option<Instant>,
}

impl<B: Fn(&BatchReport)> Finisher<'_, B> {
    /// Finishes what `begun` receives until its sender is dropped.
    fn finish_all(mut self, begun: &Receiver<Begun>) {
        for begun in begun {
            // A panic has dropped the rows of its batch, which fails their requests.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.finish(begun))) {
                tracing::error!("the end of a batch panicked: {}", panics::message(&*panic));
            }
        }
    }

    /// Waits for a pass and answers each of its rows.
    fn finish(&mut self, Begun { running, tokens, rows, slots, at, pending }: Begun) {
        let adapters = rows.iter().map(|row| Arc::as_ptr(&row.adapter)).collect::<HashSet<_>>().len();
        let requests = slots.iter().map(|slot| Arc::as_ptr(&slot.reply)).collect::<HashSet<_>>().len();
        let outcome = pending.and_then(|pending| caught(|| pending.finish())).and_then(|logits| {
            let (expected, found) = (rows.len(), logits.len());
            if found == expected { Ok(logits) } else { Err(Failed::Rows { expected, found }) }
        });
        let ended = Instant::now();
        let began = self.last.replace(ended).map_or(at, |last| last.max(at));
        let took = ended.saturating_duration_since(began);
        if let Err(Failed::Forward(error)) = &outcome
            && matches!(**error, Error::DeviceLost { .. })
        {
            self.queue.progress.lost.store(true, Ordering::Relaxed);
        }
        self.queue.ran(running, Some(took).filter(|_| outcome.is_ok()));
        (self.on_batch)(&BatchReport { rows: rows.len(), tokens, adapters, requests, took });
        drop(rows);
        match outcome {
            Ok(logits) => slots.into_iter().zip(logits).for_each(|(slot, row)| slot.finish(row, Pass { began, took })),
            Err(failure) => {
                tracing::error!(rows = slots.len(), "{failure}");
                slots.into_iter().for_each(|slot| slot.fail(failure.clone()));
            }
        }
    }
}

/// The result of a half of a forward pass. Neither half changes shared state, so that a panic cannot leave any inconsistent.
fn caught<T>(half: impl FnOnce() -> Result<T, Error>) -> Result<T, Failed> {
    let result = catch_unwind(AssertUnwindSafe(half)).map_err(|panic| Failed::Panicked(panics::message(&*panic)))?;
    result.map_err(|error| Failed::Forward(Arc::new(error)))
}
