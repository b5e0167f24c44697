//! Splits a batch into micro-batches, which run in parallel on the cores.
//!
//! One product of small matrices does not keep two cores busy, but two products at once do. Micro-batches are cut by tokens, not by
//! cores: training adds their gradients in a fixed order, so that a run gives the same adapter on any number of cores.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// The number of tokens that a micro-batch has at least, if there are as many: enough for products at full speed, few enough that the
/// activations stay in a core's cache.
pub const TOKENS: usize = 128;

/// Cuts a batch into `count` micro-batches of nearly equal sizes, or fewer if texts are too long for that. `lengths` are the sizes of the
/// texts, in tokens or in any unit of work; the result is ranges of texts, none of them empty. Each cut is at the bound between two texts
/// that is nearest to where it would be if texts could be cut.
#[must_use]
pub fn divide(lengths: &[usize], count: usize) -> Vec<Range<usize>> {
    let total: usize = lengths.iter().sum();
    let (mut ranges, mut start) = (Vec::with_capacity(count), 0);
    let (mut end, mut before) = (0, 0);
    for part in 1..count {
        let target = total * part / count;
        while end < lengths.len() && before + lengths[end] <= target + lengths[end] / 2 {
            before += lengths[end];
            end += 1;
        }
        if start < end && end < lengths.len() {
            ranges.push(start..end);
            start = end;
        }
    }
    if start < lengths.len() {
        ranges.push(start..lengths.len());
    }
    ranges
}

/// How long a thread spins before it returns. It may spin inside a part of a job, which waits for it that long. In all other cases, a
/// return only costs time, because each return calls all threads to spin again.
const SPELL: Duration = Duration::from_millis(2);

/// The number of jobs inside [`with_spinning_pool`].
static JOBS: AtomicUsize = AtomicUsize::new(0);

/// The number of calls to spin.
static CALLS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread is inside [`with_spinning_pool`], or spins for it.
    static ENGAGED: Cell<bool> = const { Cell::new(false) };
    /// The number of calls to spin that this thread need not follow any more.
    static FOLLOWED: Cell<usize> = const { Cell::new(0) };
}

/// Runs `job` while the pool's other threads spin. Its operations are shorter than the time a sleeping thread needs to wake.
pub fn with_spinning_pool<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    // Runs on this thread if it belongs to a pool, else on a thread of the global pool.
    rayon::scope(|_| {
        let _job = Job::begin();
        let _engaged = Engaged::new();
        if rayon::current_num_threads() > 1 {
            call_to_spin();
        }
        job()
    })
}

/// Calls all threads of this pool to spin.
fn call_to_spin() {
    let call = CALLS.fetch_add(1, Ordering::AcqRel) + 1;
    rayon::spawn_broadcast(move |_| spin(call));
}

/// Executes the pool's work until no job runs. While a thread spins, it may come upon the call to spin for another job. That call
/// returns at once, because the thread spins for all jobs already. Otherwise, jobs that overlap would deepen its stack without bound.
///
/// A thread may also come upon a call where it waits inside a part of a job. That job cannot end before the thread has returned to the
/// part. So after [`SPELL`] the thread returns, and calls all threads to spin, itself among them. It follows that call once it has
/// nothing else to do.
fn spin(call: usize) {
    if ENGAGED.get() || call <= FOLLOWED.get() {
        return;
    }
    let _engaged = Engaged::new();
    let until = Instant::now() + SPELL;
    // A thread that starts late sees that the job is done.
    while JOBS.load(Ordering::Acquire) > 0 {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            continue;
        }
        // Yield to other threads, which tokenize texts or write responses.
        std::thread::yield_now();
        if Instant::now() > until {
            // All calls until now were for the jobs that it has just spun for.
            FOLLOWED.set(CALLS.load(Ordering::Acquire));
            return call_to_spin();
        }
    }
}

/// Counts a job until it is dropped, even after a panic.
struct Job;

