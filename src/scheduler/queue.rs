//! The queue of waiting requests. Its size is limited in tokens, and it is closed at shutdown.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::admission::{Admission, Candidate, Load, Refused, Throughput};
use super::arrivals::{Arrivals, BATCH_TIME};
use super::charge;
use super::pipeline::Pipeline;
use super::policy::{Budget, FairQueue, Part, QUANTUM, TURN, Waiting};
use super::progress::Progress;
use super::reply::{Answer, Departures, Interest, PendingReply, ReplySlot};
use crate::adapter::Adapter;
use crate::engine::{Row, micro_batches};
use crate::registry::Pin;

/// The rows of one request, which are accepted together and answered once.
#[derive(Debug, Default)]
pub struct Request {
    /// A row for each text and adapter.
    pub rows: Vec<Row>,
    /// The pins that keep the rows' adapters in memory until all rows have run. They also have the adapters' names.
    pub pins: Vec<Pin>,
    /// When the answer is of no more use: the request is then dropped from the queue. The queue's own time-out is only compared with the
    /// estimated wait when the request is accepted.
    pub deadline: Option<Instant>,
}

impl From<Vec<Row>> for Request {
    /// A request without pins: the caller keeps its adapters in memory.
    fn from(rows: Vec<Row>) -> Self {
        Self { rows, ..Self::default() }
    }
}

/// Texts of up to this many tokens are as fast as their tokens. Most bases allow no longer ones.
const USUAL_LENGTH: usize = 512;

/// The requests that wait for the same adapter, whatever its version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FlowKey {
    /// The adapter has this name.
    Name(Arc<str>),
    /// An adapter without a pin, by its address.
    Address(usize),
}

/// What the queue knows of a waiting request.
struct QueuedRequest {
    reply: Arc<PendingReply>,
    deadline: Option<Instant>,
    adapters: Names,
}

/// A request that left the queue without having run.
type Forgotten = Waiting<QueuedRequest, Work>;

/// The names of the pinned adapters of a request.
type Names = Arc<[Arc<str>]>;

/// Rows of one request with the same text, which run together.
struct Work {
    entries: Vec<Entry>,
    cost: usize,
    adapters: Names,
}

/// One row of a batch.
pub(super) struct Entry {
    pub(super) row: Row,
    pub(super) slot: ReplySlot,
}

/// Rows that run together.
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    /// The tokens that the rows are charged.
    pub(super) tokens: usize,
    /// Its place among the batches that run.
    pub(super) running: Running,
}

/// The place of a batch among those that run, until it is dropped.
pub(super) struct Running {
    queue: Arc<Queue>,
    number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if state.running.remove(&self.number).is_some() {
            state.report_next(&self.queue.progress);
        }
        drop(state);
        self.queue.changed.notify_one();
    }
}

/// What the queue knows of a batch that runs.
struct Run {
    tokens: usize,
    /// The tokens of its longest text.
    longest: usize,
    /// The names of its adapters.
    adapters: HashSet<Arc<str>>,
}

impl Run {
    /// The factor by which this batch may exceed the time that its tokens are estimated to take. The time of attention grows with the
    /// square of a text's length, and the measured speed is mostly that of shorter texts.
    fn time_factor(&self) -> u32 {
        u32::try_from(self.longest / USUAL_LENGTH).unwrap_or(u32::MAX).max(1)
    }
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified of new requests, when a batch has run, and when the queue is closed.
    changed: Condvar,
    admission: Admission,
    pipeline: Pipeline,
    /// The most tokens of a batch that has more than one part.
    batch_tokens: usize,
    departures: Departures,
    /// What the watchdog sees.
    pub(super) progress: Progress,
}

struct State {
    waiting: FairQueue<FlowKey, QueuedRequest, Work>,
    arrivals: Arrivals<FlowKey>,
    throughput: Throughput,
    /// The batches that run, by their numbers, which grow.
    running: BTreeMap<u64, Run>,
    /// The number of batches so far.
    batches: u64,
    /// Whether the worker waits for requests, or for a batch to end.
    idle: bool,
    /// No waiting request has an earlier deadline.
    earliest: Option<Instant>,
    expired: u64,
    withdrawn: u64,
    open: bool,
}

