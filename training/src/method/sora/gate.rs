//! Gates: where they start, the proximal map of the L1 norm (eq. 10 and 11), the penalty, and folding.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// How gates start and step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GateRule {
    /// Start at 1; Adam's step, then a threshold for each gate by what its rank does for the loss (adaptive lasso).
    Adaptive,
    /// The paper's eq. 10 and 11: start at N(0, 1); a plain gradient step, then `T_xi`.
    Paper,
    /// The authors' code: start at N(0, 1); Adam's step, then `T_xi`.
    Authors,
}

impl GateRule {
    /// The gates of one site before the first step, given draws from N(0, 1).
    ///
    /// Adaptive gates all start at 1, so that no rank has an advantage that the task did not give it: in a short run the start
    /// decides which gates survive.
    pub(super) fn start(self, normal: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Adaptive => vec![1.0; normal.len()],
            Self::Paper | Self::Authors => normal,
        }
    }
}

/// `T_xi` of each element: `x - xi` above `xi`, 0 from `-xi` to `xi`, `x + xi` below `-xi`.
///
/// The authors' code subtracts first and then drops whatever is below `xi`, so that |x| in (xi, 2 xi) dies too; here 0.15 at
/// xi = 0.1 is 0.05.
///
/// # Errors
/// Candle's own.
pub fn soft_threshold(x: &Tensor, xi: f32) -> Result<Tensor> {
    let (above, below) = (x.gt(xi)?, x.lt(-xi)?);
    let shrunk = below.where_cond(&(x + f64::from(xi))?, &x.zeros_like()?)?;
    above.where_cond(&(x - f64::from(xi))?, &shrunk)
}

/// `sum |g| / number of gate entries` over all `gates`, the authors' penalty, with gradient 0 at 0.
pub(super) fn penalty(gates: &[Tensor]) -> Result<Tensor> {
    let gates = Tensor::cat(gates, 0)?;
    // Not `abs`: candle's has the gradient 1 at 0, and would push every zero gate off.
    let sign = gates.detach().sign()?;
    (gates * sign)?.mean_all()
}

/// Moves each gate `g_k` that is not 0 into column k of `wu [out, rank]`: `Wu (g * z) = (Wu diag(g)) z`, as pruning does (eq. 12).
/// Returns the gates, which are 0 or 1 from then on, and `Wu`.
///
/// Why: a gate scales how far a step of `Wu` moves the output. A survivor that the threshold has shrunk to 0.05 would learn at a
/// twentieth of the rate for the rest of the run.
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
    fn shrinks_by_xi_and_no_more() {
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
        fn folding_leaves_the_function(rank in 1usize..6, out in 1usize..5, values in prop::collection::vec(-1f32..1.0, 36)) {
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
