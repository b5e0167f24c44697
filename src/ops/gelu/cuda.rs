//! The GPU's form, with gradients.

use candle_core::{Result, Tensor};

use super::even;
use crate::cuda::{Matrix, Output, Params, Place, address, launch, recorded};
use crate::ops::rows::{EACH, grid, in_eights, neighbouring};

/// `GeluParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GeluParams {
    x: u64,
    dy: u64,
    y: u64,
    count: u64,
}

/// `GatedGeluParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GatedGeluParams {
    x: u64,
    dy: u64,
    y: u64,
    x_stride: u64,
    dy_stride: u64,
    rows: u32,
    width: u32,
    fast: u32,
    unused: u32,
}

// SAFETY: the structs are those of the kernels.
unsafe impl Params for GeluParams {}
// SAFETY: the struct is that of the kernel, field by field, without padding.
unsafe impl Params for GatedGeluParams {}

/// Runs `kernel` over every element of `x`, and of `dy` for the gradient.
fn run(kernel: &str, x: &Tensor, dy: Option<&Tensor>) -> Result<Output> {
    let y = Output::new(x.shape(), x.dtype(), x.device())?;
    let count = x.elem_count();
    let params = GeluParams { x: address(x)?, dy: dy.map_or(Ok(0), address)?, y: y.address(), count: count as u64 };
    let grid = grid("gelu", count.div_ceil(EACH))?;
    // SAFETY: the tensors are contiguous and have `count` elements of one type.
    unsafe { launch(&Place::of(x.device())?, kernel, x.dtype(), grid, &params)? };
    Ok(y)
}

/// GELU of a contiguous `x`, without a gradient.
pub(in crate::ops) fn forward_cuda(x: &Tensor) -> Result<Output> {
    run("gelu", x, None)
}

/// The gradient of a contiguous `x`, from that of the result.
pub(in crate::ops) fn backward_cuda(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dx = run("gelu_backward", x, Some(&dy.contiguous()?.to_dtype(x.dtype())?))?;
    // SAFETY: the kernel writes every element.
    Ok(unsafe { dx.tensor() })
}

pub(in crate::ops) fn cuda(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = forward_cuda(&x)?;
    // SAFETY: the kernel writes every element.
    unsafe { recorded("gelu", [&x], y, |[x], _, dy| Ok([Some(backward_cuda(x, dy)?)])) }
}

/// `y [rows, width]` for `x [rows, 2 width]`, or the gradient of `x` if `dy` is given.
fn run_gated(x: &Tensor, dy: Option<&Tensor>) -> Result<Output> {
    let x_rows = Matrix::of("gated-gelu", x)?;
    let (rows, width) = (x_rows.rows, x_rows.width / 2);
    let dy_rows = dy.map(|dy| Matrix::of("gated-gelu", dy)).transpose()?;
    let y = Output::new((rows, if dy.is_some() { 2 * width } else { width }), x.dtype(), x.device())?;
    // Half a row must consist of whole eights as well.
    let fast = width.is_multiple_of(EACH) && in_eights([&x_rows]) && dy_rows.is_none_or(|dy| in_eights([&dy]));
    let params = GatedGeluParams {
        x: x_rows.address,
        dy: dy_rows.map_or(0, |dy| dy.address),
        y: y.address(),
        x_stride: x_rows.stride as u64,
        dy_stride: dy_rows.map_or(0, |dy| dy.stride as u64),
        rows: rows as u32,
        width: width as u32,
        fast: u32::from(fast),
        unused: 0,
    };
    let grid = grid("gated-gelu", rows * width.div_ceil(EACH))?;
    let kernel = if dy.is_some() { "gated_gelu_backward" } else { "gated_gelu" };
    // SAFETY: the matrices have the rows and widths that the parameters say, and elements of one type.
    unsafe { launch(&Place::of(x.device())?, kernel, x.dtype(), grid, &params)? };
    Ok(y)
}

pub(in crate::ops) fn gated_cuda(x: &Tensor) -> Result<Tensor> {
    even(x)?;
    let x = neighbouring(x)?;
    let y = run_gated(&x, None)?;
    // SAFETY: the kernels write every element.
    unsafe {
        recorded("gated-gelu", [&x], y, |[x], _, dy| {
            let dx = run_gated(x, Some(&neighbouring(&dy.to_dtype(x.dtype())?)?))?;
            Ok([Some(dx.tensor())])
        })
    }
}
