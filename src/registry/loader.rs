//! The threads that read the disk. No other thread waits for it. A few of them work at a time. A thread that the disk keeps for
//! long, as on a dead network volume, no longer counts as one of these few, so that the adapters of other volumes still load. The
//! number of all threads is bounded nonetheless. Looks at files for which nobody waits come after all other jobs and have only a part of
//! the threads, because every adapter of a dead volume is looked at, used or not.

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

/// The maximum number of threads that look at files for which nobody waits, including those that the disk keeps.
const MOST_LOOKING: usize = 16;

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

/// How urgent a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody waits for it.
    Wanted,
    /// Nobody waits for it.
    Look,
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
    /// The jobs that somebody waits for.
    wanted: VecDeque<Job>,
    /// The other jobs: looks at adapters.
    looks: VecDeque<Job>,
    /// The number of threads that look.
    looking: usize,
    idle: usize,
    /// The threads with a job, by number, and since when they have it.
    busy: BTreeMap<u64, Instant>,
    last_thread: u64,
    /// Whether the last thread could not be started. The log says so once.
    lacks_threads: bool,
    listing: Vec<ListReply>,
    /// Whether a list is queued or running. A disk that does not answer keeps one thread with lists, and not one for each caller.
    list: bool,
    /// Whether a look at the adapters' folder is queued or running.
    root: bool,
    stopped: bool,
}

impl Queue {
    /// Whether a further thread should work.
    fn wants_thread(&self, now: Instant) -> bool {
        let working = self.busy.values().filter(|since| now.duration_since(**since) < STUCK).count();
        self.ready() > self.idle && !self.stopped && working < WORKING && self.busy.len() < MOST_THREADS
    }

    /// The number of jobs that threads may take now.
    fn ready(&self) -> usize {
        self.wanted.len() + self.looks.len().min(MOST_LOOKING.saturating_sub(self.looking))
    }

    /// The next job, if a thread may take one.
    fn pop(&mut self) -> Option<(Job, Urgency)> {
        if let Some(job) = self.wanted.pop_front() {
            return Some((job, Urgency::Wanted));
        }
        if self.looking >= MOST_LOOKING {
            return None;
        }
        let job = self.looks.pop_front()?;
        self.looking += 1;
        Some((job, Urgency::Look))
    }
}

impl Loader {
    /// Queues a job.
    pub(super) fn push<W: Worker>(&self, worker: &Arc<W>, job: Job, urgency: Urgency) {
        let mut queue = lock(&self.queue);
        match urgency {
            Urgency::Wanted => {
                // An adapter that waits to be looked at needs no look beside this job.
                if let Job::Adapter(name) = &job {
                    let is_same = |look: &Job| matches!(look, Job::Adapter(other) if other == name);
                    let look = queue.looks.iter().position(is_same);
                    look.and_then(|at| queue.looks.remove(at));
                }
                queue.wanted.push_back(job);
            }
            Urgency::Look => queue.looks.push_back(job),
        }
        drop(queue);
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
        let mut queue = lock(&self.queue);
        let logged = std::mem::replace(&mut queue.lacks_threads, started.is_err());
        if let Err(error) = started {
            queue.busy.remove(&number);
            drop(queue);
            if !logged {
                tracing::error!("cannot start a thread to load adapters: {error}");
            }
        }
    }

