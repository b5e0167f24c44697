//! The reference: candle's operations.

use candle_core::{D, Result, Tensor};

use super::Norm;

pub(in crate::ops) fn reference(h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
    let x = residual.map_or_else(|| Ok(h.clone()), |residual| h + residual)?;
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centered.broadcast_div(&(variance + norm.eps)?.sqrt()?)?;
    normed.broadcast_mul(&norm.weight.tensor()?)?.broadcast_add(&norm.bias.tensor()?)
}
