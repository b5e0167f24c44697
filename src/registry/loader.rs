//! The threads that read the disk: the only ones that wait for it. A few of them work at a time. A thread that the disk keeps for
//! long, as on a dead network volume, no longer counts as one of these few, so that the adapters of other volumes still load. The
//! number of all threads is bounded nonetheless.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::entry::{Found, Order, OrderKind, Outcome, Purpose, Work};
use super::shared::{Shared, lock};
use super::stamp::Stamp;
use super::status::{Status, check};
use super::{RegistryError, files};

/// The number of threads that work at a time.
const WORKING: usize = 4;

/// The maximum number of threads, including those that the disk keeps.
const MOST_THREADS: usize = 64;

/// A job that has taken this long is kept by the disk.
const STUCK: Duration = Duration::from_secs(1);

/// The maximum number of callers that wait for one list of the folder.
const MOST_LISTING: usize = 256;

/// A caller that waits for the list of all adapters.
pub(super) type ListReply = oneshot::Sender<Result<Vec<Status>, RegistryError>>;

/// Something to do with the disk.
pub(super) enum Job {
    /// What the state says that this name needs.
    Adapter(Arc<str>),
    /// A look at the adapters' folder itself.
    Root,
    /// The list of all adapters, for everybody who asks meanwhile.
    List,
}

/// The queue of jobs, and the threads that take them.
#[derive(Default)]
pub(super) struct Loader {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    /// The threads with a job, by number, and since when they have it.
    busy: BTreeMap<u64, Instant>,
    last_thread: u64,
    listing: Vec<ListReply>,
    /// Whether a look at the adapters' folder is queued or running.
    root: bool,
    stopped: bool,
}

impl Queue {
    /// Whether a further thread should work.
    fn wants_thread(&self, now: Instant) -> bool {
        let working = self.busy.values().filter(|since| now.duration_since(**since) < STUCK).count();
        self.jobs.len() > self.idle && !self.stopped && working < WORKING && self.busy.len() < MOST_THREADS
    }
}

impl Loader {
    /// Queues a job.
    pub(super) fn push(&self, shared: &Arc<Shared>, job: Job) {
        lock(&self.queue).jobs.push_back(job);
        self.wake.notify_one();
        self.staff(shared);
    }

    /// Starts a thread, if one is needed. Called also from time to time, because a thread may have become stuck.
    pub(super) fn staff(&self, shared: &Arc<Shared>) {
        let mut queue = lock(&self.queue);
        if !queue.wants_thread(Instant::now()) {
            return;
        }
        queue.last_thread += 1;
        let number = queue.last_thread;
        // It counts from now on, so that no second thread starts for the same job.
        queue.busy.insert(number, Instant::now());
        drop(queue);
        let worker = Arc::clone(shared);
        let started =
            thread::Builder::new().name("polyrank-load".into()).spawn(move || worker.loader.run(&worker, number));
        if let Err(error) = started {
            lock(&self.queue).busy.remove(&number);
            tracing::error!("cannot start a thread to load adapters: {error}");
        }
    }

