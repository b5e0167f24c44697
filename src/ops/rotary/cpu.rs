//! The CPU's form, with its gradient.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::Rotary;
use crate::cpu::{host, rows_per_task};

pub(in crate::ops) fn cpu(x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
    rotary.check(x)?;
    x.contiguous()?.apply_op1(rotary.clone())
}

impl Rotary {
    /// Rotates forward with `sign` 1, backward with `sign` -1.
    fn apply(&self, x: &[f32], sign: f32) -> Vec<f32> {
        let mut y = x.to_vec();
        let (width, half) = (x.len() / self.positions.len().max(1), self.half);
        let rows = rows_per_task(width);
        y.par_chunks_mut((rows * width).max(1)).zip(self.positions.par_chunks(rows)).for_each(|(y, positions)| {
            for (row, &position) in y.chunks_exact_mut(width).zip(positions) {
                let angles = &self.angles[position * half..(position + 1) * half];
                for head in row.chunks_exact_mut(2 * half) {
                    let (a, b) = head.split_at_mut(half);
                    for ((a, b), &(cos, sin)) in a.iter_mut().zip(b).zip(angles) {
                        (*a, *b) = (*a * cos - *b * sin * sign, *b * cos + *a * sin * sign);
                    }
                }
            }
        });
        y
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(host::fresh(self.apply(host::slice(self.name(), x, layout)?, 1.0), layout.shape().clone()))
    }

    /// The transpose of a rotation is its inverse.
    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = host::read(self.name(), [dy], |[dy]| self.apply(dy, -1.0))?;
        Ok(Some(Tensor::from_vec(dx, dy.shape(), dy.device())?))
    }
}
