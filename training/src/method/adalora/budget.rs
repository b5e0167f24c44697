//! How many ranks are left after a step: PEFT's `RankAllocator.budget_schedule`.

/// The budget of a run. Steps are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankBudget {
    /// The number of ranks of all sites at the start.
    pub init: usize,
    /// The number of ranks at the end.
    pub target: usize,
    /// The number of steps before the budget falls.
    pub tinit: usize,
    /// The number of steps after the ranks are final.
    pub tfinal: usize,
    /// The number of steps from one choice of ranks to the next.
    pub delta_t: usize,
    /// Steps of the run.
    pub total: usize,
}

impl RankBudget {
    /// The step after which the ranks are final.
    fn end(&self) -> usize {
        self.total.saturating_sub(self.tfinal)
    }

    /// Whether importance is still observed in `step`.
    #[must_use]
    pub fn falls(&self, step: usize) -> bool {
        step < self.end()
    }

    /// Whether the ranks are final after `step`.
    #[must_use]
    pub fn settled(&self, step: usize) -> bool {
        step >= self.end()
    }

    /// The number of ranks that are left after `step`, which falls along a cubic.
    #[must_use]
    pub fn ranks(&self, step: usize) -> usize {
        if step <= self.tinit {
            return self.init;
        }
        if step > self.end() {
            return self.target;
        }
        let left = 1.0 - (step - self.tinit) as f64 / (self.end() - self.tinit) as f64;
        ((self.init - self.target) as f64 * left.powi(3) + self.target as f64) as usize
    }

    /// Whether ranks are chosen after `step`.
    #[must_use]
    pub fn chooses(&self, step: usize) -> bool {
        step == self.end() || step > self.tinit && step < self.end() && step.is_multiple_of(self.delta_t)
    }
}
