//! The queue of waiting requests, first come first served. Its size is limited in tokens, and it is closed at shutdown.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::vec;

use super::admission::{Admission, Load, Refused};
use super::policy;
use super::reply::{Answer, PendingReply, ReplySlot};
use crate::engine::Row;
use crate::registry::Pin;

/// The rows of one request, which are accepted together and answered once.
#[derive(Debug, Default)]
pub struct Request {
    /// A row for each text.
    pub rows: Vec<Row>,
    /// Keep the rows' adapters in memory until all rows have run.
    pub pins: Vec<Pin>,
}

impl From<Vec<Row>> for Request {
    /// A request without pins: the caller keeps its adapters in memory.
    fn from(rows: Vec<Row>) -> Self {
        Self { rows, pins: Vec::new() }
    }
}

/// A request of which some rows still wait.
struct Waiting {
    /// The index of the first row that waits.
    next: usize,
    /// The waiting rows.
    rows: vec::IntoIter<Row>,
    reply: Arc<PendingReply>,
}

/// One row of a batch.
pub(super) struct Entry {
    pub(super) row: Row,
    pub(super) slot: ReplySlot,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified of new requests, and when the queue is closed.
    changed: Condvar,
    admission: Admission,
}

struct State {
    requests: VecDeque<Waiting>,
    load: Load,
    open: bool,
}

fn tokens(row: &Row) -> usize {
    row.text.ids.len()
}

impl Waiting {
    fn tokens(&self) -> usize {
        self.rows.as_slice().iter().map(tokens).sum()
    }

    fn next_row(&mut self) -> Option<Entry> {
        let row = self.rows.next()?;
        let index = self.next;
        self.next += 1;
        Some(Entry { row, slot: ReplySlot { index, reply: Arc::clone(&self.reply) } })
    }
}

impl Queue {
    /// An open queue with these rules of admission.
    pub(super) fn new(admission: Admission) -> Self {
        let state = State { requests: VecDeque::new(), load: Load::default(), open: true };
        Self { state: Mutex::new(state), changed: Condvar::new(), admission }
    }

    /// Whether a request of `tokens` tokens would be accepted now.
    pub(super) fn admits(&self, tokens: usize) -> Result<(), Refused> {
        self.check(&mut self.lock(), tokens)
    }

    fn check(&self, state: &mut State, tokens: usize) -> Result<(), Refused> {
        if !state.open {
            return Err(Refused::Draining);
        }
        self.admission.check(&state.load, tokens).or_else(|_| {
            state.forget_unwanted();
            self.admission.check(&state.load, tokens)
        })
    }

    /// Accepts all rows of a request, or none.
    pub(super) fn push(&self, Request { rows, pins }: Request) -> Result<Answer, Refused> {
        let (reply, answer) = PendingReply::new(rows.len(), pins);
        let request = Waiting { next: 0, rows: rows.into_iter(), reply };
        let tokens = request.tokens();
        let mut state = self.lock();
        self.check(&mut state, tokens)?;
        state.load.waiting += tokens;
        state.requests.push_back(request);
        self.changed.notify_one();
        Ok(answer)
    }

    /// Waits for requests and takes a batch of at most `max_tokens` tokens. `None` once the queue is closed and empty.
    pub(super) fn next_batch(&self, max_tokens: usize) -> Option<Vec<Entry>> {
        let mut state = self.lock();
        loop {
            state.forget_unwanted();
            let batch = state.take(max_tokens);
            if !batch.is_empty() {
                return Some(batch);
            }
            if !state.open {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records how long the last batch of [`Self::next_batch`] took.
    pub(super) fn ran(&self, took: Duration) {
        let load = &mut self.lock().load;
        let tokens = std::mem::take(&mut load.running);
        load.throughput.learn(tokens, took);
    }

    /// Accepts no more requests; those in the queue still run.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// Whether it still accepts requests.
    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// The number of tokens in the queue.
    pub(super) fn tokens(&self) -> usize {
        self.lock().load.waiting
    }

    /// Locks the state, even after a panic: no statement leaves the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the next batch from the front.
    fn take(&mut self, max_tokens: usize) -> Vec<Entry> {
        let sizes = self.requests.iter().flat_map(|request| request.rows.as_slice()).map(tokens);
        let count = policy::batch_size(sizes, max_tokens);
        let mut batch = Vec::with_capacity(count);
        while batch.len() < count {
            let Some(request) = self.requests.front_mut() else { break };
            match request.next_row() {
                Some(entry) => batch.push(entry),
                None => drop(self.requests.pop_front()),
            }
        }
        self.load.running = batch.iter().map(|entry| tokens(&entry.row)).sum();
        self.load.waiting -= self.load.running;
        batch
    }

    /// Drops requests whose client went away, requests that have failed, and requests without waiting rows.
    fn forget_unwanted(&mut self) {
        self.requests.retain(|request| !request.rows.as_slice().is_empty() && request.reply.is_wanted());
        self.load.waiting = self.requests.iter().map(Waiting::tokens).sum();
    }
}
