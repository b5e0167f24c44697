//! The thread that owns the forward pass.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::admission::{Admission, Refused};
use super::queue::{Entry, Queue, Request};
use super::reply::{Answer, Failed, Outcome, ReplySlot};
use crate::engine::{Error, Row};

/// How much runs and waits at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most tokens of a batch; a single text may be longer.
    pub batch_tokens: usize,
    /// The most tokens that wait.
    pub queued_tokens: usize,
    /// How long a request may take: what could not run in time is refused at once.
    pub timeout: Duration,
}

/// A queue with its worker. Every request that it accepts gets exactly one answer.
pub struct Scheduler {
    queue: Arc<Queue>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Scheduler {
    /// Starts the worker. `forward` gives logits `[labels]` for each row, in the rows' order; it runs on the worker alone. A
    /// panic or an error inside fails the requests of that batch, and the worker goes on.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        limits: Limits,
        forward: impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error> + Send + 'static,
    ) -> std::io::Result<Self> {
        let admission = Admission { limit: limits.queued_tokens, timeout: limits.timeout };
        let queue = Arc::new(Queue::new(admission));
        let served = Arc::clone(&queue);
        let worker = thread::Builder::new().name("forward".into()).spawn(move || {
            while let Some(batch) = served.next_batch(limits.batch_tokens) {
                let begun = Instant::now();
                run(batch, &forward);
                served.ran(begun.elapsed());
            }
        })?;
        Ok(Self { queue, worker: Mutex::new(Some(worker)) })
    }

    /// Accepts all rows of a request, or none.
    ///
    /// # Errors
    /// No room for the rows' tokens, no answer in time, or shutting down.
    pub fn submit(&self, request: impl Into<Request>) -> Result<Answer, Refused> {
        self.queue.push(request.into())
    }

    /// Whether a request of at least `tokens` tokens has a chance now: asked before the work of tokenizing.
    ///
    /// # Errors
    /// As [`Scheduler::submit`].
    pub fn admits(&self, tokens: usize) -> Result<(), Refused> {
        self.queue.admits(tokens)
    }

    /// Tokens that wait.
    #[must_use]
    pub fn queued_tokens(&self) -> usize {
        self.queue.tokens()
    }

    /// Whether it is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        !self.queue.is_open()
    }

    /// Accepts nothing from now on; what waits still runs.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Closes, and returns once all that was accepted is answered.
    pub fn drain(&self) {
        self.close();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            // The worker catches what the forward pass throws; whatever else ended it has been printed by the panic hook.
            let _ = worker.join();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.drain();
    }
}

/// Runs a batch and answers each of its rows.
fn run(batch: Vec<Entry>, forward: &impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error>) {
    let (rows, slots): (Vec<Row>, Vec<ReplySlot>) = batch.into_iter().map(|Entry { row, slot }| (row, slot)).unzip();
    let outcome = outcome(&rows, forward);
    drop(rows);
    match outcome {
        Ok(logits) => slots.into_iter().zip(logits).for_each(|(slot, logits)| slot.finish(logits)),
        Err(failure) => {
            tracing::error!(rows = slots.len(), "{failure}");
            slots.into_iter().for_each(|slot| slot.fail(failure.clone()));
        }
    }
}

fn outcome(rows: &[Row], forward: &impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error>) -> Outcome {
    // What `forward` shares never changes, so that a panic cannot leave it half-changed.
    let result = catch_unwind(AssertUnwindSafe(|| forward(rows)));
    let logits = result.map_err(|panic| Failed::Panicked(message(&*panic)))?;
    let logits = logits.map_err(|error| Failed::Forward(Arc::new(error)))?;
    if logits.len() == rows.len() {
        Ok(logits)
    } else {
        Err(Failed::Rows { expected: rows.len(), found: logits.len() })
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}
