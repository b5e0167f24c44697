//! Gates whose support has settled, moved into the matrix behind them.

use super::Moments;

/// Moves each gate `g_k` that is not 0 into column k of `wu [out, rank]`: `Wu (g * z) = (Wu diag(g)) z`, as pruning does (eq. 12).
/// The gate is 1 from then on, and Adam begins anew for `Wu`.
///
/// Why: a gate scales how far a step of `Wu` moves the output. A survivor that the threshold has shrunk to 0.05 would learn at a
/// twentieth of the rate for the rest of the run. Adam begins anew because its moments hold gradients from when the gates were larger,
/// which no one factor turns into those of the folded matrix.
pub(super) fn fold(gate: &mut [f32], wu: &mut [f32], moments: &mut Moments) {
    for row in wu.chunks_exact_mut(gate.len().max(1)) {
        row.iter_mut().zip(&*gate).filter(|(_, g)| **g != 0.0).for_each(|(w, g)| *w *= g);
    }
    gate.iter_mut().filter(|g| **g != 0.0).for_each(|g| *g = 1.0);
    *moments = Moments::default();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fold;
    use crate::optim::Moments;

    proptest! {
        #[test]
        fn folding_leaves_the_function(rank in 1usize..6, out in 1usize..5, values in prop::collection::vec(-1f32..1.0, 36)) {
            let (mut gate, mut wu) = (values[..rank].to_vec(), values[6..6 + rank * out].to_vec());
            gate[0] = 0.0;
            let before = gate.clone();
            let product: Vec<f32> = wu.iter().enumerate().map(|(at, w)| w * before[at % rank]).collect();
            let mut moments = Moments { first: vec![1.0; rank * out], second: vec![1.0; rank * out], steps: 7, saliency: Vec::new() };
            fold(&mut gate, &mut wu, &mut moments);
            for (at, expected) in product.iter().enumerate() {
                prop_assert_eq!(gate[at % rank] * wu[at], *expected);
            }
            for (g, before) in gate.iter().zip(&before) {
                prop_assert_eq!(*g, if *before == 0.0 { 0.0 } else { 1.0 });
            }
            prop_assert_eq!(moments, Moments::default());
        }
    }
}
