//! Steers the threshold of gates so that a run keeps the requested share of parameters.
//!
//! A constant xi shrinks a gate by at most `xi * steps`, so that the resulting ratio depends on the length of the run. Here the ratio
//! is the setting. The share of parameters to keep falls along a cubic from 1 to the target between 10% and 40% of the run, like
//! AdaLoRA's budget. After that no further rank is removed, and the remaining ranks are trained as in LoRA.
//!
//! How a step reaches its share depends on the gates. Of adaptive gates, the least salient become 0, and the others do not change
//! (`saliency.rs`). For the paper's and the authors' gates, xi is the smallest threshold that reaches the share. So gates near zero are
//! removed first, and all others shrink by the same xi. Once the share has settled, these gates are folded into their matrices.

/// The parts of the run at which the ratio starts to fall and at which it reaches the target.
const START: f64 = 0.1;
const SETTLED: f64 = 0.4;

/// Steers a run of `total` steps towards a share of parameters to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Controller {
    /// The share of parameters to keep, above 0 and at most 1.
    pub target: f64,
    /// Steps of the run.
    pub total: usize,
}

impl Controller {
    /// Whether the target is reached after `step` steps, so that no further rank is removed.
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

    /// The smallest xi after which the gates that are not zero cost at most [`Self::share`] of all. `costs` are the parameters of each
    /// gate's rank (`in + out`). The largest gate stays, even if its rank alone costs more: otherwise nothing would be left.
    #[must_use]
    pub fn xi(&self, step: usize, gates: &[f32], costs: &[usize]) -> f32 {
        let mut alive: Vec<(f32, usize)> =
            gates.iter().zip(costs).filter(|(gate, _)| **gate != 0.0).map(|(gate, cost)| (gate.abs(), *cost)).collect();
        alive.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut kept: usize = alive.iter().map(|(_, cost)| cost).sum();
        alive.pop();
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
        /// Gates that move at random, which may make zero gates nonzero again, still end within one gate of the requested ratio.
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
            let one = 1920.0 / costs.iter().sum::<usize>() as f64;
            prop_assert!(share <= target && share > target - one, "kept {share}");
        }
    }

    #[test]
    fn the_largest_gate_stays() {
        let controller = Controller { target: 0.01, total: 10 };
        let (gates, costs) = ([0.5, -3.0, 1.0], [64, 96, 64]);
        let xi = controller.xi(10, &gates, &costs);
        assert_eq!(gates.map(|gate| gate.abs() > xi), [false, true, false]);
    }
}
