//! The GPU's form, with its gradient.

use candle_core::{Result, Tensor};

use super::check;
use crate::cuda::{Grid, Matrix, Output, Params, Place, Table, launch, recorded};
use crate::ops::rows::{EACH, grid, in_eights, neighbouring};

/// `PoolParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PoolParams {
    x: u64,
    offsets: u64,
    y: u64,
    stride: u64,
    rows: u32,
    texts: u32,
    width: u32,
    fast: u32,
}

// SAFETY: the struct is that of the kernels.
unsafe impl Params for PoolParams {}

/// The columns of a block, which are also its threads: `POOL_COLUMNS` and `ROWS_THREADS`.
const COLUMNS: usize = 256;

/// Shared memory for the sums of the block's eight warps.
const SHARED: usize = COLUMNS / 32 * COLUMNS * size_of::<f32>();

/// The means `[B, width]` of `x [rows, width]`; or for their gradient `x [B, width]` the gradient of the rows, if `rows` is given.
fn run(x: &Tensor, offsets: &[u32], rows: Option<usize>) -> Result<Output> {
    let from = Matrix::of("mean", x)?;
    let (texts, width) = (offsets.len() - 1, from.width);
    let y = Output::new((rows.unwrap_or(texts), width), x.dtype(), x.device())?;
    let offsets = Table::new(offsets, x.device())?;
    let params = PoolParams {
        x: from.address,
        offsets: offsets.address()?,
        y: y.address(),
        stride: from.stride as u64,
        rows: rows.unwrap_or(from.rows) as u32,
        texts: texts as u32,
        width: width as u32,
        fast: u32::from(in_eights([&from])),
    };
    let (kernel, grid) = match rows {
        None => ("pool", Grid { blocks: [texts, width.div_ceil(COLUMNS), 1], threads: COLUMNS, shared: SHARED }),
        Some(rows) => ("pool_backward", grid("mean", rows * width.div_ceil(EACH))?),
    };
    // SAFETY: `check` has compared the offsets with the rows, and the output has a row for each text, or for each row.
    unsafe { launch(&Place::of(x.device())?, kernel, x.dtype(), grid, &params)? };
    Ok(y)
}

pub(in crate::ops) fn cuda(x: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    check(x, offsets)?;
    let offsets: Vec<u32> = offsets.iter().map(|&offset| offset as u32).collect();
    let x = neighbouring(x)?;
    let y = run(&x, &offsets, None)?;
    // SAFETY: the kernels write every row of their outputs.
    unsafe {
        recorded("mean", [&x], y, move |[x], _, dy| {
            Ok([Some(run(&neighbouring(dy)?, &offsets, Some(x.dim(0)?))?.tensor())])
        })
    }
}
