//! Steers SoRA's threshold, so that a run keeps the share of parameters that was asked for.
//!
//! A constant xi shrinks a gate by at most `xi * steps`: what ratio results depends on the length of the run. Here the ratio is
//! the setting. The share that is kept follows a cubic from 1 to the target between a tenth and four tenths of the run, as
//! AdaLoRA's budget does. After that no rank leaves, and those that are left train on as a LoRA of their ranks.
//!
//! How a step reaches its share depends on the gates. Adaptive gates: the least salient ones become 0, the others stay as they are
//! (`optim/adaptive.rs`). The paper's and the authors': xi is the least threshold that reaches the share, so gates near zero go first
//! and all others shrink by the same xi; once the share has settled, gates are folded into their matrices.

/// Where in the run the ratio begins to fall, and where it has arrived.
const START: f64 = 0.1;
const SETTLED: f64 = 0.4;

/// One gate entry: its value after the gradient step, and what keeping it costs (`in + out`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Its value.
    pub value: f32,
    /// Parameters that its row and column hold.
    pub cost: usize,
}

/// Steers towards a ratio of parameters kept over a run of `total` steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Controller {
    /// Share of parameters to keep, above 0 and at most 1.
    pub target: f64,
    /// Steps of the run.
    pub total: usize,
}

impl Controller {
    /// Whether after `step` steps the target has been reached, so that zero gates stay zero and xi is 0.
    #[must_use]
    pub fn settled(&self, step: usize) -> bool {
        step as f64 >= (SETTLED * self.total as f64).ceil()
    }

    /// The share to keep after `step` steps.
    #[must_use]
    pub fn share(&self, step: usize) -> f64 {
        let progress = (step as f64 / self.total.max(1) as f64 - START) / (SETTLED - START);
        let left = 1.0 - progress.clamp(0.0, 1.0);
        self.target + (1.0 - self.target) * left.powi(3)
    }

    /// The least xi after which gates of at most [`Self::share`] of all cost are not zero.
    #[must_use]
    pub fn xi(&self, step: usize, gates: &[Gate]) -> f32 {
        let all: usize = gates.iter().map(|gate| gate.cost).sum();
        let mut sizes: Vec<(f32, usize)> =
            gates.iter().filter(|gate| gate.value != 0.0).map(|gate| (gate.value.abs(), gate.cost)).collect();
        sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut kept: usize = sizes.iter().map(|(_, cost)| cost).sum();
        let budget = self.share(step) * all as f64;
        let mut xi = 0.0;
        for (size, cost) in sizes {
            if kept as f64 <= budget {
                break;
            }
            (xi, kept) = (size, kept - cost);
        }
        xi
    }
}

#[cfg(test)]
mod tests {
    use super::{Controller, Gate};
    use crate::optim::soft_threshold;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    proptest! {
        /// Gates that wander at random, and are revived by it, still end within a gate of the ratio asked for.
        #[test]
        fn lands_on_the_ratio(target in 0.05f64..1.0, total in 20usize..400, seed: u64, noise in 0.0f32..0.02) {
            let mut rng = StdRng::seed_from_u64(seed);
            let costs = [768, 1920];
            let mut gates: Vec<Gate> =
                (0..288).map(|i| Gate { value: rng.random_range(-2.0..2.0), cost: costs[i % 2] }).collect();
            let controller = Controller { target, total };
            for step in 1..=total {
                let frozen = controller.settled(step - 1);
                for gate in gates.iter_mut().filter(|gate| !(frozen && gate.value == 0.0)) {
                    gate.value += rng.random_range(-1.0..1.0) * noise;
                }
                let xi = if frozen { 0.0 } else { controller.xi(step, &gates) };
                for gate in &mut gates {
                    gate.value = soft_threshold(gate.value, xi);
                }
            }
            let all: usize = gates.iter().map(|gate| gate.cost).sum();
            let kept: usize = gates.iter().filter(|gate| gate.value != 0.0).map(|gate| gate.cost).sum();
            prop_assert!((kept as f64 / all as f64 - target).abs() < 0.03, "kept {} of {all}", kept);
        }
    }
}
