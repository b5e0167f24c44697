//! A batch in several passes, side by side on the cores.
//!
//! Small matrices do not keep two cores busy with one product; two products at once do. Passes are cut by tokens, not by cores:
//! training adds their gradients in order, so that a run gives the same adapter on any number of cores.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Tokens that a pass ends after: enough for a product at full speed, few enough that activations stay in a core's cache.
pub const TOKENS: usize = 128;

/// Cuts a batch into passes that end after `most` tokens: ranges of positions in `lengths`, the tokens of each text; none empty.
#[must_use]
pub fn cut(lengths: impl IntoIterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let mut passes = Vec::new();
    let (mut start, mut end, mut tokens) = (0, 0, 0usize);
    for length in lengths {
        end += 1;
        tokens = tokens.saturating_add(length);
        if tokens >= most {
            passes.push(start..end);
            (start, tokens) = (end, 0);
        }
    }
    if start < end {
        passes.push(start..end);
    }
    passes
}

thread_local! {
    /// Whether this thread is in a pass that runs alone.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `job` while the pool's other threads spin. Its operations are shorter than the time a sleeping thread needs to wake.
pub fn with_spinning_pool<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    // On this thread, or one of the pool's if it is none of them.
    rayon::scope(|_| {
        let done = Arc::new(AtomicBool::new(false));
        if rayon::current_num_threads() > 1 {
            let done = Arc::clone(&done);
            // A thread that starts late finds the job done.
            rayon::spawn_broadcast(move |_| {
                // Skip threads that are themselves inside `with_spinning_pool`.
                while !ALONE.get() && !done.load(Ordering::Acquire) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        // Other threads, which tokenise or answer meanwhile, come first.
                        std::thread::yield_now();
                    }
                }
            });
        }
        let _end = Alone::new(&done);
        job()
    })
}

/// Ends with the pass, however that ends.
struct Alone<'a> {
    done: &'a AtomicBool,
    before: bool,
}

impl<'a> Alone<'a> {
    fn new(done: &'a AtomicBool) -> Self {
        Self { done, before: ALONE.replace(true) }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        ALONE.set(self.before);
        self.done.store(true, Ordering::Release);
    }
}

/// Groups of threads, each for one pass at a time.
pub struct Workers {
    groups: Vec<ThreadPool>,
}

impl Workers {
    /// Groups for batches of about `tokens`: as many as there are passes or threads, with the threads shared out.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn new(tokens: usize) -> Result<Self, ThreadPoolBuildError> {
        let threads = rayon::current_num_threads();
        let groups = tokens.div_ceil(TOKENS).clamp(1, threads);
        let group = |_| ThreadPoolBuilder::new().num_threads(threads / groups).build();
        Ok(Self { groups: (0..groups).map(group).collect::<Result<_, _>>()? })
    }

    /// How many passes run side by side.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// `job(0), ..., job(count - 1)`, in order, run as groups come free.
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

/// Runs `work` on a thread of each group at once, each with its own of `places`; returns when all are done. The threads are the
/// groups' own, which wait between calls: none is started.
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
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn every_row_is_in_one_pass() {
        let lengths = [50, 70, 10, 200, 3, 4];
        assert_eq!(cut(lengths, 128), [0..3, 3..4, 4..6]);
        assert_eq!(cut(lengths, 7), [0..1, 1..2, 2..3, 3..4, 4..6]);
        assert_eq!(cut(lengths, usize::MAX).len(), 1);
        assert!(cut([], 128).is_empty());
    }

    #[test]
    fn results_come_in_order_whoever_is_first() {
        let workers = Workers::new(1000).unwrap();
        let slow = |i: usize| {
            std::thread::sleep(std::time::Duration::from_micros(((7 * i) % 5) as u64 * 100));
            i * i
        };
        assert_eq!(workers.map(20, slow), (0..20).map(|i| i * i).collect::<Vec<_>>());
        assert!(workers.map(0, slow).is_empty());
    }

    #[test]
    fn passes_alone_in_many_threads_all_end() {
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

    #[test]
    fn a_panic_in_a_pass_alone_comes_out_and_lets_the_threads_go() {
        assert!(std::panic::catch_unwind(|| with_spinning_pool(|| panic!("broken"))).is_err());
        assert_eq!(with_spinning_pool(|| rayon::join(|| 1, || 2)), (1, 2));
        assert!(!ALONE.get());
    }

    #[test]
    fn a_panic_in_a_pass_comes_out_and_the_threads_go_on() {
        let workers = Workers::new(1000).unwrap();
        let broken = std::panic::AssertUnwindSafe(|| workers.map(5, |i| assert_ne!(i, 3)));
        assert!(std::panic::catch_unwind(broken).is_err());
        assert_eq!(workers.map(3, |i| i + 1), [1, 2, 3]);
    }
}
