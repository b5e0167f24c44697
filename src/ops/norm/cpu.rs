//! The CPU's form, with parameters read from the mapping, and its gradient.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Norm, reference};
use crate::cpu::{host, math, rows_per_task, simd};
use crate::params::{Frozen, Param};

pub(in crate::ops) fn cpu(h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
    let (Param::Frozen(weight), Param::Frozen(bias)) = (norm.weight, norm.bias) else {
        return reference(h, residual, norm);
    };
    let op = FrozenNorm { weight: weight.clone(), bias: bias.clone(), eps: norm.eps as f32 };
    match residual {
        Some(residual) => h.contiguous()?.apply_op2(&residual.contiguous()?, op),
        None => h.contiguous()?.apply_op1(op),
    }
}

struct FrozenNorm {
    weight: Frozen,
    bias: Frozen,
    eps: f32,
}

impl FrozenNorm {
    fn parameters(&self) -> Result<(&[f32], &[f32])> {
        match (self.weight.slice(), self.bias.slice()) {
            (Some(w), Some(b)) => Ok((w, b)),
            _ => bail!("norm {}: expected parameters on the CPU", self.weight.name()),
        }
    }

    /// The norm of the rows of `h + residual`.
    fn forward(&self, h: &[f32], residual: Option<&[f32]>) -> Result<Vec<f32>> {
        let (w, b) = self.parameters()?;
        if b.len() != w.len() || !h.len().is_multiple_of(w.len()) || residual.is_some_and(|r| r.len() != h.len()) {
            let (elements, others) = (h.len(), residual.map(<[f32]>::len));
            bail!(
                "norm {}: expected rows of {}, found {elements} elements, residual of {others:?}",
                self.weight.name(),
                w.len()
            );
        }
        let chunk = w.len() * rows_per_task(w.len());
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_mut(chunk).zip(h.par_chunks(chunk)).enumerate().for_each(|(task, (y, h))| {
                let r = residual.map(|r| &r[task * chunk..][..h.len()]);
                simd::widest().dispatch(Forward { y, h, r, w, b, eps: self.eps });
            });
        };
        // SAFETY: `y` has as many elements as `h`, which consists of whole rows, and `Forward` writes every row.
        Ok(unsafe { host::written(h.len(), fill) })
    }

    /// With `n = (x - mean) * scale` and `g = dy * weight`: `dx = scale * (g - mean(g) - n * mean(g * n))`.
    fn backward(&self, h: &Tensor, residual: Option<&Tensor>, dy: &Tensor) -> Result<Tensor> {
        let (w, _) = self.parameters()?;
        let width = w.len();
        let mut dx = vec![0.0; h.elem_count()];
        let chunk = width * rows_per_task(width);
        let added = residual.is_some();
        host::read(NAME, [h, residual.unwrap_or(h), dy], |[x, r, dy]| {
            let tasks = x.par_chunks(chunk).zip(r.par_chunks(chunk)).zip(dy.par_chunks(chunk));
            dx.par_chunks_mut(chunk).zip(tasks).for_each(|(dx, ((x, r), dy))| {
                let mut scratch = vec![0.0; width];
                math::vectorized(
                    #[inline(always)]
                    || {
                        let rows = x.chunks_exact(width).zip(r.chunks_exact(width)).zip(dy.chunks_exact(width));
                        for (dx, ((x, r), dy)) in dx.chunks_exact_mut(width).zip(rows) {
                            scratch.copy_from_slice(x);
                            if added {
                                scratch.iter_mut().zip(r).for_each(|(sum, r)| *sum += r);
                            }
                            norm_gradient(dx, &mut scratch, dy, w, self.eps);
                        }
                    },
                );
            });
        })?;
        Tensor::from_vec(dx, h.shape(), h.device())
    }
}

const NAME: &str = "norm";

impl CustomOp1 for FrozenNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, h: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(host::fresh(self.forward(host::slice(NAME, h, layout)?, None)?, layout.shape().clone()))
    }

    fn bwd(&self, h: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        self.backward(h, None, dy).map(Some)
    }
}

impl CustomOp2 for FrozenNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, h: &CpuStorage, hl: &Layout, r: &CpuStorage, rl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (h, r) = (host::slice(NAME, h, hl)?, host::slice(NAME, r, rl)?);
        Ok(host::fresh(self.forward(h, Some(r))?, hl.shape().clone()))
    }

    fn bwd(&self, h: &Tensor, r: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = self.backward(h, Some(r), dy)?;
        Ok((Some(dx.clone()), Some(dx)))
    }
}

