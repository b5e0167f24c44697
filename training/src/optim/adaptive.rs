//! Thresholds of gates by what their ranks do for the loss: SoRA's proximal step with a weighted L1 norm.
//!
//! One xi for all gates (eq. 10 and 11) sees a gate's size only. In a run of a few hundred steps gates hardly move, so their size is
//! their start, and the ranks that survive are a draw. Zou's adaptive lasso (2006) gives each gate a weight of its own, `xi * w_k`,
//! large where the gate matters little. Here the weight follows the *saliency* of the rank, a moving average of `|g_k dL/dg_k|`: to
//! first order, how much the loss changes when the rank is removed (Molchanov et al. 2017). The weights are taken at their limit: a
//! gate whose rank the budget has no room for gets a threshold above its own size and becomes exactly 0; all others get the threshold
//! 0 and are not shrunk. What hurts a short run is the shrinkage of survivors, not the choice.
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

/// A gate after its gradient step.
pub(super) struct Candidate<'a> {
    /// Its value.
    pub(super) gate: &'a mut f32,
    /// The moving average of [`observe`].
    pub(super) saliency: f32,
    /// Its place among the ranks of its site.
    pub(super) rank: usize,
    /// Parameters that the rank holds (`in + out`).
    pub(super) cost: usize,
}

/// The proximal step at `step`: the gates of least saliency become 0 until the others fit the controller's budget. The saliency of the
/// last that went, or 0.
///
/// Of equally salient ones the last ranks of each site go first, so that a run that is too short to learn anything (in the first step
/// `Wu` is 0, and so is every saliency) ends with nearly uniform ranks.
pub(super) fn shrink(controller: &Controller, step: usize, candidates: Vec<Candidate>) -> f32 {
    let all: usize = candidates.iter().map(|candidate| candidate.cost).sum();
    let mut alive: Vec<Candidate> = candidates.into_iter().filter(|candidate| *candidate.gate != 0.0).collect();
    alive.sort_by(|a, b| a.saliency.total_cmp(&b.saliency).then(b.rank.cmp(&a.rank)));
    let mut kept: usize = alive.iter().map(|candidate| candidate.cost).sum();
    let budget = controller.share(step) * all as f64;
    let mut level = 0.0;
    for Candidate { gate, saliency, cost, .. } in alive {
        if kept as f64 <= budget {
            break;
        }
        *gate = soft_threshold(*gate, f32::INFINITY);
        (level, kept) = (saliency, kept - cost);
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
            let candidate = |(gate, saliency)| Candidate { gate, saliency, rank: 0, cost: 5 };
            let level = shrink(&controller, step, gates.iter_mut().zip(saliency).map(candidate).collect());
            (level, gates)
        };
        assert_eq!(shrink(1), (0.0, [0.9, -1.1, 1.0, 1.2]));
        assert_eq!(shrink(4), (0.2, [0.9, 0.0, 0.0, 1.2]));
        // What is left fits.
        assert_eq!(shrink(5), (0.0, [0.9, 0.0, 0.0, 1.2]));
    }

    #[test]
    fn ranks_that_nothing_tells_apart_leave_evenly() {
        let controller = Controller { target: 0.5, total: 1 };
        let mut gates = [1.0f32; 8];
        let candidate = |(i, gate)| Candidate { gate, saliency: 0.0, rank: i % 4, cost: 1 };
        shrink(&controller, 1, gates.iter_mut().enumerate().map(candidate).collect());
        assert_eq!(gates, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }
}
