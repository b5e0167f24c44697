//! Sets the threshold of each gate by the effect of its rank on the loss: SoRA's proximal step with a weighted L1 norm.
//!
//! A single xi for all gates (eq. 10 and 11) depends only on the gates' sizes. In a run of a few hundred steps, gates hardly move, so
//! that their initial values decide which ranks survive. Zou's adaptive lasso (2006) gives each gate its own threshold, `xi * w_k`,
//! which is large if the gate matters little. Here the weight follows from the *saliency* of the rank, a moving average of
//! `|g_k dL/dg_k| * |dL/dWu_k|`. The first factor is how much the loss changes, to first order, when the rank is removed (Molchanov et
//! al. 2017). The second is the norm of the gradient of its column of `Wu`: how much the rank can still learn. In a short run, ranks are
//! removed before they have learned much, so that the first factor alone is mostly noise. `examples/reports/ranks` compares them.
//!
//! The weights are taken to their limit. A gate whose rank does not fit into the budget gets a threshold above its own size and becomes
//! exactly 0. All others get the threshold 0 and are not shrunk, because shrinking the survivors is what harms a short run.
//!
//! A gate that is 0 stays 0, so that a removed rank never returns, and steps no longer read it.
//!
//! With `--depth-bias`, the saliency of layer l of L is multiplied by `exp(bias * l / (L - 1))`, so that shallow layers lose their ranks
//! first. A text that several adapters share runs once up to the first site that one of them changes, and this prefix becomes longer.

use candle_core::{Result, Tensor, bail};

/// The weight of one step in the moving average, which therefore covers about 50 steps.
const NEWEST: f64 = 0.02;

/// Updates the moving average `saliency [sites, rank]` with one step's `|g dL/dg| |dL/dWu_k|`. `effects [sites, rank]` has `g dL/dg`, and
/// `of_wu` the gradient `dL/dWu [out, rank]` of each site, or `None` for a site without ranks.
///
/// # Errors
/// There is another number of gradients than of sites, or a tensor operation fails.
pub(super) fn observe(saliency: &Tensor, effects: &Tensor, of_wu: &[Option<&Tensor>]) -> Result<Tensor> {
    let (sites, rank) = saliency.dims2()?;
    if of_wu.len() != sites {
        bail!("expected the gradients of {sites} sites, found {}", of_wu.len());
    }
    let norms = of_wu.iter().map(|gradient| match gradient {
        Some(gradient) => gradient.sqr()?.sum(0)?.sqrt(),
        None => Tensor::zeros(rank, saliency.dtype(), saliency.device()),
    });
    let norms = Tensor::stack(&norms.collect::<Result<Vec<_>>>()?, 0)?;
    saliency + (((effects.abs()? * norms)? - saliency)? * NEWEST)?
}

/// The place of a rank in the order of removal, which begins with the lowest: `ln s - ln(cost) / 2`, where `cost = in + out` is the
/// number of the rank's parameters. The budget counts parameters, so that a dear rank has to be worth more. Division by the whole cost
/// would take ranks of the feed-forward that every task needs; without one, tasks differ less in the ranks that they keep.
pub(super) fn order(saliency: f32, cost: usize) -> f64 {
    f64::from(saliency).ln() - 0.5 * (cost as f64).ln()
}

