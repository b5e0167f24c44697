//! Gates: their initial values, the proximal map of the L1 norm (eq. 10 and 11), the penalty, and folding.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// How gates start and step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GateRule {
    /// Start at 1; Adam's step, then a threshold for each gate by the effect of its rank on the loss (adaptive lasso).
    Adaptive,
    /// The paper's eq. 10 and 11: start at N(0, 1); a plain gradient step, then `T_xi`.
    Paper,
    /// The authors' code: start at N(0, 1); Adam's step, then `T_xi`.
    Authors,
}

impl GateRule {
    /// The gates of one site before the first step. `normal` are draws from N(0, 1).
    ///
    /// Adaptive gates all start at 1, so that only the task decides which ranks survive. Otherwise, in a short run, the initial values
    /// decide.
    pub(super) fn start(self, normal: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Adaptive => vec![1.0; normal.len()],
            Self::Paper | Self::Authors => normal,
        }
    }
}

/// `T_xi` of each element: `x - xi` above `xi`, 0 from `-xi` to `xi`, `x + xi` below `-xi`.
///
/// The authors' code first subtracts `xi` and then sets values below `xi` to 0, so that |x| in (xi, 2 xi) also becomes 0. Here, 0.15 at
/// xi = 0.1 becomes 0.05.
///
/// # Errors
/// A tensor operation fails.
pub fn soft_threshold(x: &Tensor, xi: f32) -> Result<Tensor> {
    let (above, below) = (x.gt(xi)?, x.lt(-xi)?);
    let shrunk = below.where_cond(&(x + f64::from(xi))?, &x.zeros_like()?)?;
    above.where_cond(&(x - f64::from(xi))?, &shrunk)
}

/// `sum |g| / number of gate entries` over all `gates`, the authors' penalty, with gradient 0 at 0.
pub(super) fn penalty(gates: &[Tensor]) -> Result<Tensor> {
    let gates = Tensor::cat(gates, 0)?;
    // Candle's `abs` is not used, because its gradient at 0 is 1, which would move every zero gate.
    let sign = gates.detach().sign()?;
    (gates * sign)?.mean_all()
}

/// Multiplies each gate `g_k` that is not 0 into column k of `wu [out, rank]`: `Wu (g * z) = (Wu diag(g)) z`, as pruning does (eq. 12).
/// Returns the new gates, which are 0 or 1, and `Wu`.
///
/// This is needed because a gate scales the effect of a step of `Wu` on the output. A gate that the threshold has shrunk to 0.05 would
/// make its rank learn at a twentieth of the rate for the rest of the run.
pub(super) fn fold(gate: &Tensor, wu: &Tensor) -> Result<(Tensor, Tensor)> {
    let alive = gate.ne(0f32)?;
    let ones = gate.ones_like()?;
    let factor = alive.where_cond(gate, &ones)?;
    Ok((alive.where_cond(&ones, &gate.zeros_like()?)?, wu.broadcast_mul(&factor.unsqueeze(0)?)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shrinks_by_exactly_xi() {
        for (x, xi, expected) in
            [(0.15, 0.1, 0.05), (-0.15, 0.1, -0.05), (0.05, 0.1, 0.0), (-0.1, 0.1, 0.0), (2.0, 0.0, 2.0)]
        {
            let found = soft_threshold(&Tensor::new(&[x, 0.1f32], &Device::Cpu).unwrap(), xi).unwrap();
            let found = found.to_vec1::<f32>().unwrap();
            assert!((found[0] - expected).abs() < 1e-7, "T_{xi}({x}) is {found:?}");
            assert!(xi == 0.0 || found[1].to_bits() == 0, "exactly xi becomes exactly 0");
        }
    }

    proptest! {
        #[test]
        fn folding_does_not_change_the_function(rank in 1usize..6, out in 1usize..5, values in prop::collection::vec(-1f32..1.0, 36)) {
            let (mut gate, wu) = (values[..rank].to_vec(), values[6..6 + rank * out].to_vec());
            gate[0] = 0.0;
            let product: Vec<f32> = wu.iter().enumerate().map(|(at, w)| w * gate[at % rank]).collect();
            let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
            let (folded, wu) = fold(&tensor(&gate, &[rank]), &tensor(&wu, &[out, rank])).unwrap();
            let (folded, wu) = (folded.to_vec1::<f32>().unwrap(), wu.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            for (at, expected) in product.iter().enumerate() {
                prop_assert_eq!(folded[at % rank] * wu[at], *expected);
            }
            for (g, before) in folded.iter().zip(&gate) {
                prop_assert_eq!(*g, if *before == 0.0 { 0.0 } else { 1.0 });
            }
        }
    }
}
