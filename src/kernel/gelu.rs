//! GELU, the exact one: `x * (1 + erf(x / sqrt 2)) / 2`.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{CHUNK, host, math};

const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// GELU of every element of `x`, of any shape.
///
/// # Errors
/// Candle's own.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Gelu) } else { reference(x) }
}

/// The same by candle's operations: the oracle, and what runs on devices without a kernel.
pub(crate) fn reference(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::slice(self.name(), x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            math::vectorised(
                #[inline(always)]
                || {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = 0.5 * x * (1.0 + math::erf(x * SQRT_HALF));
                    }
                },
            );
        });
        Ok(host::fresh(y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        /// 1 / sqrt(2 pi), the density of N(0, 1) at 0.
        const DENSITY: f32 = 0.398_942_3;
        let mut dx = vec![0.0; x.elem_count()];
        host::read(self.name(), [x, dy], |[x, dy]| {
            dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(|((dx, x), dy)| {
                math::vectorised(
                    #[inline(always)]
                    || {
                        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                            let below = 0.5 * (1.0 + math::erf(x * SQRT_HALF));
                            *dx = dy * (below + x * DENSITY * math::exp(-0.5 * x * x));
                        }
                    },
                );
            });
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