impl Job {
    fn begin() -> Self {
        JOBS.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        JOBS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Marks this thread as engaged until it is dropped.
struct Engaged {
    before: bool,
}

impl Engaged {
    fn new() -> Self {
        Self { before: ENGAGED.replace(true) }
    }
}

impl Drop for Engaged {
    fn drop(&mut self) {
        ENGAGED.set(self.before);
    }
}

/// Groups of threads. Each group runs one micro-batch at a time.
pub struct Workers {
    groups: Vec<ThreadPool>,
}

impl Workers {
    /// Makes groups for batches of about `tokens` tokens: as many groups as there are micro-batches or threads, whichever is fewer.
    /// The threads are divided evenly among the groups.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn new(tokens: usize) -> Result<Self, ThreadPoolBuildError> {
        let threads = rayon::current_num_threads();
        let groups = tokens.div_ceil(TOKENS).clamp(1, threads);
        let name = |group: usize| move |thread| format!("group-{group}-{thread}");
        let group = |group| ThreadPoolBuilder::new().num_threads(threads / groups).thread_name(name(group)).build();
        Ok(Self { groups: (0..groups).map(group).collect::<Result<_, _>>()? })
    }

    /// The number of micro-batches that run in parallel.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Runs `job(0), ..., job(count - 1)`, each on the next free group, and returns the results in order.
    pub fn map<T: Send>(&self, count: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let work = |done: &mut Vec<(usize, T)>| {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return;
                }
                done.push((i, job(i)));
            }
        };
        let groups = &self.groups[..self.groups.len().min(count)];
        let mut done: Vec<Vec<(usize, T)>> = groups.iter().map(|_| Vec::new()).collect();
        on_each(groups, &mut done, &work);
        let mut done: Vec<(usize, T)> = done.into_iter().flatten().collect();
        done.sort_unstable_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// Runs `work` on one thread of each group at the same time, each with its own element of `places`, and returns when all are done.
/// The groups' threads wait between calls, so no thread is started here.
fn on_each<P: Send>(groups: &[ThreadPool], places: &mut [P], work: &(impl Fn(&mut P) + Sync)) {
    if let (Some((group, groups)), Some((place, places))) = (groups.split_first(), places.split_first_mut()) {
        group.in_place_scope(|scope| {
            scope.spawn(|_| work(place));
            on_each(groups, places, work);
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn long_texts_make_fewer_parts() {
        assert_eq!(divide(&[10, 10, 10, 10], 2), [0..2, 2..4]);
        assert_eq!(divide(&[3, 3, 90, 3, 3], 4), [0..2, 2..3, 3..5]);
        assert_eq!(divide(&[7], 3).len(), 1);
        assert_eq!(divide(&[7, 1], 1).len(), 1);
        assert!(divide(&[], 3).is_empty());
    }

    proptest! {
        #[test]
        fn parts_are_nearly_equal_and_keep_the_order(lengths in prop::collection::vec(1usize..50, 1..200), count in 1usize..20) {
            let parts = divide(&lengths, count);
            let all: Vec<usize> = parts.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert!(parts.len() <= count && parts.iter().all(|part| !part.is_empty()));
            let (total, longest): (usize, _) = (lengths.iter().sum(), lengths.iter().copied().max().unwrap_or(0));
            if total / count >= longest {
                prop_assert_eq!(parts.len(), count);
                for part in parts {
                    let size: usize = lengths[part].iter().sum();
                    prop_assert!(size.abs_diff(total / count) <= longest + 1, "{size} of {total} in {count} parts");
                }
            }
        }
    }

    #[test]
    fn map_returns_results_in_order() {
        let workers = Workers::new(1000).unwrap();
        let slow = |i: usize| {
            std::thread::sleep(Duration::from_micros(((7 * i) % 5) as u64 * 100));
            i * i
        };
        assert_eq!(workers.map(20, slow), (0..20).map(|i| i * i).collect::<Vec<_>>());
        assert!(workers.map(0, slow).is_empty());
    }

    #[test]
    fn spinning_pools_of_many_callers_all_finish() {
        let sum = |n: usize| (0..n).into_par_iter().with_max_len(1).sum::<usize>();
        let callers: Vec<_> = (0..8)
            .map(|i| {
                std::thread::spawn(move || {
                    (0..50).all(|_| with_spinning_pool(|| sum(100 + i) + sum(i)) == sum(100 + i) + sum(i))
                })
            })
            .collect();
        assert!(callers.into_iter().all(|caller| caller.join().unwrap()));
    }

    /// Two callers whose jobs overlap without end: each job lasts until the other caller's next job runs. The third thread spins all the
    /// while. If it spun for each job inside its spinning for the job before, its stack would overflow.
    #[test]
    fn overlapping_jobs_do_not_deepen_the_stack_of_a_spinning_thread() {
        const JOBS: usize = 3000;
        let pool = ThreadPoolBuilder::new().num_threads(3).stack_size(256 << 10).build().unwrap();
        // The number of jobs that have begun, and of those that the third thread has noticed.
        let (begun, noticed) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let wait = |counter: &AtomicUsize, least: usize| {
            while counter.load(Ordering::Acquire) < least {
                std::thread::yield_now();
            }
        };
        let job = |number: usize| {
            wait(&begun, number);
            let notices = Arc::clone(&noticed);
            rayon::spawn_broadcast(move |_| {
                notices.fetch_max(number + 1, Ordering::AcqRel);
            });
            wait(&noticed, number + 1);
            begun.store(number + 1, Ordering::Release);
            wait(&begun, (number + 2).min(JOBS));
        };
        std::thread::scope(|scope| {
            for caller in 0..2 {
                let (pool, job) = (&pool, &job);
                scope.spawn(move || {
                    // Two threads of the pool stay with the callers.
                    pool.install(|| {
                        for number in (caller..JOBS).step_by(2) {
                            with_spinning_pool(|| job(number));
                        }
                    });
                });
            }
        });
        assert_eq!(begun.into_inner(), JOBS);
    }

    /// A thread may begin a part of a job before it hears of the call to spin, and hear of it when it waits inside that part. The job
    /// waits for the part, so that a thread that spun there until the job is done would never go on.
    #[test]
    fn a_call_to_spin_inside_a_part_of_the_job_does_not_hold_the_part_up() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let [waits, begun, stolen, finished] = [(); 4].map(|()| AtomicBool::new(false));
        let wait = |flag: &AtomicBool| {
            while !flag.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        };
        // One thread runs the job, once the other has the part. It does the pool's work until the part is finished.
        let job = || {
            wait(&waits);
            with_spinning_pool(|| {
                begun.store(true, Ordering::Release);
                while !finished.load(Ordering::Acquire) {
                    rayon::yield_now();
                }
            });
        };
        // The other runs the part. The job's thread takes half of it, so that the other waits for that half and hears of the call.
        let half = || {
            stolen.store(true, Ordering::Release);
            std::thread::sleep(Duration::from_millis(20));
        };
        let part = || {
            waits.store(true, Ordering::Release);
            wait(&begun);
            rayon::join(|| wait(&stolen), half);
            finished.store(true, Ordering::Release);
        };
        std::thread::scope(|scope| {
            // It ends the job where the part is held up, so that the test fails instead of running for ever.
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(20);
                while !finished.load(Ordering::Acquire) && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert!(finished.swap(true, Ordering::AcqRel), "the part was held up");
            });
            pool.join(job, part);
        });
    }

    /// Passes of all forms at once, with large allocations that threads free for each other. It ends unless a wake-up is lost.
    #[test]
    fn passes_of_many_callers_all_finish() {
        let workers = Workers::new(1000).unwrap();
        let work = |seed: usize| {
            let parts: Vec<Vec<usize>> =
                (0..8).into_par_iter().with_max_len(1).map(|i| vec![seed + i; 1 << (8 + (seed + i) % 8)]).collect();
            let (left, right) = rayon::join(|| parts[..4].iter().map(|p| p[0]).sum::<usize>(), || parts[4..].len());
            left + right
        };
        let until = Instant::now() + Duration::from_secs(2);
        let expected = |seed: usize| 4 * seed + 6 + 4;
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let (workers, work) = (&workers, &work);
                scope.spawn(move || {
                    let mut seed = caller;
                    while Instant::now() < until {
                        assert_eq!(with_spinning_pool(|| work(seed)), expected(seed));
                        assert_eq!(workers.map(3, |i| work(seed + i)), [0, 1, 2].map(|i| expected(seed + i)));
                        seed += 4;
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_in_a_spinning_pool_propagates_and_frees_the_threads() {
        assert!(std::panic::catch_unwind(|| with_spinning_pool(|| panic!("broken"))).is_err());
        assert_eq!(with_spinning_pool(|| rayon::join(|| 1, || 2)), (1, 2));
        assert!(!ENGAGED.get());
    }

    #[test]
    fn a_panic_in_map_propagates_and_the_workers_still_run() {
        let workers = Workers::new(1000).unwrap();
        let broken = std::panic::AssertUnwindSafe(|| workers.map(5, |i| assert_ne!(i, 3)));
        assert!(std::panic::catch_unwind(broken).is_err());
        assert_eq!(workers.map(3, |i| i + 1), [1, 2, 3]);
    }
}
