//! Thresholds of gates by what their ranks do for the loss: SoRA's proximal step with a weighted L1 norm.
//!
//! One xi for all gates (eq. 10 and 11) sees a gate's size only. In a run of a few hundred steps gates hardly move, so their size is
//! their start, and the ranks that survive are a draw. Zou's adaptive lasso (2006) gives each gate a weight of its own, `xi * w_k`,
//! large where the gate matters little. Here the weight follows the *saliency* of the rank, a moving average of `|g_k dL/dg_k|`: to
//! first order, how much the loss changes when the rank is removed (Molchanov et al. 2017). The weights are taken at their limit: a
//! gate whose saliency lies at or below the controller's level gets a threshold above its own size and becomes exactly 0; all others
//! get 0 and are not shrunk. What hurts a short run is the shrinkage of survivors, not the choice.
//!
//! A gate that is 0 stays 0, so ranks only ever leave.

use super::soft_threshold;
use crate::controller::Controller;

/// What one step adds to the moving average: about 50 steps count.
const NEWEST: f32 = 0.02;

/// Adds one step's `|g dL/dg|` to the moving average `saliency`; empty before the first step.
pub(super) fn observe(saliency: &mut Vec<f32>, gates: &[f32], gradient: &[f32]) {
    saliency.resize(gates.len(), 0.0);
    for ((s, g), d) in saliency.iter_mut().zip(gates).zip(gradient) {
        *s += NEWEST * ((g * d).abs() - *s);
    }
}

/// A gate's value after its gradient step, its saliency, and what keeping it costs.
pub(super) struct Candidate<'a> {
    pub(super) gate: &'a mut f32,
    pub(super) saliency: f32,
    pub(super) cost: usize,
}

/// The proximal step at `step`: gates at or below the level of saliency that the budget allows become 0. The level, 0 where all fit.
pub(super) fn shrink(controller: &Controller, step: usize, candidates: &mut [Candidate]) -> f32 {
    let all = candidates.iter().map(|candidate| candidate.cost).sum();
    let alive = candidates.iter().filter(|candidate| *candidate.gate != 0.0);
    let Some(level) = controller.level(step, all, alive.map(|c| (c.saliency, c.cost)).collect()) else { return 0.0 };
    for Candidate { gate, saliency, .. } in candidates {
        let xi = if *saliency <= level { f32::INFINITY } else { 0.0 };
        **gate = soft_threshold(**gate, xi);
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saliency_is_a_moving_average_of_gate_times_gradient() {
        let mut saliency = Vec::new();
        observe(&mut saliency, &[2.0, -1.0, 0.0], &[-3.0, 0.5, 7.0]);
        assert_eq!(saliency, [0.02 * 6.0, 0.02 * 0.5, 0.0]);
        observe(&mut saliency, &[1.0, 1.0, 1.0], &[0.0, 1.0, 1.0]);
        let expected = [0.12 * 0.98, 0.01 + 0.02 * (1.0 - 0.01), 0.02];
        assert!(saliency.iter().zip(expected).all(|(found, expected): (&f32, f32)| (found - expected).abs() < 1e-7));
    }

    #[test]
    fn the_least_salient_go_at_once_and_the_others_are_not_shrunk() {
        let controller = Controller { target: 0.5, total: 10 };
        let mut gates = [0.9, -1.1, 1.0, 1.2];
        let saliency = [0.3, 0.1, 0.2, 0.4];
        let mut shrink = |step| {
            let candidates =
                gates.iter_mut().zip(saliency).map(|(gate, saliency)| Candidate { gate, saliency, cost: 5 });
            let level = shrink(&controller, step, &mut candidates.collect::<Vec<_>>());
            (level, gates)
        };
        assert_eq!(shrink(1), (0.0, [0.9, -1.1, 1.0, 1.2]));
        assert_eq!(shrink(4), (0.2, [0.9, 0.0, 0.0, 1.2]));
        // What is left fits.
        assert_eq!(shrink(5), (0.0, [0.9, 0.0, 0.0, 1.2]));
    }
}
