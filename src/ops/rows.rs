//! What the element-wise operations share on a GPU: a thread handles up to eight neighbouring elements of a row (`rows.cuh`).

use candle_core::{D, Result, Tensor, bail};

use crate::cuda::{Grid, Matrix};

/// The number of elements that a thread handles.
pub(super) const EACH: usize = 8;

/// The number of threads in a block, `ROWS_THREADS` in `rows.cuh`.
const THREADS: usize = 256;

/// The tensor, copied unless the elements of each of its rows are neighbours.
pub(super) fn neighbouring(x: &Tensor) -> Result<Tensor> {
    let apart = x.dim(D::Minus1)? > 1 && x.stride().last() != Some(&1);
    if apart { x.contiguous() } else { Ok(x.clone()) }
}

/// Whether a kernel may read and write these rows in units of eight elements: widths are multiples of eight, and every row begins at a
/// multiple of 16 bytes.
pub(super) fn in_eights<const N: usize>(matrices: [&Matrix; N]) -> bool {
    matrices.iter().all(|matrix| {
        let stride = matrix.stride * matrix.dtype.size_in_bytes();
        matrix.width.is_multiple_of(EACH) && matrix.address.is_multiple_of(16) && stride.is_multiple_of(16)
    })
}

/// A thread for each of `units` units of work.
///
/// # Errors
/// If the kernels' 32-bit numbers are too small to count them. The error names `op`.
pub(super) fn grid(op: &'static str, units: usize) -> Result<Grid> {
    if u32::try_from(units + THREADS).is_err() {
        bail!("{op}: {units} units of work are too many");
    }
    Ok(Grid { blocks: [units.div_ceil(THREADS), 1, 1], threads: THREADS, shared: 0 })
}
