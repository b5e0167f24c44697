//! Inverted dropout whose mask is a hash of a seed and a place, so that the backward pass makes the same mask again and none is
//! kept.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{CHUNK, host};

/// How much is dropped, and which.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that an element becomes 0, below 1.
    pub p: f32,
    /// Of this step and place.
    pub seed: u64,
}

impl Dropout {
    /// What elements `start..` are multiplied with: 0, or `1 / (1 - p)`.
    pub(crate) fn mask(self, start: u64) -> impl Iterator<Item = f32> {
        let bound = (f64::from(self.p) * f64::from(u32::MAX)) as u32;
        let kept = 1.0 / (1.0 - self.p);
        let seed = self.seed.wrapping_add(start);
        (0..).map(move |i| if (splitmix(seed.wrapping_add(i)) >> 32) as u32 >= bound { kept } else { 0.0 })
    }

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

/// SplitMix64 (Steele et al. 2014).
#[must_use]
pub fn splitmix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `h`, of any shape, with elements dropped.
///
/// # Errors
/// Candle's own.
pub fn dropout(h: &Tensor, dropout: Dropout) -> Result<Tensor> {
    if h.device().is_cpu() { h.contiguous()?.apply_op1(dropout) } else { reference(h, dropout) }
}

/// The same by candle's operations: the oracle, and what runs on devices without a kernel.
pub(crate) fn reference(h: &Tensor, dropout: Dropout) -> Result<Tensor> {
    let mask: Vec<f32> = dropout.mask(0).take(h.elem_count()).collect();
    h * Tensor::from_vec(mask, h.shape(), h.device())?
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
