//! The CPU's form, with its gradient.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::Dropout;
use crate::cpu::{CHUNK, host};

pub(in crate::ops) fn cpu(h: &Tensor, dropout: Dropout) -> Result<Tensor> {
    h.contiguous()?.apply_op1(dropout)
}

impl Dropout {
    fn apply(self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(i, (y, x))| {
            for ((y, x), mask) in y.iter_mut().zip(x).zip(self.mask((i * CHUNK) as u64)) {
                *y = x * mask;
            }
        });
        y
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(host::fresh(self.apply(host::slice(self.name(), x, layout)?), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = host::read(self.name(), [dy], |[dy]| self.apply(dy))?;
        Ok(Some(Tensor::from_vec(dx, dy.shape(), dy.device())?))
    }
}
