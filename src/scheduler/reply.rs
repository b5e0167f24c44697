//! A request's answer: its texts may run in several batches, and their logits are put together here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::engine::Error;
use crate::registry::Pin;

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

/// The answer to an accepted request, for the one who waits for it. Dropping it withdraws what has not run yet.
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

/// The answer to an accepted request, for those who make it.
pub(super) struct PendingReply(Mutex<ReplyState>);

struct ReplyState {
    /// Of each row; empty until the row has run.
    logits: Vec<Vec<f32>>,
    /// Rows that have not run.
    missing: usize,
    /// Taken by the one answer.
    sender: Option<oneshot::Sender<Outcome>>,
    /// The adapters of the rows. Given back before the answer is sent: a client that has its answer finds them unpinned.
    pins: Vec<Pin>,
}

impl PendingReply {
    /// For a request of `rows` rows. A request without rows is answered at once.
    pub(super) fn new(rows: usize, pins: Vec<Pin>) -> (Arc<Self>, Answer) {
        let (sender, answer) = oneshot::channel();
        let mut state = ReplyState { logits: vec![Vec::new(); rows], missing: rows, sender: Some(sender), pins };
        if rows == 0 {
            state.send(Ok(Vec::new()));
        }
        (Arc::new(Self(Mutex::new(state))), Answer(answer))
    }

    /// Whether somebody still waits: no answer was given yet, and the client is there.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Locks; the state is whole between any two statements, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, ReplyState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyState {
    fn send(&mut self, outcome: Outcome) {
        if let Some(sender) = self.sender.take() {
            // The client may have gone away: then there is nobody to tell.
            let _ = sender.send(outcome);
        }
    }
}

/// Where the logits of one row go.
pub(super) struct ReplySlot {
    /// The row's number in its request.
    pub(super) index: usize,
    pub(super) reply: Arc<PendingReply>,
}

impl ReplySlot {
    /// Hands in the row's logits; the last row of a request sends its answer.
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

    /// Answers the row's request with a failure, unless it was answered before.
    pub(super) fn fail(self, failure: Failed) {
        self.reply.lock().send(Err(failure));
    }
}