impl Queue {
    /// An open queue with these rules of admission, for batches of at most `batch_tokens` tokens.
    pub(super) fn new(admission: Admission, pipeline: Pipeline, batch_tokens: usize) -> Self {
        let state = State {
            waiting: FairQueue::new(QUANTUM, TURN),
            arrivals: Arrivals::new(),
            throughput: Throughput::default(),
            running: BTreeMap::new(),
            batches: 0,
            idle: false,
            earliest: None,
            expired: 0,
            withdrawn: 0,
            open: true,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            admission,
            pipeline,
            batch_tokens,
            departures: Departures::default(),
            progress: Progress::default(),
        }
    }

    /// Whether a request of `tokens` tokens for the adapter of this name would be accepted now.
    pub(super) fn admits(&self, adapter: &str, tokens: usize, deadline: Option<Instant>) -> Result<(), Refused> {
        // It is dropped after the lock, because it is declared before it.
        let mut forgotten = Vec::new();
        self.check(&mut self.lock(), &FlowKey::Name(adapter.into()), tokens, deadline, &mut forgotten)
    }

    fn check(
        &self,
        state: &mut State,
        flow: &FlowKey,
        tokens: usize,
        deadline: Option<Instant>,
        forgotten: &mut Vec<Forgotten>,
    ) -> Result<(), Refused> {
        if !state.open {
            return Err(Refused::Draining);
        }
        let now = Instant::now();
        let time = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let check = |state: &State| self.admission.check(&state.load(), &state.candidate(flow, tokens, time));
        check(state).or_else(|refused| {
            let Some(left) = state.forget(&self.departures, now) else { return Err(refused) };
            *forgotten = left;
            check(state)
        })
    }

    /// Accepts all rows of a request, or none.
    pub(super) fn push(&self, request: Request) -> Result<Answer, Refused> {
        let names: Vec<(*const Adapter, Arc<str>)> =
            request.pins.iter().map(|pin| (Arc::as_ptr(pin.adapter()), pin.name().into())).collect();
        let groups = charge::groups(&request.rows, self.batch_tokens);
        let tokens = groups.iter().map(|group| group.cost).sum();
        let mut seen = HashSet::new();
        let new = request.rows.iter().filter(|row| seen.insert(Arc::as_ptr(&row.adapter)));
        let flows: Vec<FlowKey> = new.map(|row| flow(&row.adapter, &names)).collect();
        let adapters: Names = names.into_iter().map(|(_, name)| name).collect();
        let deadline = request.deadline;

        // It is dropped after the lock, because it is declared before it.
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        // The fullest flow, so that a request gains nothing by asking another adapter as well. The first one of equals.
        if let Some(flow) = flows.into_iter().rev().max_by_key(|flow| state.waiting.held(flow)) {
            self.check(&mut state, &flow, tokens, deadline, &mut forgotten)?;
            state.earliest = state.earliest.into_iter().chain(deadline).min();
            let (reply, parts, answer) = self.parts(request, groups, &adapters);
            state.arrivals.note(flow.clone(), Instant::now());
            state.waiting.push(flow, QueuedRequest { reply, deadline, adapters }, parts);
            self.changed.notify_one();
            Ok(answer)
        } else if state.open {
            Ok(self.parts(request, groups, &adapters).2)
        } else {
            Err(Refused::Draining)
        }
    }

    /// Both ends of a request's answer, and the request's parts.
    fn parts(
        &self,
        Request { rows, pins, .. }: Request,
        groups: Vec<charge::Group>,
        adapters: &Names,
    ) -> (Arc<PendingReply>, Vec<Part<Work>>, Answer) {
        let (reply, answer) = PendingReply::new(rows.len(), pins, self.departures.clone(), Instant::now());
        let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
        let mut entry =
            |index: usize| Some(Entry { row: rows[index].take()?, slot: ReplySlot::new(index, Arc::clone(&reply)) });
        let parts = groups.into_iter().map(|charge::Group { rows, cost }| {
            let entries = rows.into_iter().filter_map(&mut entry).collect();
            Part { cost, work: Work { entries, cost, adapters: Arc::clone(adapters) } }
        });
        let parts = parts.collect();
        (reply, parts, answer)
    }

