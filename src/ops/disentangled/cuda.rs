//! The GPU's form. `gradient.rs` has its backward pass.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::inputs::{Attention, Inputs, PAD};
use super::{Disentangled, gradient};
use crate::cuda::{Grid, Matrix, Output, Params, Place, launch, most_shared, recorded};
use crate::ops::Dropout;

/// `KEYS` in `kernels.cu`.
const KEYS: usize = 32;
/// The queries of a warp.
const BAND: usize = 16;
/// The most warps in a block.
const MOST_WARPS: usize = 8;

/// `ForwardParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ForwardParams {
    inputs: Inputs,
    y: u64,
    sums: u64,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for ForwardParams {}

impl Attention {
    /// The number of warps in a block, which does not change the result, and the block's shared memory in bytes. More warps read keys and
    /// positions once for more queries, but those behind the end of a short text have nothing to do.
    fn block(&self, dtype: DType, device: &Device) -> Result<(usize, usize)> {
        let most = most_shared(device)?;
        let row = (self.width()? + PAD) * dtype.size_in_bytes();
        let shared = |warps: usize| {
            let ring = (warps * BAND).next_multiple_of(KEYS) + 2 * KEYS;
            (warps * BAND + 4 * KEYS + 2 * ring) * row
        };
        let texts = self.how.texts.len().max(1);
        let mean = self.how.offsets.last().unwrap_or(&0).div_ceil(texts);
        let mut warps = if mean <= 4 * BAND { MOST_WARPS / 2 } else { MOST_WARPS };
        while shared(warps) > most {
            if warps == 1 {
                bail!("disentangled: a block needs {} bytes of shared memory, the device has {most}", shared(1));
            }
            warps /= 2;
        }
        Ok((warps, shared(warps)))
    }

    /// The attention's result, and, if `with_sums`, what the gradient needs of the softmax: `[heads, T]` in f32.
    fn forward(&self, qkv: [&Tensor; 3], positions: &Tensor, with_sums: bool) -> Result<(Output, Option<Tensor>)> {
        let (device, dtype) = (qkv[0].device(), qkv[0].dtype());
        let y = Output::new(qkv[0].shape(), dtype, device)?;
        let sums = with_sums.then(|| Output::new((self.how.heads, qkv[0].dim(0)?), DType::F32, device)).transpose()?;
        let (warps, shared) = self.block(dtype, device)?;
        let tables = self.tables(warps * BAND, device)?;
        let [q, k, v] = qkv.map(|x| Matrix::of("disentangled", x));
        let inputs = self.inputs([q?, k?, v?], Matrix::of("disentangled", positions)?, &[], &tables)?;
        let params = ForwardParams { inputs, y: y.address(), sums: sums.as_ref().map_or(0, Output::address) };
        let blocks = [self.tiles_count(warps * BAND) * self.how.heads, 1, 1];
        let grid = Grid { blocks, threads: 32 * warps, shared };
        let place = Place::of(device)?;
        // SAFETY: `check` has compared the shapes, offsets and rows of positions; `Inputs` holds the strides and the one type; outputs
        // are contiguous; tables, inputs and outputs are dropped only after the launch was queued.
        unsafe { launch(&place, &self.kernel("disentangled")?, dtype, grid, &params)? };
        // SAFETY: the tiles cover all queries of all texts, and each block writes the sums of its queries.
        Ok((y, sums.map(|sums| unsafe { sums.tensor() })))
    }
}

/// The matrix, copied if the elements of its rows are not neighbours, in `dtype`.
fn rows(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let x = x.to_dtype(dtype)?;
    if x.stride()[1] == 1 { Ok(x) } else { x.contiguous() }
}

pub(in crate::ops) fn cuda(
    [q, k, v]: [&Tensor; 3],
    positions: &Tensor,
    how: &Disentangled,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let dims = how.check(q.shape(), k.shape(), positions.shape())?;
    if v.dims() != q.dims() {
        bail!("disentangled: q {:?}, v {:?}", q.dims(), v.dims());
    }
    if q.dim(0)? == 0 {
        return v.zeros_like();
    }
    let attention = Attention { how: how.clone(), dims, dropout };
    let positions = rows(positions, q.dtype())?;
    if ![q, k, v, &positions].into_iter().any(Tensor::track_op) {
        let [q, k, v] = [q, k, v].map(|x| rows(x, q.dtype()));
        let (y, _) = attention.forward([&q?, &k?, &v?], &positions, false)?;
        // SAFETY: `forward` has launched the kernel that writes every element.
        return Ok(unsafe { y.tensor() });
    }
    // Now, and not only after the forward pass.
    let (needed, most) = (attention.scores_memory(q.dtype())?, most_shared(q.device())?);
    if needed > most {
        bail!(
            "disentangled: a block of the gradient needs {needed} bytes of shared memory in {:?}, the device has {most}",
            q.dtype()
        );
    }
    // A recorded operation has at most three inputs.
    let qkv = Tensor::cat(&[q, k, v], 1)?;
    let [q, k, v] = [0, 1, 2].map(|at| qkv.narrow(1, at * dims.hidden, dims.hidden));
    let (y, sums) = attention.forward([&q?, &k?, &v?], &positions, true)?;
    // SAFETY: `forward` has launched the kernel that writes every element.
    unsafe {
        recorded("disentangled-attention", [&qkv, &positions], y, move |[qkv, positions], y, dy| match &sums {
            Some(sums) => gradient::backward(&attention, [qkv, positions, y, dy], sums),
            None => bail!("disentangled: no sums of the softmax"),
        })
    }
}
