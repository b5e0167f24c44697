//! The delta of a site whose ranks have factors of their own: SoRA's gates, or AdaLoRA's singular values.

use candle_core::{Result, Tensor, Var};
use polyrank::params::Delta;

/// The delta `scale * (x A^T) diag(factors) B^T` of `A [rank, in]`, `B [out, rank]` and `factors [rank]`, with exactly the ranks whose
/// factor is not 0. Their factors are folded into `B`. `None` if no rank is left.
///
/// # Errors
/// A tensor operation fails.
pub(super) fn folded(factors: &Var, a: &Tensor, b: &Tensor, scale: f64) -> Result<Option<Delta>> {
    let factors = factors.as_detached_tensor();
    let values = factors.to_vec1::<f32>()?;
    let kept: Vec<u32> = (0..).zip(&values).filter(|(_, factor)| **factor != 0.0).map(|(i, _)| i).collect();
    if kept.is_empty() {
        return Ok(None);
    }
    let kept = Tensor::new(kept, a.device())?;
    let factors = factors.index_select(&kept, 0)?;
    let b = b.index_select(&kept, 1)?.broadcast_mul(&factors.unsqueeze(0)?)?;
    Ok(Some(Delta { a: a.index_select(&kept, 0)?, b, scale }))
}
