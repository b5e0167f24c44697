//! The thread that runs the forward pass.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::admission::{Admission, Refused};
use super::queue::{Entry, Queue, Request};
use super::reply::{Answer, Failed, Outcome, ReplySlot};
use crate::engine::{Error, Row};

/// Limits of batches, of the queue and of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of tokens in a batch; a single text may be longer.
    pub batch_tokens: usize,
    /// The maximum number of tokens in the queue.
    pub queued_tokens: usize,
    /// How long a request may take. A request that could not be answered in this time is refused at once.
    pub timeout: Duration,
}

/// A queue and its worker. Every accepted request gets exactly one answer.
pub struct Scheduler {
    queue: Arc<Queue>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Scheduler {
    /// Starts the worker. `forward` returns the logits `[labels]` of each row, in the rows' order; only the worker calls it. If it
    /// panics or returns an error, the requests of that batch fail, and the worker continues.
    ///
    /// # Errors
    /// The system cannot start a thread.
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
    /// The queue has no room for the rows' tokens, the answer would be late, or the scheduler is shutting down.
    pub fn submit(&self, request: impl Into<Request>) -> Result<Answer, Refused> {
        self.queue.push(request.into())
    }

    /// Whether a request of at least `tokens` tokens could be accepted now. It is asked before a request's texts are tokenized.
    ///
    /// # Errors
    /// As [`Scheduler::submit`].
    pub fn admits(&self, tokens: usize) -> Result<(), Refused> {
        self.queue.admits(tokens)
    }

    /// The number of tokens in the queue.
    #[must_use]
    pub fn queued_tokens(&self) -> usize {
        self.queue.tokens()
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
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            // The worker catches panics of the forward pass. The panic hook has printed any other panic.
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
    // `forward` changes no shared state, so that a panic cannot leave any inconsistent.
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
