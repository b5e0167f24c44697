//! Percentiles and random choices.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// The smallest time that at least `percent` percent of `times` do not exceed, in milliseconds; NaN without times.
pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len() * percent).div_ceil(100).max(1) - 1;
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// The median of `values`; NaN without values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Chooses among `count` things, of which the n-th is chosen in proportion to `1 / n`: Zipf's law with exponent 1.
pub(crate) struct Zipf(
    /// The sums of the weights up to each thing.
    Vec<f64>,
);

impl Zipf {
    pub(crate) fn new(count: usize) -> Self {
        let add = |sum: &mut f64, n: usize| {
            *sum += 1.0 / n as f64;
            Some(*sum)
        };
        Self((1..=count).scan(0.0, add).collect())
    }

    pub(crate) fn choose(&self, rng: &mut StdRng) -> usize {
        let last = self.0.last().copied().unwrap_or(0.0);
        let at = rng.random_range(0.0..last);
        self.0.partition_point(|&sum| sum <= at).min(self.0.len() - 1)
    }
}
