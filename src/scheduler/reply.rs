//! A request's answer. The texts of a request may run in several batches; their logits are collected here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::engine::Error;
use crate::registry::Pin;

/// The reason why an accepted request has no logits: a bug, or a device that failed.
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
    /// The worker ended without an answer.
    #[error("the worker ended")]
    Lost,
}

/// The logits `[labels]` of each row, or the reason why there are none.
pub(super) type Outcome = Result<Vec<Vec<f32>>, Failed>;

/// The receiving end of an accepted request's answer. Dropping it withdraws the rows that have not run yet.
#[derive(Debug)]
pub struct Answer(oneshot::Receiver<Outcome>);

impl Answer {
    /// Waits for the logits `[labels]` of each row, in the rows' order.
    ///
    /// # Errors
    /// The forward pass failed.
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

/// The sending end of an accepted request's answer.
pub(super) struct PendingReply(Mutex<ReplyState>);

struct ReplyState {
    /// The logits of each row; empty until the row has run.
    logits: Vec<Vec<f32>>,
    /// Rows that have not run.
    missing: usize,
    /// `None` once the answer is sent.
    sender: Option<oneshot::Sender<Outcome>>,
    /// The pins of the rows' adapters. They are dropped before the answer is sent, so that a client with an answer finds its
    /// adapters unpinned.
    pins: Vec<Pin>,
}

impl PendingReply {
    /// Both ends of the answer to a request of `rows` rows. A request without rows is answered at once.
    pub(super) fn new(rows: usize, pins: Vec<Pin>) -> (Arc<Self>, Answer) {
        let (sender, answer) = oneshot::channel();
        let mut state = ReplyState { logits: vec![Vec::new(); rows], missing: rows, sender: Some(sender), pins };
        if rows == 0 {
            state.send(Ok(Vec::new()));
        }
        (Arc::new(Self(Mutex::new(state))), Answer(answer))
    }

    /// Whether the client still waits: the answer has not been sent, and the client has not gone away.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Locks the state, even after a panic: no statement leaves the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, ReplyState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyState {
    fn send(&mut self, outcome: Outcome) {
        if let Some(sender) = self.sender.take() {
            // Sending fails if the client has gone away.
            let _ = sender.send(outcome);
        }
    }
}

/// The place of one row's logits in the answer.
pub(super) struct ReplySlot {
    /// The row's index in its request.
    pub(super) index: usize,
    pub(super) reply: Arc<PendingReply>,
}

impl ReplySlot {
    /// Stores the row's logits. The last row of a request sends its answer.
    pub(super) fn finish(self, logits: Vec<f32>) {
        let mut state = self.reply.lock();
        state.logits[self.index] = logits;
        state.missing -= 1;
        if state.missing == 0 {
            let logits = std::mem::take(&mut state.logits);
            state.pins.clear();
            state.send(Ok(logits));
        }
    }

    /// Answers the row's request with a failure, unless it has been answered already.
    pub(super) fn fail(self, failure: Failed) {
        self.reply.lock().send(Err(failure));
    }
}