/// `y = norm(h + r)`, in rows as long as `w`.
struct Forward<'a> {
    y: &'a mut [MaybeUninit<f32>],
    h: &'a [f32],
    r: Option<&'a [f32]>,
    w: &'a [f32],
    b: &'a [f32],
    eps: f32,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { y, h, r, w, b, eps } = self;
        let width = w.len();
        for (row, (y, h)) in y.chunks_exact_mut(width).zip(h.chunks_exact(width)).enumerate() {
            let n = width as f32;
            let (sum, y) = match r {
                Some(r) => added(simd, y, h, &r[row * width..][..width]),
                None => copied(simd, y, h),
            };
            let mean = simd.splat_f32s(sum / n);
            let scale = simd.splat_f32s(1.0 / (squares(simd, y, mean) / n + eps).sqrt());
            let normed = |x, w, b| simd.mul_add_e_f32s(simd.mul_f32s(simd.sub_f32s(x, mean), scale), w, b);
            let ((w, w_rest), (b, b_rest)) = (S::as_simd_f32s(w), S::as_simd_f32s(b));
            let (y, y_rest) = S::as_mut_simd_f32s(y);
            for ((y, &w), &b) in y.iter_mut().zip(w).zip(b) {
                *y = normed(*y, w, b);
            }
            let [x, w, b] = [&*y_rest, w_rest, b_rest].map(|rest| simd.partial_load_f32s(rest));
            simd.partial_store_f32s(y_rest, normed(x, w, b));
        }
    }
}

/// Writes `h + r` to a row. Returns the row and its sum.
#[inline(always)]
fn added<'a, S: Simd>(simd: S, y: &'a mut [MaybeUninit<f32>], h: &[f32], r: &[f32]) -> (f32, &'a mut [f32]) {
    let (to, to_rest) = S::as_uninit_mut_simd_f32s(y);
    let ((h, h_rest), (r, r_rest)) = (S::as_simd_f32s(h), S::as_simd_f32s(r));
    let sum = four_sums(simd, h.len(), |at| *to[at].write(simd.add_f32s(h[at], r[at])));
    let rest = simd.add_f32s(simd.partial_load_f32s(h_rest), simd.partial_load_f32s(r_rest));
    host::write(simd, to_rest, rest);
    let sum = simd.reduce_sum_f32s(simd.add_f32s(sum, rest));
    // SAFETY: `h` and `r` are as long as `y`, so all whole vectors of `y` and its remainder have been written.
    (sum, unsafe { host::initialized(y) })
}

/// Writes `h` to a row. Returns the row and its sum.
#[inline(always)]
fn copied<'a, S: Simd>(simd: S, y: &'a mut [MaybeUninit<f32>], h: &[f32]) -> (f32, &'a mut [f32]) {
    let (to, to_rest) = S::as_uninit_mut_simd_f32s(y);
    let (h, h_rest) = S::as_simd_f32s(h);
    let sum = four_sums(simd, h.len(), |at| *to[at].write(h[at]));
    let rest = simd.partial_load_f32s(h_rest);
    host::write(simd, to_rest, rest);
    let sum = simd.reduce_sum_f32s(simd.add_f32s(sum, rest));
    // SAFETY: `h` is as long as `y`, so all whole vectors of `y` and its remainder have been written.
    (sum, unsafe { host::initialized(y) })
}

/// The sum of `(x - mean)^2`.
#[inline(always)]
fn squares<S: Simd>(simd: S, row: &[f32], mean: S::f32s) -> f32 {
    let (row, rest) = S::as_simd_f32s(row);
    let square = |x| {
        let from_mean = simd.sub_f32s(x, mean);
        simd.mul_f32s(from_mean, from_mean)
    };
    let sum = four_sums(simd, row.len(), |at| square(row[at]));
    let inside = simd.mask_between_m32s(0, rest.len() as u32).mask();
    let rest = simd.select_f32s(inside, square(simd.partial_load_f32s(rest)), simd.splat_f32s(0.0));
    simd.reduce_sum_f32s(simd.add_f32s(sum, rest))
}

/// The sum of `term(0), ..., term(n - 1)`, in four independent sums that the CPU computes in parallel.
#[inline(always)]
fn four_sums<S: Simd>(simd: S, n: usize, mut term: impl FnMut(usize) -> S::f32s) -> S::f32s {
    let mut sums = [simd.splat_f32s(0.0); 4];
    let mut at = 0;
    while at + 4 <= n {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = simd.add_f32s(*sum, term(at + i));
        }
        at += 4;
    }
    for at in at..n {
        sums[0] = simd.add_f32s(sums[0], term(at));
    }
    simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]))
}

/// Mean and `1 / sqrt(var + eps)` of a row.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row, |x| x) / n;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// A sum in 16 partial sums, so that it is vectorized and its rounding error grows slowly with the length.
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

/// The backward pass of one row. `x` holds the norm's input; it is overwritten with the normalized value.
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

/// A dot product in 16 partial sums.
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
