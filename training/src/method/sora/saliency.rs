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

use candle_core::{Result, Tensor};

/// What one step adds to the moving average: about 50 steps count.
const NEWEST: f64 = 0.02;

/// The moving average with one step's `|g dL/dg|` added to it; all tensors have one shape.
pub(super) fn observe(saliency: &Tensor, gates: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    saliency + (((gates * gradient)?.abs()? - saliency)? * NEWEST)?
}

/// Which gates stay when those of least saliency become 0 until the others cost at most the share `share` of all. Gates stand site
/// by site, `rank` of each; `costs` are the parameters that each gate keeps (`in + out`).
///
/// Of equally salient ones the last ranks of each site go first, so that a run that is too short to learn anything (in the first step
/// `Wu` is 0, and so is every saliency) ends with nearly uniform ranks.
pub(super) fn survivors(share: f64, rank: usize, gates: &[f32], saliency: &[f32], costs: &[usize]) -> Vec<bool> {
    let mut stays: Vec<bool> = gates.iter().map(|gate| *gate != 0.0).collect();
    let mut alive: Vec<usize> = (0..gates.len()).filter(|&i| stays[i]).collect();
    alive.sort_by(|&a, &b| saliency[a].total_cmp(&saliency[b]).then((b % rank).cmp(&(a % rank))));
    let mut kept: usize = alive.iter().map(|&i| costs[i]).sum();
    let budget = share * costs.iter().sum::<usize>() as f64;
    for i in alive {
        if kept as f64 <= budget {
            break;
        }
        stays[i] = false;
        kept -= costs[i];
    }
    stays
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;

    use super::*;

    #[test]
    fn saliency_is_a_moving_average_of_gate_times_gradient() {
        let tensor = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap();
        let first = observe(&tensor([0.0; 3]), &tensor([2.0, -1.0, 0.0]), &tensor([-3.0, 0.5, 7.0])).unwrap();
        assert_eq!(first.to_vec1::<f32>().unwrap(), [0.02 * 6.0, 0.02 * 0.5, 0.0]);
        let second = observe(&first, &tensor([1.0; 3]), &tensor([0.0, 1.0, 1.0])).unwrap().to_vec1::<f32>().unwrap();
        let expected = [0.12 * 0.98, 0.01 + 0.02 * (1.0 - 0.01), 0.02];
        assert!(second.iter().zip(expected).all(|(found, expected): (&f32, f32)| (found - expected).abs() < 1e-7));
    }

    #[test]
    fn the_least_salient_go_first() {
        let saliency = [0.3, 0.1, 0.2, 0.4];
        let of = |share, gates: [f32; 4]| survivors(share, 4, &gates, &saliency, &[5; 4]);
        assert_eq!(of(1.0, [0.9, -1.1, 1.0, 1.2]), [true; 4]);
        assert_eq!(of(0.5, [0.9, -1.1, 1.0, 1.2]), [true, false, false, true]);
        // The two that are left fit, whatever their saliency.
        assert_eq!(of(0.5, [0.9, 1.0, 0.0, 0.0]), [true, true, false, false]);
    }

    #[test]
    fn ranks_that_nothing_tells_apart_leave_evenly() {
        let stays = survivors(0.5, 4, &[1.0; 8], &[0.0; 8], &[1; 8]);
        assert_eq!(stays, [true, true, false, false, true, true, false, false]);
    }
}
