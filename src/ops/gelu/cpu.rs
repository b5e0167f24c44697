//! The CPU's form, with gradients.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::even;
use crate::cpu::{CHUNK, host, math, rows_per_task, simd};

const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;

pub(in crate::ops) fn cpu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gelu)
}

pub(in crate::ops) fn gated_cpu(x: &Tensor) -> Result<Tensor> {
    even(x)?;
    x.contiguous()?.apply_op1(GatedGelu)
}

/// Replaces every element of `x` by its GELU.
pub(in crate::ops) fn overwrite(x: &mut [f32]) {
    x.par_chunks_mut(CHUNK).for_each(|x| simd::widest().dispatch(Overwrite { x }));
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::slice(self.name(), x, layout)?;
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .for_each(|(y, x)| simd::widest().dispatch(Forward { x, y }));
        };
        // SAFETY: `y` has as many elements as `x`, and `Forward` writes as many as it reads.
        Ok(host::fresh(unsafe { host::written(x.len(), fill) }, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = vec![0.0; x.elem_count()];
        host::read(self.name(), [x, dy], |[x, dy]| {
            dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(|((dx, x), dy)| {
                math::vectorized(
                    #[inline(always)]
                    || {
                        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                            *dx = dy * slope(x).1;
                        }
                    },
                );
            });
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

struct GatedGelu;

impl CustomOp1 for GatedGelu {
    fn name(&self) -> &'static str {
        "gated-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let wide = width / 2;
        let x = host::slice(self.name(), x, layout)?;
        let task = rows_per_task(width);
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let tasks = y.par_chunks_mut((task * wide).max(1)).zip(x.par_chunks((task * width).max(1)));
            tasks.for_each(|(y, x)| simd::widest().dispatch(Gated { x, y, wide }));
        };
        // SAFETY: `y` has half as many elements as `x`, and `Gated` writes half as many as it reads.
        Ok(host::fresh(unsafe { host::written(rows * wide, fill) }, (rows, wide)))
    }

    /// `da = dy b gelu'(a)`, `db = dy gelu(a)`.
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dim(D::Minus1)?;
        let (wide, task) = (width / 2, rows_per_task(width));
        let mut dx = vec![0.0; x.elem_count()];
        host::read(self.name(), [x, dy], |[x, dy]| {
            let tasks = dx.par_chunks_mut((task * width).max(1)).zip(x.par_chunks((task * width).max(1)));
            tasks.zip(dy.par_chunks((task * wide).max(1))).for_each(|((dx, x), dy)| {
                math::vectorized(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(wide));
                        for ((dx, x), dy) in rows {
                            let ((da, db), (a, b)) = (dx.split_at_mut(wide), x.split_at(wide));
                            for ((((da, db), &a), &b), &dy) in da.iter_mut().zip(db).zip(a).zip(b).zip(dy) {
                                let (value, slope) = slope(a);
                                (*da, *db) = (dy * b * slope, dy * value);
                            }
                        }
                    },
                );
            });
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// GELU at `x`, and its derivative.
#[inline(always)]
fn slope(x: f32) -> (f32, f32) {
    /// 1 / sqrt(2 pi), the density of N(0, 1) at 0.
    const DENSITY: f32 = 0.398_942_3;
    let below = 0.5 * (1.0 + math::erf(x * SQRT_HALF));
    (x * below, below + x * DENSITY * math::exp(-0.5 * x * x))
}

#[inline(always)]
fn gelus<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
    simd.mul_add_e_f32s(half, math::erfs(simd, simd.mul_f32s(x, simd.splat_f32s(SQRT_HALF))), half)
}

/// `y = gelu(x)`.
struct Forward<'a> {
    x: &'a [f32],
    y: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (x, x_rest) = S::as_simd_f32s(self.x);
        let (y, y_rest) = S::as_uninit_mut_simd_f32s(self.y);
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(gelus(simd, x));
        }
        host::write(simd, y_rest, gelus(simd, simd.partial_load_f32s(x_rest)));
    }
}

/// `x = gelu(x)`.
struct Overwrite<'a> {
    x: &'a mut [f32],
}

impl WithSimd for Overwrite<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (whole, rest) = S::as_mut_simd_f32s(self.x);
        for x in whole {
            *x = gelus(simd, *x);
        }
        let value = gelus(simd, simd.partial_load_f32s(rest));
        simd.partial_store_f32s(rest, value);
    }
}

/// `y = gelu(a) * b` for rows of x that consist of a and b, each of `wide` elements.
struct Gated<'a> {
    x: &'a [f32],
    y: &'a mut [MaybeUninit<f32>],
    wide: usize,
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, y, wide } = self;
        if wide == 0 {
            return;
        }
        for (x, y) in x.chunks_exact(2 * wide).zip(y.chunks_exact_mut(wide)) {
            let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(&x[..wide]), S::as_simd_f32s(&x[wide..]));
            let (y, y_rest) = S::as_uninit_mut_simd_f32s(y);
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                y.write(simd.mul_f32s(gelus(simd, a), b));
            }
            let (a, b) = (simd.partial_load_f32s(a_rest), simd.partial_load_f32s(b_rest));
            host::write(simd, y_rest, simd.mul_f32s(gelus(simd, a), b));
        }
    }
}