    /// Takes jobs until there are more threads than needed, or the registry is closed.
    fn run<W: Worker>(&self, worker: &Arc<W>, number: u64) {
        loop {
            let mut queue = lock(&self.queue);
            queue.busy.remove(&number);
            queue.idle += 1;
            while queue.ready() == 0 && !queue.stopped && queue.idle <= WORKING {
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.idle -= 1;
            if queue.stopped {
                return;
            }
            let Some((job, urgency)) = queue.pop() else { return };
            queue.busy.insert(number, Instant::now());
            drop(queue);
            let (is_root, is_list) = (matches!(job, Job::Root), matches!(job, Job::List));
            // The thread and its place among the busy ones outlive a job that panics.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| Arc::clone(worker).work(job))) {
                tracing::error!("reading the adapters' folder failed: {}", panics::message(&*panic));
            }
            let mut queue = lock(&self.queue);
            if is_root {
                queue.root = false;
            }
            if is_list {
                // Who asked while it was made may have to see what has changed since.
                queue.list = !queue.listing.is_empty();
                if queue.list {
                    queue.wanted.push_back(Job::List);
                }
            }
            if urgency == Urgency::Look {
                queue.looking -= 1;
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
            self.push(worker, Job::Root, Urgency::Wanted);
        }
    }

    /// Queues a list of all adapters, unless one is queued or running. Another one follows a running one.
    pub(super) fn list<W: Worker>(&self, worker: &Arc<W>, reply: ListReply) {
        let mut queue = lock(&self.queue);
        if queue.listing.len() >= MOST_LISTING {
            // Callers give up in the end.
            queue.listing.retain(|reply| !reply.is_closed());
        }
        if queue.listing.len() >= MOST_LISTING || queue.stopped {
            let full = RegistryError::TooManyLists { limit: MOST_LISTING };
            let error = if queue.stopped { RegistryError::Stopped } else { full };
            drop(queue);
            // The caller may be gone.
            let _ = reply.send(Err(error));
            return;
        }
        let first = !std::mem::replace(&mut queue.list, true);
        queue.listing.push(reply);
        drop(queue);
        if first {
            self.push(worker, Job::List, Urgency::Wanted);
        }
    }

    /// Lets the threads end. Those that the disk keeps end when it answers.
    pub(super) fn stop(&self) {
        let mut queue = lock(&self.queue);
        queue.stopped = true;
        queue.wanted.clear();
        queue.looks.clear();
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

    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Panics in looks at the adapters' folder and in lists, and reports the names of the other jobs. The disk keeps lists
    /// and those whose name begins with `dead` while the test locks it.
    struct Broken {
        loader: Loader,
        names: Mutex<Sender<Arc<str>>>,
        disk: Mutex<()>,
    }

    impl Broken {
        fn new() -> (Arc<Self>, Receiver<Arc<str>>) {
            let (names, received) = channel();
            (Arc::new(Self { loader: Loader::default(), names: Mutex::new(names), disk: Mutex::new(()) }), received)
        }
    }

    impl Worker for Broken {
        fn loader(&self) -> &Loader {
            &self.loader
        }

        fn work(self: Arc<Self>, job: Job) {
            match job {
                Job::Adapter(name) if name.starts_with("dead") => drop(lock(&self.disk)),
                Job::Adapter(name) => lock(&self.names).send(name).unwrap(),
                Job::List => {
                    let _waiting = self.loader.take_listing();
                    drop(lock(&self.disk));
                    panic!("a list that fails");
                }
                Job::Root => panic!("a look that fails"),
            }
        }
    }

    #[test]
    fn jobs_that_panic_leave_the_threads_and_what_is_queued() {
        let (worker, received) = Broken::new();
        for _ in 0..2 * MOST_THREADS {
            let (reply, answer) = oneshot::channel();
            worker.loader.list(&worker, reply);
            assert!(answer.blocking_recv().is_err());
        }
        worker.loader.look_at_root(&worker);
        while lock(&worker.loader.queue).root {
            thread::yield_now();
        }
        worker.loader.push(&worker, Job::Adapter("a".into()), Urgency::Wanted);
        assert_eq!(&*received.recv().unwrap(), "a");
        assert!(lock(&worker.loader.queue).busy.len() <= WORKING);
        worker.loader.stop();
    }

    /// Whoever lists a dead volume waits for the one list that the disk keeps, or for the one after it.
    #[test]
    fn lists_that_the_disk_keeps_take_one_thread() {
        let (worker, received) = Broken::new();
        let dead = lock(&worker.disk);
        let mut answers = Vec::new();
        for number in 0..2 * MOST_THREADS {
            let (reply, answer) = oneshot::channel();
            worker.loader.list(&worker, reply);
            answers.push(answer);
            while number == 0 && lock(&worker.loader.queue).wanted.len() == 1 {
                thread::yield_now();
            }
            for since in lock(&worker.loader.queue).busy.values_mut() {
                *since = since.checked_sub(STUCK).unwrap_or(*since);
            }
        }
        assert!(lock(&worker.loader.queue).wanted.is_empty());
        worker.loader.push(&worker, Job::Adapter("alive".into()), Urgency::Wanted);
        assert_eq!(&*received.recv().unwrap(), "alive");
        assert!(lock(&worker.loader.queue).last_thread <= 2, "a thread for the lists, and one for the adapter");
        drop(dead);
        // All callers hear of the lists, which fail here.
        answers.into_iter().for_each(|answer| assert!(answer.blocking_recv().is_err()));
        worker.loader.stop();
    }

    /// Every adapter of a dead volume is looked at. Those looks leave threads for what somebody waits for, also for adapters whose own
    /// look is queued behind them.
    #[test]
    fn looks_that_the_disk_keeps_leave_threads_for_loads() {
        let (worker, received) = Broken::new();
        let dead = lock(&worker.disk);
        for i in 0..2 * MOST_THREADS {
            worker.loader.push(&worker, Job::Adapter(format!("dead{i}").into()), Urgency::Look);
        }
        worker.loader.push(&worker, Job::Adapter("alive".into()), Urgency::Look);
        // A thread may start for each look that the disk keeps, once it has kept the ones before for long.
        while lock(&worker.loader.queue).looking < MOST_LOOKING {
            for since in lock(&worker.loader.queue).busy.values_mut() {
                *since = since.checked_sub(STUCK).unwrap_or(*since);
            }
            worker.loader.staff(&worker);
            thread::yield_now();
        }
        worker.loader.push(&worker, Job::Adapter("alive".into()), Urgency::Wanted);
        while received.try_recv().is_err() {
            for since in lock(&worker.loader.queue).busy.values_mut() {
                *since = since.checked_sub(STUCK).unwrap_or(*since);
            }
            worker.loader.staff(&worker);
            thread::yield_now();
        }
        assert_eq!(lock(&worker.loader.queue).looking, MOST_LOOKING);
        assert_eq!(lock(&worker.loader.queue).looks.len(), 2 * MOST_THREADS - MOST_LOOKING);
        // A thread that finds no job that it may take leaves the looks.
        assert!(lock(&worker.loader.queue).pop().is_none());
        assert_eq!(lock(&worker.loader.queue).looks.len(), 2 * MOST_THREADS - MOST_LOOKING);
        worker.loader.stop();
        drop(dead);
    }
}