    /// Waits for requests, and until fewer batches run than the pipeline has places, and takes a batch. `None` once the queue is
    /// closed and empty.
    pub(super) fn next_batch(self: &Arc<Self>) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            if state.running.len() < self.pipeline.passes {
                let now = Instant::now();
                if let Some(forgotten) = state.forget(&self.departures, now).filter(|forgotten| !forgotten.is_empty()) {
                    drop(state);
                    drop(forgotten);
                    state = self.lock();
                }
                let (entries, run) = state.take(self.batch_tokens, &self.pipeline, now);
                if !entries.is_empty() {
                    // The watchdog watches the oldest batch.
                    if state.running.is_empty() {
                        self.progress.begin(state.throughput.time_of(run.tokens), run.time_factor());
                    }
                    state.batches += 1;
                    let (tokens, number) = (run.tokens, state.batches);
                    state.running.insert(number, run);
                    return Some(Batch { entries, tokens, running: Running { queue: Arc::clone(self), number } });
                }
                if !state.open {
                    state.idle = true;
                    state.report(&self.progress);
                    return None;
                }
            }
            state.idle = true;
            state.report(&self.progress);
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
            state.report(&self.progress);
        }
    }

    /// Records that a batch has ended, and how long it took, unless it failed.
    pub(super) fn ran(&self, batch: Running, took: Option<Duration>) {
        // The batch is no longer the step that the watchdog watches, even if the lock takes time.
        self.progress.begin(None, 1);
        let mut state = self.lock();
        if let (Some(tokens), Some(took)) = (state.running.get(&batch.number).map(|run| run.tokens), took) {
            state.throughput.learn(tokens, took);
        }
        drop(state);
        drop(batch);
    }

    /// The worker ended by a panic, and is replaced.
    pub(super) fn replaced(&self) {
        self.progress.begin(None, 1);
    }

    /// Accepts no more requests; those in the queue still run.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// Fails all requests that wait, when there is nobody to run them.
    pub(super) fn abandon(&self) {
        self.progress.abandoned.store(true, Ordering::Relaxed);
        self.close();
        let left = self.lock().waiting.take_unless(|_| false);
        drop(left);
        self.progress.rest();
    }

    /// Whether it still accepts requests.
    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// The number of tokens in the queue.
    pub(super) fn tokens(&self) -> usize {
        self.lock().waiting.tokens()
    }

    /// The adapters for which requests wait, with the number of these requests, in the order of their names.
    pub(super) fn waiting(&self) -> Vec<(Arc<str>, usize)> {
        let mut counts = BTreeMap::new();
        for request in self.lock().waiting.requests() {
            for name in &*request.adapters {
                *counts.entry(Arc::clone(name)).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    /// The adapters of the batches that run, in the order of their names.
    pub(super) fn running(&self) -> Vec<Arc<str>> {
        let names: BTreeSet<Arc<str>> =
            self.lock().running.values().flat_map(|run| run.adapters.iter().cloned()).collect();
        names.into_iter().collect()
    }

    /// How many requests were dropped because their deadline passed.
    pub(super) fn expired(&self) -> u64 {
        self.lock().expired
    }

    /// How many requests were dropped because nobody waited for their answers any more.
    pub(super) fn withdrawn(&self) -> u64 {
        self.lock().withdrawn
    }

    /// Locks the state, even after a panic: no statement leaves the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flow(adapter: &Arc<Adapter>, names: &[(*const Adapter, Arc<str>)]) -> FlowKey {
    let address = Arc::as_ptr(adapter);
    let name = names.iter().find(|(pinned, _)| *pinned == address);
    name.map_or(FlowKey::Address(address as usize), |(_, name)| FlowKey::Name(Arc::clone(name)))
}

impl State {
    fn load(&self) -> Load {
        let running = self.running.values().map(|run| run.tokens).sum();
        Load { waiting: self.waiting.tokens(), running, throughput: self.throughput }
    }

    fn candidate(&self, flow: &FlowKey, tokens: usize, time: Option<Duration>) -> Candidate {
        Candidate { tokens, held: self.waiting.held(flow), ahead: self.waiting.ahead(flow, tokens), time }
    }

    /// Sets what the watchdog watches while the worker waits or goes on: the oldest batch as before, if there is one.
    fn report(&self, progress: &Progress) {
        if self.running.is_empty() {
            self.report_next(progress);
        }
    }

    /// Sets what the watchdog watches now that another step begins.
    fn report_next(&self, progress: &Progress) {
        match self.running.values().next() {
            Some(oldest) => progress.begin(self.throughput.time_of(oldest.tokens), oldest.time_factor()),
            None if self.idle => progress.rest(),
            None => progress.begin(None, 1),
        }
    }

    /// Takes the next batch.
    fn take(&mut self, most: usize, pipeline: &Pipeline, now: Instant) -> (Vec<Entry>, Run) {
        let time = self.arrivals.batch_time(now, |flow| self.waiting.held(flow) > 0);
        let useful = self.throughput.tokens_in(time / pipeline.passes as u32).unwrap_or(0);
        let least = if time < BATCH_TIME { 0 } else { micro_batches::TOKENS };
        let work = self.waiting.take(Budget { most, target: useful.max(least).max(pipeline.least) });
        let run = Run {
            tokens: work.iter().map(|work| work.cost).sum(),
            longest: work
                .iter()
                .flat_map(|work| &work.entries)
                .map(|entry| entry.row.text.ids.len())
                .max()
                .unwrap_or(0),
            adapters: work.iter().flat_map(|work| work.adapters.iter().cloned()).collect(),
        };
        (work.into_iter().flat_map(|work| work.entries).collect(), run)
    }

    /// Takes out requests whose client went away, requests that have failed, and requests whose deadline has passed. It looks for them
    /// only if there are any, and returns `None` if it did not look. The caller drops them once the state is unlocked: the pin of an
    /// adapter that was replaced frees the adapter's memory.
    fn forget(&mut self, departures: &Departures, now: Instant) -> Option<Vec<Forgotten>> {
        let departed = departures.take();
        if !departed && self.earliest.is_none_or(|earliest| now < earliest) {
            return None;
        }
        let (mut expired, mut withdrawn, mut earliest) = (0, 0, None);
        let forgotten = self.waiting.take_unless(|QueuedRequest { reply, deadline, .. }| match reply.interest() {
            Interest::Answered => false,
            // A client may have given up for the same reason.
            _ if deadline.is_some_and(|deadline| deadline <= now) => {
                reply.expire(now);
                expired += 1;
                false
            }
            Interest::Withdrawn => {
                reply.withdraw();
                withdrawn += 1;
                false
            }
            Interest::Wanted => {
                earliest = earliest.into_iter().chain(*deadline).min();
                true
            }
        });
        self.earliest = earliest;
        self.expired += expired;
        self.withdrawn += withdrawn;
        Some(forgotten)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::reply::Failed;
    use super::*;
    use crate::adapter::{AdapterInfo, AdapterWeights};
    use crate::text::Encoded;

    /// No thread can be started in place of one that has ended.
    #[test]
    fn abandoned_queue_fails_what_waits_and_accepts_nothing() {
        let queue = Queue::new(Admission { limit: 10, timeout: Duration::from_secs(60) }, Pipeline::ONE, 10);
        let info = AdapterInfo { labels: Vec::new(), problem_type: None, base_fingerprint: None, base_model: None };
        let adapter = Arc::new(Adapter { info, weights: AdapterWeights { sites: Vec::new(), head: BTreeMap::new() } });
        let text = Encoded { ids: vec![1; 3], type_ids: vec![0; 3], truncated: false };
        let rows = || vec![Row { text: text.clone(), adapter: Arc::clone(&adapter) }];
        let waiting = queue.push(rows().into()).unwrap();
        assert!(!queue.progress.is_over());
        queue.abandon();
        assert!(matches!(waiting.wait_blocking(), Err(Failed::Lost)));
        assert!(queue.progress.is_over() && queue.tokens() == 0);
        assert_eq!(queue.push(rows().into()).unwrap_err(), Refused::Draining);
    }
}