/// Which gates survive when those with the lowest `order` become 0 until the others cost at most `share` of all. The order is that of
/// [`order`], perhaps shifted by depth. `gates` has `rank` gates for each site, site by site. `costs` are the parameters of each
/// gate's rank (`in + out`).
///
/// A rank that costs more than `target`, the share that is left in the end, cannot stay, and is removed before all others. Otherwise a
/// target of less than the most salient rank would leave nothing.
///
/// Among equally salient gates, the last ranks of each site are removed first. So a run that is too short to learn anything ends with
/// nearly uniform ranks: in the first step `Wu` is 0, and so is every saliency.
pub(super) fn survivors(
    [share, target]: [f64; 2],
    rank: usize,
    gates: &[f32],
    order: &[f64],
    costs: &[usize],
) -> Vec<bool> {
    let mut stays: Vec<bool> = gates.iter().map(|gate| *gate != 0.0).collect();
    let mut alive: Vec<usize> = (0..gates.len()).filter(|&i| stays[i]).collect();
    let all = costs.iter().sum::<usize>() as f64;
    let may_stay = |i: usize| costs[i] as f64 <= target * all;
    let before = |&a: &usize, &b: &usize| {
        may_stay(a).cmp(&may_stay(b)).then(order[a].total_cmp(&order[b])).then((b % rank).cmp(&(a % rank)))
    };
    alive.sort_by(before);
    let mut kept: usize = alive.iter().map(|&i| costs[i]).sum();
    let budget = share * all;
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
    fn saliency_is_a_moving_average_of_effect_times_norm_of_the_column() {
        let tensor = |values: [[f32; 2]; 2]| Tensor::new(&values, &Device::Cpu).unwrap();
        let close = |found: &Tensor, expected: [[f32; 2]; 2]| {
            let found = found.to_vec2::<f32>().unwrap().concat();
            assert!(found.iter().zip(expected.concat()).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        // The columns' norms are 5 and 2.
        let wu = Tensor::new(&[[3.0f32, 0.0], [-4.0, 0.0], [0.0, -2.0]], &Device::Cpu).unwrap();
        let first = observe(&tensor([[0.0; 2]; 2]), &tensor([[-3.0, 0.5], [7.0, 1.0]]), &[Some(&wu), None]).unwrap();
        close(&first, [[0.02 * 15.0, 0.02 * 1.0], [0.0, 0.0]]);
        let second = observe(&first, &tensor([[1.0, 0.0], [0.0, -1.0]]), &[Some(&wu), Some(&wu)]).unwrap();
        close(&second, [[0.3 * 0.98 + 0.02 * 5.0, 0.02 * 0.98], [0.0, 0.02 * 2.0]]);
        assert!(observe(&first, &first, &[Some(&wu)]).is_err(), "one of two sites");
    }

    #[test]
    fn dear_rank_has_to_be_worth_more() {
        assert!(order(2.0, 100) > order(1.9, 100));
        // Four times the parameters need twice the saliency.
        assert!((order(2.0, 400) - order(1.0, 100)).abs() < 1e-12);
        assert!(order(0.0, 100) < order(f32::MIN_POSITIVE, 100));
    }

    /// Two sites of two ranks, of which the first has the more salient and the dearer ones.
    #[test]
    fn a_target_below_the_dearest_rank_leaves_the_best_of_the_others() {
        let mut gates = [1.0f32; 4];
        for share in [0.7, 0.5, 0.3, 0.2] {
            let stays = survivors([share, 0.2], 2, &gates, &[0.9, 0.8, 0.2, 0.1], &[3, 3, 1, 1]);
            gates.iter_mut().zip(stays).for_each(|(gate, stays)| *gate *= f32::from(u8::from(stays)));
        }
        assert_eq!(gates, [0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn removes_the_least_salient_first() {
        let order = [0.3, 0.1, 0.2, 0.4];
        let of = |share, gates: [f32; 4]| survivors([share; 2], 4, &gates, &order, &[5; 4]);
        assert_eq!(of(1.0, [0.9, -1.1, 1.0, 1.2]), [true; 4]);
        assert_eq!(of(0.5, [0.9, -1.1, 1.0, 1.2]), [true, false, false, true]);
        // The two remaining gates fit into the budget, whatever their order is.
        assert_eq!(of(0.5, [0.9, 1.0, 0.0, 0.0]), [true, true, false, false]);
    }

    #[test]
    fn removes_equally_salient_ranks_evenly() {
        let stays = survivors([0.5; 2], 4, &[1.0; 8], &[0.0; 8], &[1; 8]);
        assert_eq!(stays, [true, true, false, false, true, true, false, false]);
    }
}
