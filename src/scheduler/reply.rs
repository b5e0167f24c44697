//! A request's answer. The texts of a request may run in several batches; their logits are collected here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::engine::Error;
use crate::registry::Pin;

/// The reason why an accepted request has no logits.
#[derive(Debug, Clone, Error)]
pub enum Failed {
    /// The forward pass raised an error.
    #[error("forward pass: {0}")]
    Forward(Arc<Error>),
    /// The forward pass panicked.
    #[error("forward pass panicked: {0}")]
    Panicked(String),
    /// The forward pass returned another number of rows than it was given.
    #[error("forward pass: expected logits for {expected} rows, found {found}")]
    Rows {
        /// Rows passed in.
        expected: usize,
        /// Rows returned.
        found: usize,
    },
    /// The worker ended without an answer: a bug, of which the log has the cause.
    #[error("the worker ended")]
    Lost,
    /// The request's deadline passed before all of its rows ran.
    #[error("not answered within {0:?}, before the request's deadline")]
    Expired(Duration),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The logits `[labels]` of each row, in the rows' order.
    pub logits: Vec<Vec<f32>>,
    /// The time from the request's acceptance until its first row ran.
    pub queued: Duration,
    /// The time in which its batches ran, whole batches counted.
    pub computed: Duration,
}

type Outcome = Result<Answered, Failed>;

/// The receiving end of an accepted request's answer. Dropping it withdraws the rows that have not run yet.
#[derive(Debug)]
pub struct Answer {
    /// `None` once a thread waits for it.
    outcome: Option<oneshot::Receiver<Outcome>>,
    departures: Departures,
}

impl Answer {
    /// Waits for the answer.
    ///
    /// # Errors
    /// The forward pass failed, or the request's deadline has passed.
    pub async fn wait(mut self) -> Result<Answered, Failed> {
        let Some(outcome) = &mut self.outcome else { return Err(Failed::Lost) };
        outcome.await.unwrap_or(Err(Failed::Lost))
    }

    /// [`Answer::wait`] for a thread outside an asynchronous runtime.
    ///
    /// # Errors
    /// As [`Answer::wait`].
    pub fn wait_blocking(mut self) -> Result<Answered, Failed> {
        self.outcome.take().and_then(|outcome| outcome.blocking_recv().ok()).unwrap_or(Err(Failed::Lost))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.as_mut().filter(|outcome| !outcome.is_terminated()) {
            outcome.close();
            self.departures.add();
        }
    }
}

/// Counts the requests that no longer want an answer since the queue last looked for them, so that it looks only if there are any.
#[derive(Debug, Clone, Default)]
pub(super) struct Departures(Arc<AtomicUsize>);

impl Departures {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// Whether there were any since the last call.
    pub(super) fn take(&self) -> bool {
        self.0.swap(0, Ordering::Acquire) > 0
    }
}

/// The sending end of an accepted request's answer.
pub(super) struct PendingReply {
    state: Mutex<ReplyState>,
    departures: Departures,
    accepted: Instant,
}

struct ReplyState {
    /// The logits of each row; empty until the row has run.
    logits: Vec<Vec<f32>>,
    /// Rows that have not run.
    missing: usize,
    /// When the first batch with a row of the request began.
    first: Option<Instant>,
    /// When the last such batch began.
    last: Option<Instant>,
    /// The time that these batches took.
    computed: Duration,
    /// `None` once the answer is sent.
    sender: Option<oneshot::Sender<Outcome>>,
    /// The pins of the rows' adapters, until all rows have run. They are dropped before the answer is sent, so that a client with an
    /// answer finds its adapters unpinned. Those of a request that fails live until its last row is dropped, because a batch may
    /// still run some of its rows.
    pins: Vec<Pin>,
}

/// Whether a request still waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// The client waits.
    Wanted,
    /// The client has gone away.
    Withdrawn,
    /// The answer has been sent.
    Answered,
}

/// The run of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) began: Instant,
    pub(super) took: Duration,
}

impl PendingReply {
    /// Both ends of the answer to a request of `rows` rows. A request without rows is answered at once.
    pub(super) fn new(rows: usize, pins: Vec<Pin>, departures: Departures, now: Instant) -> (Arc<Self>, Answer) {
        let (sender, outcome) = oneshot::channel();
        let mut state = ReplyState {
            logits: vec![Vec::new(); rows],
            missing: rows,
            first: None,
            last: None,
            computed: Duration::ZERO,
            sender: Some(sender),
            pins,
        };
        if rows == 0 {
            state.answer(now);
        }
        let answer = Answer { outcome: Some(outcome), departures: departures.clone() };
        (Arc::new(Self { state: Mutex::new(state), departures, accepted: now }), answer)
    }

    /// Whether the client still waits.
    pub(super) fn interest(&self) -> Interest {
        match &self.lock().sender {
            None => Interest::Answered,
            Some(sender) if sender.is_closed() => Interest::Withdrawn,
            Some(_) => Interest::Wanted,
        }
    }

    /// Answers the request, whose deadline has passed at `now`, with a failure.
    pub(super) fn expire(&self, now: Instant) {
        self.lock().send(Err(Failed::Expired(now.saturating_duration_since(self.accepted))));
    }

    /// Nobody waits for the answer. Otherwise each row that is dropped without logits would count as a departure.
    pub(super) fn withdraw(&self) {
        self.lock().sender = None;
    }

    /// Locks the state, even after a panic: no statement leaves the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, ReplyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyState {
    fn answer(&mut self, accepted: Instant) {
        self.pins.clear();
        let queued = self.first.map_or(Duration::ZERO, |first| first.saturating_duration_since(accepted));
        let logits = std::mem::take(&mut self.logits);
        self.send(Ok(Answered { logits, queued, computed: self.computed }));
    }

    /// Sends the answer, unless one was sent before.
    fn send(&mut self, outcome: Outcome) {
        if let Some(sender) = self.sender.take() {
            // Sending fails if the client has gone away.
            let _ = sender.send(outcome);
        }
    }
}

/// The place of one row's logits in the answer. Dropping it without logits fails the request, so that no request stays without an
/// answer, even if the worker panics.
pub(super) struct ReplySlot {
    /// The row's index in its request.
    pub(super) index: usize,
    pub(super) reply: Arc<PendingReply>,
    filled: bool,
}

impl ReplySlot {
    /// The place of row `index`.
    pub(super) fn new(index: usize, reply: Arc<PendingReply>) -> Self {
        Self { index, reply, filled: false }
    }

    /// Stores the row's logits. The last row of a request sends its answer.
    pub(super) fn finish(mut self, logits: Vec<f32>, pass: Pass) {
        self.filled = true;
        let mut state = self.reply.lock();
        if let Some(place) = state.logits.get_mut(self.index) {
            *place = logits;
        }
        state.first.get_or_insert(pass.began);
        if state.last.replace(pass.began) != Some(pass.began) {
            state.computed += pass.took;
        }
        state.missing -= 1;
        if state.missing == 0 {
            state.answer(self.reply.accepted);
        }
    }

    /// Answers the row's request with a failure, unless it has been answered already.
    pub(super) fn fail(mut self, failure: Failed) {
        self.filled = true;
        self.send(failure);
    }

    fn send(&self, failure: Failed) {
        let mut state = self.reply.lock();
        if state.sender.is_some() {
            state.send(Err(failure));
            // The request's other rows need not run.
            self.reply.departures.add();
        }
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        if !self.filled {
            self.send(Failed::Lost);
        }
    }
}
