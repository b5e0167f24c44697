//! Jobs measured in turn.

use std::time::{Duration, Instant};

use crate::common::Failure;

/// What is timed.
pub(crate) type Job<'a> = Box<dyn FnMut() -> Result<(), Failure> + 'a>;

/// Rounds that warm up caches, clocks and pools of memory.
const WARM: usize = 3;
/// A median of fewer times says little.
const LEAST: usize = 5;

/// The times of each job, sorted, from rounds that run every job once until `budget` is spent.
pub(crate) fn measure(jobs: &mut [Job], budget: Duration) -> Result<Vec<Vec<f64>>, Failure> {
    for _ in 0..WARM {
        jobs.iter_mut().try_for_each(|job| job())?;
    }
    let mut times = vec![Vec::new(); jobs.len()];
    let start = Instant::now();
    while times.first().is_some_and(|times: &Vec<f64>| times.len() < LEAST || start.elapsed() < budget) {
        for (job, times) in jobs.iter_mut().zip(&mut times) {
            let start = Instant::now();
            job()?;
            times.push(start.elapsed().as_secs_f64());
        }
    }
    for times in &mut times {
        times.sort_unstable_by(f64::total_cmp);
    }
    Ok(times)
}

/// The time that `percent` percent of the sorted `times` do not exceed.
pub(crate) fn percentile(times: &[f64], percent: usize) -> f64 {
    times.get((times.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(f64::NAN)
}