    /// Takes jobs until there are more threads than needed, or the registry is closed.
    fn run(&self, shared: &Arc<Shared>, number: u64) {
        loop {
            let mut queue = lock(&self.queue);
            queue.busy.remove(&number);
            queue.idle += 1;
            while queue.jobs.is_empty() && !queue.stopped && queue.idle <= WORKING {
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.idle -= 1;
            let Some(job) = queue.jobs.pop_front().filter(|_| !queue.stopped) else { return };
            queue.busy.insert(number, Instant::now());
            drop(queue);
            self.work(shared, job);
        }
    }

    fn work(&self, shared: &Arc<Shared>, job: Job) {
        match job {
            Job::Adapter(name) => adapter(shared, &name),
            Job::Root => {
                match shared.root.canonicalize() {
                    Ok(root) if root.is_dir() => shared.with(|state| state.look_at_root(Some(root))),
                    Err(error) if !files::is_absent(&error) => {}
                    _ => shared.with(|state| state.look_at_root(None)),
                }
                lock(&self.queue).root = false;
            }
            Job::List => {
                let waiting = std::mem::take(&mut lock(&self.queue).listing);
                let list = shared.list();
                for reply in waiting {
                    // A caller may be gone.
                    let _ = reply.send(list.clone());
                }
            }
        }
    }

    /// Queues a look at the adapters' folder, unless one is under way.
    pub(super) fn look_at_root(&self, shared: &Arc<Shared>) {
        if !std::mem::replace(&mut lock(&self.queue).root, true) {
            self.push(shared, Job::Root);
        }
    }

    /// Queues a list of all adapters, unless one is queued.
    pub(super) fn list(&self, shared: &Arc<Shared>, reply: ListReply) {
        let mut queue = lock(&self.queue);
        if queue.listing.len() >= MOST_LISTING || queue.stopped {
            let full = RegistryError::TooManyWaiters { name: "*".into(), limit: MOST_LISTING };
            let error = if queue.stopped { RegistryError::Stopped } else { full };
            drop(queue);
            // The caller may be gone.
            let _ = reply.send(Err(error));
            return;
        }
        let first = queue.listing.is_empty();
        queue.listing.push(reply);
        drop(queue);
        if first {
            self.push(shared, Job::List);
        }
    }

    /// Lets the threads end. Those that the disk keeps end when it answers.
    pub(super) fn stop(&self) {
        let mut queue = lock(&self.queue);
        queue.stopped = true;
        queue.jobs.clear();
        queue.listing.clear();
        drop(queue);
        self.wake.notify_all();
    }
}

/// Does what the state says that `name` needs.
fn adapter(shared: &Arc<Shared>, name: &Arc<str>) {
    let Some(work) = shared.with(|state| state.begin(name, Instant::now())) else { return };
    let result = catch_unwind(AssertUnwindSafe(|| perform(shared, name, &work)))
        .unwrap_or_else(|panic| Err(RegistryError::Panicked { name: (&**name).into(), reason: message(&*panic) }));
    shared.with(|state| state.finish(name, work.purpose, result, Instant::now()));
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Reads what a job needs from the disk.
fn perform(shared: &Shared, name: &str, work: &Work) -> Result<Outcome, RegistryError> {
    let place = shared.place(name, &work.folder);
    match &work.purpose {
        Purpose::Order(Order { kind: OrderKind::Delete | OrderKind::Describe, .. }) => {
            return place.find().map(|_| Outcome::Exists);
        }
        Purpose::Look => {
            if let Some(outcome) = seen(shared, work) {
                return Ok(outcome);
            }
        }
        Purpose::Load | Purpose::Order(_) => {}
    }
    // An update that is broken is told at once, and looked at again when it changes. A first load would be an error for the caller,
    // who had better try again.
    let finished = |error, cut_short: bool| {
        if cut_short && matches!(work.purpose, Purpose::Load) { place.changing() } else { error }
    };
    let version = place.read(work.stamp.as_ref()).map_err(|error| finished(error, place.lacks_weights_yet()))?;
    let same = work.digest == Some(version.digest);
    if same && matches!(work.purpose, Purpose::Look) {
        return Ok(Outcome::Rewritten(version.stamp));
    }
    let checked = if same && work.resident {
        None
    } else {
        let checked = check(&*shared.source, place, &version, shared.strict_base);
        Some(checked.map_err(|error| finished(error, version.is_cut_short_yet()))?)
    };
    let folder = work.folder.clone();
    Ok(Outcome::Found(Box::new(Found { folder, stamp: version.stamp, digest: version.digest, checked })))
}

/// A cheap look at the files; `None` if they have to be read.
fn seen(shared: &Shared, work: &Work) -> Option<Outcome> {
    let Ok(stamp) = Stamp::of(&shared.root.join(&work.folder)) else {
        // The disk fails at the moment. The version in memory serves on.
        return Some(Outcome::Unknown);
    };
    if work.stamp == Some(stamp) {
        return Some(Outcome::Same);
    }
    if work.refused == Some(stamp) {
        return Some(Outcome::StillRefused);
    }
    let quiet = stamp.quiet(work.stamp.as_ref());
    match work.change {
        Some((before, since)) if before == stamp && since.elapsed() >= quiet => None,
        _ => Some(Outcome::Changing(stamp)),
    }
}
