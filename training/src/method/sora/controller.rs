//! Steers the threshold of gates, so that a run keeps the share of parameters that was asked for.
//!
//! A constant xi shrinks a gate by at most `xi * steps`: what ratio results depends on the length of the run. Here the ratio is
//! the setting. The share that is kept follows a cubic from 1 to the target between a tenth and four tenths of the run, as
//! AdaLoRA's budget does. After that no rank leaves, and those that are left train on as a LoRA of their ranks.
//!
//! How a step reaches its share depends on the gates. Adaptive gates: the least salient ones become 0, the others stay as they are
//! (`saliency.rs`). The paper's and the authors': xi is the least threshold that reaches the share, so gates near zero go first
//! and all others shrink by the same xi; once the share has settled, gates are folded into their matrices.

/// Where in the run the ratio begins to fall, and where it has arrived.
const START: f64 = 0.1;
const SETTLED: f64 = 0.4;

/// Steers towards a ratio of parameters kept over a run of `total` steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Controller {
    /// Share of parameters to keep, above 0 and at most 1.
    pub target: f64,
    /// Steps of the run.
    pub total: usize,
}

impl Controller {
    /// Whether the target has been reached after `step` steps, so that no rank leaves any more.
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

    /// The least xi after which gates of at most [`Self::share`] of all cost are not zero. `costs` are the parameters that each
    /// gate keeps (`in + out`).
    #[must_use]
    pub fn xi(&self, step: usize, gates: &[f32], costs: &[usize]) -> f32 {
        let mut alive: Vec<(f32, usize)> =
            gates.iter().zip(costs).filter(|(gate, _)| **gate != 0.0).map(|(gate, cost)| (gate.abs(), *cost)).collect();
        alive.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut kept: usize = alive.iter().map(|(_, cost)| cost).sum();
        let budget = self.share(step) * costs.iter().sum::<usize>() as f64;
        let mut xi = 0.0;
        for (size, cost) in alive {
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
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Tensor};
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::super::soft_threshold;
    use super::Controller;

    proptest! {
        /// Gates that wander at random, and are revived by it, still end within a gate of the ratio asked for.
        #[test]
        fn lands_on_the_ratio(target in 0.05f64..1.0, total in 20usize..400, seed: u64, noise in 0.0f32..0.02) {
            let mut rng = StdRng::seed_from_u64(seed);
            let costs = [768, 1920].repeat(144);
            let mut gates: Vec<f32> = costs.iter().map(|_| rng.random_range(-2.0..2.0)).collect();
            let controller = Controller { target, total };
            for step in 1..=total {
                let settled = controller.settled(step - 1);
                for gate in gates.iter_mut().filter(|gate| !(settled && **gate == 0.0)) {
                    *gate += rng.random_range(-1.0..1.0) * noise;
                }
                let xi = if settled { 0.0 } else { controller.xi(step, &gates, &costs) };
                let shrunk = soft_threshold(&Tensor::from_vec(gates, costs.len(), &Device::Cpu).unwrap(), xi).unwrap();
                gates = shrunk.to_vec1().unwrap();
            }
            let kept: usize = gates.iter().zip(&costs).filter(|(gate, _)| **gate != 0.0).map(|(_, cost)| cost).sum();
            let share = kept as f64 / costs.iter().sum::<usize>() as f64;
            prop_assert!((share - target).abs() < 0.03, "kept {share}");
        }
    }
}
