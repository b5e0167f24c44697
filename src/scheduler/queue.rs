//! The line in which texts wait: bounded by tokens, and closed at shutdown.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use super::batch;
use crate::engine::Row;
use crate::error::Error;

/// Why a request was not accepted.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refused {
    /// No room: answered at once, never by waiting.
    #[error("{queued} tokens are queued; {tokens} more would exceed {limit}")]
    Overloaded {
        /// Tokens that wait.
        queued: usize,
        /// Tokens of the request.
        tokens: usize,
        /// The most that may wait.
        limit: usize,
    },
    /// Room, but not in time: what comes before it takes longer than a request may.
    #[error("{ahead} tokens come first: at {rate:.0} a second this request would have no answer within {patience:?}")]
    Late {
        /// Tokens that run or wait.
        ahead: usize,
        /// Tokens a second.
        rate: f64,
        /// How long a request may take.
        patience: Duration,
    },
    /// The server is shutting down.
    #[error("shutting down")]
    Draining,
}

/// Why an accepted request has no logits. Each is a bug, or a device that failed.
#[derive(Debug, Clone, Error)]
pub enum Failed {
    /// The forward pass raised an error.
    #[error("forward pass: {0}")]
    Forward(Arc<Error>),
    /// The forward pass panicked.
    #[error("forward pass panicked: {0}")]
    Panicked(String),
    /// The forward pass gave another number of rows than it was asked for.
    #[error("forward pass gave {found} rows for {expected}")]
    Rows {
        /// Rows asked for.
        expected: usize,
        /// Rows given.
        found: usize,
    },
    /// The worker ended without an answer.
    #[error("the worker ended")]
    Lost,
}

/// Logits `[labels]` of each row, or why there are none.
pub(super) type Outcome = Result<Vec<Vec<f32>>, Failed>;

/// An accepted request's answer to come. Dropping it withdraws what has not run yet.
#[derive(Debug)]
pub struct Answer(oneshot::Receiver<Outcome>);

impl Answer {
    /// Waits for logits `[labels]` of each row, in the rows' order.
    ///
    /// # Errors
    /// What went wrong in the forward pass.
    pub async fn wait(self) -> Result<Vec<Vec<f32>>, Failed> {
        self.0.await.unwrap_or(Err(Failed::Lost))
    }

    /// [`Answer::wait`] for a thread outside an asynchronous runtime.
    ///
    /// # Errors
    /// As [`Answer::wait`].
    pub fn wait_blocking(self) -> Result<Vec<Vec<f32>>, Failed> {
        self.0.blocking_recv().unwrap_or(Err(Failed::Lost))
    }
}

/// A request's rows find their way back together here.
struct Ticket(Mutex<Gathering>);

struct Gathering {
    outputs: Vec<Vec<f32>>,
    missing: usize,
    /// Taken by the one answer.
    reply: Option<oneshot::Sender<Outcome>>,
}

/// One text that waits.
pub(super) struct Entry {
    pub(super) row: Row,
    pub(super) place: Place,
}

/// Where a row's logits go.
pub(super) struct Place {
    /// Which of its request's rows it is.
    index: usize,
    ticket: Arc<Ticket>,
}

impl Entry {
    fn tokens(&self) -> usize {
        self.row.text.ids.len()
    }

    /// Whether somebody still waits for it: no answer was given yet, and the client is there.
    fn wanted(&self) -> bool {
        locked(&self.place.ticket.0).reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

impl Place {
    /// Hands in the row's logits; the last row of a request sends its answer.
    pub(super) fn finish(self, logits: Vec<f32>) {
        let mut gathering = locked(&self.ticket.0);
        gathering.outputs[self.index] = logits;
        gathering.missing -= 1;
        if gathering.missing == 0 {
            let outputs = std::mem::take(&mut gathering.outputs);
            send(&mut gathering, Ok(outputs));
        }
    }

    /// Answers the row's request with a failure, unless it was answered before.
    pub(super) fn fail(self, failure: Failed) {
        send(&mut locked(&self.ticket.0), Err(failure));
    }
}

fn send(gathering: &mut Gathering, outcome: Outcome) {
    if let Some(reply) = gathering.reply.take() {
        // Nobody waits any more: there is nobody to tell.
        let _ = reply.send(outcome);
    }
}

/// The line.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Told of new entries and of closing.
    changed: Condvar,
    limit: usize,
    patience: Duration,
}

struct Waiting {
    entries: VecDeque<Entry>,
    tokens: usize,
    /// Tokens of the batch that runs.
    running: usize,
    speed: Speed,
    open: bool,
}

/// Work that tells how fast batches run, in shares of a request's time: the first texts fault the base in, and tell nothing.
const EVIDENCE: f64 = 1.0 / 32.0;

/// The share of a request's time that its estimate may fill: the next batches may be slower than the last.
const MARGIN: f64 = 0.8;

/// How fast batches have run of late: tokens over seconds, those of long ago weighing less. A large batch weighs more than a small
/// one, and it is large ones that a full line makes.
#[derive(Default)]
struct Speed {
    tokens: f64,
    seconds: f64,
}

impl Speed {
    /// Seconds of work after which an earlier batch weighs a third.
    const MEMORY: f64 = 5.0;

