//! How many steps a run has, and the learning rate in each of them.

use crate::defaults::Hyperparameters;
use crate::optim::linear_rate;
use crate::settings::Settings;

/// The number of steps of a run. A run that was made longer has several plans, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) rows_per_batch: usize,
    /// The rows of a step: those of one batch, or of several with gradient accumulation.
    pub(super) rows_per_step: usize,
    pub(super) steps_per_epoch: usize,
    /// The number of epochs of the first plan. A method removes ranks by this plan, so that ranks which are final stay final when the run
    /// is made longer.
    pub(super) first: usize,
    /// The numbers of epochs of later plans.
    later: Vec<usize>,
}

impl Extent {
    /// The extent of a run over `rows` rows.
    pub(super) fn new(rows: usize, hyperparameters: &Hyperparameters, settings: &Settings) -> Self {
        let rows_per_step = hyperparameters.batch_size.saturating_mul(settings.accumulate).max(1);
        let mut plans = settings.extended_from.iter().copied().chain([hyperparameters.epochs]);
        Self {
            rows_per_batch: hyperparameters.batch_size.max(1),
            rows_per_step,
            steps_per_epoch: rows.div_ceil(rows_per_step),
            first: plans.next().unwrap_or(hyperparameters.epochs),
            later: plans.collect(),
        }
    }

    /// The number of epochs of the whole run.
    pub(super) fn epochs(&self) -> usize {
        self.later.last().copied().unwrap_or(self.first)
    }

    /// The number of steps of the whole run.
    pub(super) fn total(&self) -> usize {
        self.steps_per_epoch * self.epochs()
    }

    /// The number of steps of the first plan.
    pub(super) fn first_total(&self) -> usize {
        self.steps_per_epoch * self.first
    }

    /// Whether a plan ends after `done` steps.
    pub(super) fn ends_plan(&self, done: usize) -> bool {
        let mut plans = [self.first].into_iter().chain(self.later.iter().copied());
        plans.any(|epochs| done == self.steps_per_epoch * epochs)
    }

    /// The share of the peak learning rate after `done` steps. Each plan has its own warm-up and decay, counted from the run's first step,
    /// and applies once the plan before it has ended.
    pub(super) fn rate(&self, done: usize, warmup: f64) -> f64 {
        let mut plans = [self.first].into_iter().chain(self.later.iter().copied());
        let plan = plans.find(|epochs| done < self.steps_per_epoch * epochs).unwrap_or(self.epochs());
        linear_rate(done, self.steps_per_epoch * plan, warmup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: usize, later: &[usize]) -> Extent {
        Extent { rows_per_batch: 4, rows_per_step: 8, steps_per_epoch: 5, first, later: later.to_vec() }
    }

    #[test]
    fn a_longer_run_follows_its_new_plan_from_the_end_of_the_old_one() {
        let (short, long) = (extent(4, &[]), extent(8, &[]));
        let extended = extent(4, &[8]);
        assert_eq!((extended.epochs(), extended.total(), extended.first_total()), (8, 40, 20));
        for done in 0..40 {
            let expected = if done < 20 { &short } else { &long };
            assert_eq!(extended.rate(done, 0.1), expected.rate(done, 0.1), "after {done} steps");
        }
        assert_eq!(extended.rate(20, 0.0), 0.5);
        assert_eq!((1..=40).filter(|&done| extended.ends_plan(done)).collect::<Vec<_>>(), [20, 40]);
        // A third plan does not change the steps before it.
        let again = extent(4, &[8, 10]);
        assert!((0..40).all(|done| again.rate(done, 0.1) == extended.rate(done, 0.1)));
        assert_eq!(again.rate(40, 0.0), 0.2);
    }
}
