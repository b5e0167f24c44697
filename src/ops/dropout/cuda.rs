//! The GPU's form, with its gradient.

use candle_core::{Result, Tensor};

use super::Dropout;
use crate::cuda::{Output, Params, Place, address, launch, recorded};
use crate::ops::rows::{EACH, grid};

/// `DropoutParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DropoutParams {
    x: u64,
    y: u64,
    count: u64,
    seed: u64,
    bound: u32,
    kept: f32,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for DropoutParams {}

impl Dropout {
    fn run(self, x: &Tensor) -> Result<Output> {
        let y = Output::new(x.shape(), x.dtype(), x.device())?;
        let count = x.elem_count();
        let (bound, kept) = self.bound_and_factor();
        let (from, to) = (address(x)?, y.address());
        let params = DropoutParams { x: from, y: to, count: count as u64, seed: self.seed, bound, kept };
        let grid = grid("dropout", count.div_ceil(EACH))?;
        // SAFETY: both tensors are contiguous and have `count` elements of one type.
        unsafe { launch(&Place::of(x.device())?, "dropout", x.dtype(), grid, &params)? };
        Ok(y)
    }
}

pub(in crate::ops) fn cuda(h: &Tensor, dropout: Dropout) -> Result<Tensor> {
    let h = h.contiguous()?;
    let y = dropout.run(&h)?;
    // SAFETY: the kernel writes every element.
    unsafe { recorded("dropout", [&h], y, move |_, _, dy| Ok([Some(dropout.run(&dy.contiguous()?)?.tensor())])) }
}