    fn learn(&mut self, tokens: usize, took: Duration) {
        let keep = (-took.as_secs_f64() / Self::MEMORY).exp();
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    /// Tokens a second; `None` as long as it is known from less than `least` seconds.
    fn rate(&self, least: f64) -> Option<f64> {
        (self.seconds > 0.0 && self.seconds >= least).then(|| self.tokens / self.seconds)
    }
}

impl Queue {
    /// An open line for at most `limit` tokens, of which none is to wait longer than `patience`.
    pub(super) fn new(limit: usize, patience: Duration) -> Self {
        let waiting = Waiting { entries: VecDeque::new(), tokens: 0, running: 0, speed: Speed::default(), open: true };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new(), limit, patience }
    }

    /// Whether a request of `tokens` tokens would be accepted now.
    pub(super) fn admits(&self, tokens: usize) -> Result<(), Refused> {
        self.check(&mut locked(&self.waiting), tokens)
    }

    fn check(&self, waiting: &mut Waiting, tokens: usize) -> Result<(), Refused> {
        if !waiting.open {
            return Err(Refused::Draining);
        }
        let full = |waiting: &Waiting| waiting.tokens.saturating_add(tokens) > self.limit;
        let late = |waiting: &Waiting| {
            let (ahead, patience) = (waiting.running + waiting.tokens, self.patience.as_secs_f64());
            let rate = waiting.speed.rate(patience * EVIDENCE)?;
            let takes = ahead.saturating_add(tokens) as f64 / rate;
            (takes > patience * MARGIN).then_some(Refused::Late { ahead, rate, patience: self.patience })
        };
        if full(waiting) || late(waiting).is_some() {
            waiting.forget_unwanted();
        }
        // What is larger than the whole line waits alone: it would never find room otherwise.
        if waiting.tokens == 0 {
            return Ok(());
        }
        if full(waiting) {
            return Err(Refused::Overloaded { queued: waiting.tokens, tokens, limit: self.limit });
        }
        late(waiting).map_or(Ok(()), Err)
    }

    /// What a batch took that [`Self::next_batch`] gave.
    pub(super) fn ran(&self, took: Duration) {
        let mut waiting = locked(&self.waiting);
        let tokens = std::mem::take(&mut waiting.running);
        waiting.speed.learn(tokens, took);
    }

    /// Takes in all rows of a request, or none.
    pub(super) fn push(&self, rows: Vec<Row>) -> Result<Answer, Refused> {
        let tokens = rows.iter().map(|row| row.text.ids.len()).sum();
        let (reply, answer) = oneshot::channel();
        let mut gathering =
            Gathering { outputs: vec![Vec::new(); rows.len()], missing: rows.len(), reply: Some(reply) };
        if rows.is_empty() {
            send(&mut gathering, Ok(Vec::new()));
        }
        let ticket = Arc::new(Ticket(Mutex::new(gathering)));
        let mut waiting = locked(&self.waiting);
        self.check(&mut waiting, tokens)?;
        waiting.tokens += tokens;
        let places = (0..).map(|index| Place { index, ticket: Arc::clone(&ticket) });
        waiting.entries.extend(rows.into_iter().zip(places).map(|(row, place)| Entry { row, place }));
        self.changed.notify_one();
        Ok(Answer(answer))
    }

    /// Waits for work and takes a batch of at most `max_tokens`; `None` once the line is closed and empty.
    pub(super) fn next_batch(&self, max_tokens: usize) -> Option<Vec<Entry>> {
        let mut waiting = locked(&self.waiting);
        loop {
            waiting.forget_unwanted();
            if !waiting.entries.is_empty() {
                let adapter = |entry: &Entry| Arc::as_ptr(&entry.row.adapter);
                let batch = batch::take(&mut waiting.entries, max_tokens, Entry::tokens, adapter);
                waiting.running = batch.iter().map(Entry::tokens).sum();
                waiting.tokens -= waiting.running;
                return Some(batch);
            }
            if !waiting.open {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Accepts nothing from now on; what waits still runs.
    pub(super) fn close(&self) {
        locked(&self.waiting).open = false;
        self.changed.notify_all();
    }

    /// Whether it still accepts.
    pub(super) fn is_open(&self) -> bool {
        locked(&self.waiting).open
    }

    /// Tokens that wait.
    pub(super) fn tokens(&self) -> usize {
        locked(&self.waiting).tokens
    }
}

impl Waiting {
    /// Drops the rows of clients that went away and of requests that failed.
    fn forget_unwanted(&mut self) {
        self.entries.retain(Entry::wanted);
        self.tokens = self.entries.iter().map(Entry::tokens).sum();
    }
}

/// Locks; what a lock guards here is whole between any two statements, so a panic elsewhere does not matter.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
