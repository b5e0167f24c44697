//! The threads that read the disk: the only ones that wait for it. A few of them work at a time. A thread that the disk keeps for
//! long, as on a dead network volume, no longer counts as one of these few, so that the adapters of other volumes still load. The
//! number of all threads is bounded nonetheless.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::RegistryError;
use super::status::Status;
use crate::panics;

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

/// Who does the jobs.
pub(super) trait Worker: Send + Sync + 'static {
    /// The loader whose threads call [`Self::work`].
    fn loader(&self) -> &Loader;

    /// Does a job. May wait for the disk.
    fn work(self: Arc<Self>, job: Job);
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
    pub(super) fn push<W: Worker>(&self, worker: &Arc<W>, job: Job) {
        lock(&self.queue).jobs.push_back(job);
        self.wake.notify_one();
        self.staff(worker);
    }

    /// Starts a thread, if one is needed. Called also from time to time, because a thread may have become stuck.
    pub(super) fn staff<W: Worker>(&self, worker: &Arc<W>) {
        let mut queue = lock(&self.queue);
        if !queue.wants_thread(Instant::now()) {
            return;
        }
        queue.last_thread += 1;
        let number = queue.last_thread;
        // It counts from now on, so that no second thread starts for the same job.
        queue.busy.insert(number, Instant::now());
        drop(queue);
        let thread = Arc::clone(worker);
        let started =
            thread::Builder::new().name("polyrank-load".into()).spawn(move || thread.loader().run(&thread, number));
        if let Err(error) = started {
            lock(&self.queue).busy.remove(&number);
            tracing::error!("cannot start a thread to load adapters: {error}");
        }
    }

    /// Takes jobs until there are more threads than needed, or the registry is closed.
    fn run<W: Worker>(&self, worker: &Arc<W>, number: u64) {
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
            let is_root = matches!(job, Job::Root);
            // The thread and its place among the busy ones outlive a job that panics.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| Arc::clone(worker).work(job))) {
                tracing::error!("reading the adapters' folder failed: {}", panics::message(&*panic));
            }
            if is_root {
                lock(&self.queue).root = false;
            }
        }
    }

    /// The callers that wait for the list of all adapters.
    pub(super) fn take_listing(&self) -> Vec<ListReply> {
        std::mem::take(&mut lock(&self.queue).listing)
    }

    /// Queues a look at the adapters' folder, unless one is under way.
    pub(super) fn look_at_root<W: Worker>(&self, worker: &Arc<W>) {
        if !std::mem::replace(&mut lock(&self.queue).root, true) {
            self.push(worker, Job::Root);
        }
    }

    /// Queues a list of all adapters, unless one is queued.
    pub(super) fn list<W: Worker>(&self, worker: &Arc<W>, reply: ListReply) {
        let mut queue = lock(&self.queue);
        if queue.listing.len() >= MOST_LISTING || queue.stopped {
            let full = RegistryError::TooManyLists { limit: MOST_LISTING };
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
            self.push(worker, Job::List);
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

/// Locks. A panic in another thread does not matter, because what is locked is consistent after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Panics in looks at the adapters' folder and in lists, and tells the names of the other jobs.
    struct Broken {
        loader: Loader,
        names: Mutex<Sender<Arc<str>>>,
    }

    impl Worker for Broken {
        fn loader(&self) -> &Loader {
            &self.loader
        }

        fn work(self: Arc<Self>, job: Job) {
            match job {
                Job::Adapter(name) => lock(&self.names).send(name).unwrap(),
                Job::List => {
                    let _waiting = self.loader.take_listing();
                    panic!("a list that fails");
                }
                Job::Root => panic!("a look that fails"),
            }
        }
    }

    #[test]
    fn jobs_that_panic_leave_the_threads_and_what_is_queued() {
        let (names, received) = channel();
        let worker = Arc::new(Broken { loader: Loader::default(), names: Mutex::new(names) });
        for _ in 0..2 * MOST_THREADS {
            let (reply, answer) = oneshot::channel();
            worker.loader.list(&worker, reply);
            assert!(answer.blocking_recv().is_err());
        }
        worker.loader.look_at_root(&worker);
        while lock(&worker.loader.queue).root {
            thread::yield_now();
        }
        worker.loader.push(&worker, Job::Adapter("a".into()));
        assert_eq!(&*received.recv().unwrap(), "a");
        assert!(lock(&worker.loader.queue).busy.len() <= WORKING);
        worker.loader.stop();
    }
}
