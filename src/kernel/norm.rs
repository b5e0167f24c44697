//! Residual + LayerNorm: `(h + r - mean) / sqrt(var + eps) * weight + bias` over the last dimension.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Param, host, math, rows_per_task};
use crate::model::Frozen;

/// LayerNorm of `h + residual`, both `[T, hidden]`; `weight` and `bias [hidden]`, population variance.
///
/// # Errors
/// Shapes that do not fit, and candle's own.
pub fn residual_norm(h: &Tensor, residual: &Tensor, weight: &Param, bias: &Param, eps: f64) -> Result<Tensor> {
    match (weight, bias) {
        (Param::Frozen(w), Param::Frozen(b)) if w.slice().is_some() && b.slice().is_some() => {
            let op = ResidualNorm { weight: w.clone(), bias: b.clone(), eps: eps as f32 };
            h.contiguous()?.apply_op2(&residual.contiguous()?, op)
        }
        _ => reference(&(h + residual)?, &weight.tensor()?, &bias.tensor()?, eps),
    }
}

/// LayerNorm of `x [T, hidden]` by candle's operations: the oracle, and what runs where a norm is trained or has no kernel.
pub(crate) fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

struct ResidualNorm {
    weight: Frozen,
    bias: Frozen,
    eps: f32,
}

impl ResidualNorm {
    fn parameters(&self) -> Result<(&[f32], &[f32])> {
        match (self.weight.slice(), self.bias.slice()) {
            (Some(w), Some(b)) => Ok((w, b)),
            _ => bail!("norm {}: expected parameters on the CPU", self.weight.name()),
        }
    }
}

/// Mean and `1 / sqrt(var + eps)` of a row.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row, |x| x) / n;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// A sum in 16 partial sums, so that it is vectorised and its rounding does not grow with the length.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; 16];
    let (sixteens, rest) = row.as_chunks::<16>();
    for values in sixteens {
        for (part, &value) in parts.iter_mut().zip(values) {
            *part += term(value);
        }
    }
    parts.iter().sum::<f32>() + rest.iter().map(|&value| term(value)).sum::<f32>()
}

impl CustomOp2 for ResidualNorm {
    fn name(&self) -> &'static str {
        "residual-norm"
    }

    fn cpu_fwd(&self, h: &CpuStorage, hl: &Layout, r: &CpuStorage, rl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (w, b) = self.parameters()?;
        let (h, r) = (host::slice(self.name(), h, hl)?, host::slice(self.name(), r, rl)?);
        let width = w.len();
        if hl.shape() != rl.shape() || !h.len().is_multiple_of(width) {
            bail!(
                "norm {}: expected two of [T, {width}], found {:?} and {:?}",
                self.weight.name(),
                hl.shape(),
                rl.shape()
            );
        }
        let mut y = vec![0.0; h.len()];
        let chunk = width * rows_per_task(width);
        y.par_chunks_mut(chunk).zip(h.par_chunks(chunk)).zip(r.par_chunks(chunk)).for_each(|((y, h), r)| {
            math::vectorised(
                #[inline(always)]
                || {
                    for ((y, h), r) in y.chunks_exact_mut(width).zip(h.chunks_exact(width)).zip(r.chunks_exact(width)) {
                        for ((y, h), r) in y.iter_mut().zip(h).zip(r) {
                            *y = h + r;
                        }
                        let (mean, scale) = moments(y, self.eps);
                        for ((y, w), b) in y.iter_mut().zip(w).zip(b) {
                            *y = (*y - mean) * scale * w + b;
                        }
                    }
                },
            );
        });
        Ok(host::fresh(y, hl.shape().clone()))
    }

    /// With `n = (x - mean) * scale` and `g = dy * weight`: `dx = scale * (g - mean(g) - n * mean(g * n))`, for both inputs.
    fn bwd(&self, h: &Tensor, r: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (w, _) = self.parameters()?;
        let width = w.len();
        let mut dx = vec![0.0; h.elem_count()];
        let chunk = width * rows_per_task(width);
        host::read(self.name(), [h, r, dy], |[h, r, dy]| {
            let rows = h.par_chunks(chunk).zip(r.par_chunks(chunk)).zip(dy.par_chunks(chunk));
            dx.par_chunks_mut(chunk).zip(rows).for_each(|(dx, ((h, r), dy))| {
                let mut x = vec![0.0; width];
                let rows = h.chunks_exact(width).zip(r.chunks_exact(width)).zip(dy.chunks_exact(width));
                math::vectorised(
                    #[inline(always)]
                    || {
                        for (dx, ((h, r), dy)) in dx.chunks_exact_mut(width).zip(rows) {
                            for ((x, h), r) in x.iter_mut().zip(h).zip(r) {
                                *x = h + r;
                            }
                            norm_gradient(dx, &mut x, dy, w, self.eps);
                        }
                    },
                );
            });
        })?;
        let dx = Tensor::from_vec(dx, h.shape(), h.device())?;
        Ok((Some(dx.clone()), Some(dx)))
    }
}

/// One row of the backward pass; `x` comes in as the norm's input and is used as room for its normalised value.
#[inline(always)]
fn norm_gradient(dx: &mut [f32], x: &mut [f32], dy: &[f32], w: &[f32], eps: f32) {
    let width = x.len();
    let (mean, scale) = moments(x, eps);
    for x in x.iter_mut() {
        *x = (*x - mean) * scale;
    }
    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(w) {
        *dx = dy * w;
    }
    let n = width as f32;
    let mean_g = sum(dx, |g| g) / n;
    let mean_gn = dot(dx, x) / n;
    for (dx, x) in dx.iter_mut().zip(x.iter()) {
        *dx = scale * (*dx - mean_g - x * mean_gn);
    }
}

/// A sum of products, in 16 partial sums as well.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0.0; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((part, a), b) in parts.iter_mut().zip(a).zip(b) {
            *part += a * b;
        }
    }
    parts.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
