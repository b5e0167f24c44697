//! The penalty that keeps singular vectors orthonormal, as in PEFT: the mean of the Frobenius norms of `Q Q^T - I` and `P^T P - I`.

use candle_core::{DType, Result, Tensor};

/// Which side of a matrix has the singular vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The rows, `[rank, in]` (`Q`).
    Rows,
    /// The columns, `[out, rank]` (`P`).
    Columns,
}

/// The norms `[s]` of `|M|`, `M = V V^T - I`, for the singular vectors `V` of each of the `s` matrices `x [s, rows, columns]`, and their
/// gradients with respect to `x`. In closed form, the gradient is `2 M V / |M|`; it is 0 where `M` is.
///
/// # Errors
/// A tensor operation fails.
pub fn orthogonality(x: &Tensor, side: Side) -> Result<(Tensor, Tensor)> {
    let transposed = x.transpose(1, 2)?;
    let products = match side {
        Side::Rows => x.matmul(&transposed)?,
        Side::Columns => transposed.matmul(x)?,
    };
    let identity = Tensor::eye(products.dims()[2], DType::F32, x.device())?;
    let off = products.broadcast_sub(&identity)?;
    let norms = off.sqr()?.sum((1, 2))?.sqrt()?;
    let share = norms.maximum(f32::MIN_POSITIVE)?.recip()?.affine(2.0, 0.0)?;
    let off = off.broadcast_mul(&share.reshape(((), 1, 1))?)?;
    let gradient = match side {
        Side::Rows => off.matmul(x)?,
        Side::Columns => x.matmul(&off)?,
    };
    Ok((norms, gradient))
}
