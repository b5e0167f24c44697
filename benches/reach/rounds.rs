//! Jobs measured in turn.

use std::time::{Duration, Instant};

use crate::common::Failure;

const ROUNDS: usize = 7;
/// How long a job is repeated in each round.
const SLICE: Duration = Duration::from_millis(60);

/// What is timed.
pub(crate) type Job<'a> = Box<dyn FnMut() -> Result<(), Failure> + Send + 'a>;

/// Seconds that a call of each job takes: medians over rounds, each of which runs every job for a while.
pub(crate) fn medians(jobs: &mut [Job]) -> Result<Vec<f64>, Failure> {
    for job in jobs.iter_mut() {
        job()?;
    }
    let mut times = vec![Vec::with_capacity(ROUNDS); jobs.len()];
    for _ in 0..ROUNDS {
        for (job, times) in jobs.iter_mut().zip(&mut times) {
            let (start, mut calls) = (Instant::now(), 0);
            while calls == 0 || start.elapsed() < SLICE {
                job()?;
                calls += 1;
            }
            times.push(start.elapsed().as_secs_f64() / f64::from(calls));
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok(times.into_iter().map(median).collect())
}
