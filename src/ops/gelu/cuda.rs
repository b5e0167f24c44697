//! The GPU's form, with its gradient.

use candle_core::{Result, Tensor};

use crate::cuda::{Grid, Output, Params, Place, address, launch, recorded};

/// `GeluParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GeluParams {
    x: u64,
    dy: u64,
    y: u64,
    count: u64,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for GeluParams {}

/// The number of threads in a block, `THREADS` in `kernels.cu`, and of elements of each thread.
const THREADS: usize = 256;
const EACH: usize = 8;

/// Runs `kernel` over every element of `x`, and of `dy` for the gradient.
fn run(kernel: &str, x: &Tensor, dy: Option<&Tensor>) -> Result<Output> {
    let y = Output::new(x.shape(), x.dtype(), x.device())?;
    let count = x.elem_count();
    let params = GeluParams { x: address(x)?, dy: dy.map_or(Ok(0), address)?, y: y.address(), count: count as u64 };
    let grid = Grid { blocks: [count.div_ceil(THREADS * EACH), 1, 1], threads: THREADS, shared: 0 };
    // SAFETY: the tensors are contiguous and have `count` elements of one type.
    unsafe { launch(&Place::of(x.device())?, kernel, x.dtype(), grid, &params)? };
    Ok(y)
}

pub(in crate::ops) fn cuda(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = run("gelu", &x, None)?;
    // SAFETY: the kernel writes every element, in both directions.
    unsafe {
        recorded("gelu", [&x], y, |[x], _, dy| {
            let dx = run("gelu_backward", x, Some(&dy.contiguous()?.to_dtype(x.dtype())?))?;
            Ok([Some(dx.tensor())])
        })
    }
}
