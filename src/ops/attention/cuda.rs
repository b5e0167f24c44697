//! The GPU's form, with its gradient. Head sizes are rounded up to those of the kernels.

use candle_core::{DType, Result, Tensor, bail};

use super::{Dropout, Heads};
use crate::cuda::{Grid, Matrix, Output, Params, Place, Table, address, launch, recorded};

/// `AttentionParams` in `params.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct AttentionParams {
    q: u64,
    k: u64,
    v: u64,
    y: u64,
    dy: u64,
    dq: u64,
    dk: u64,
    dv: u64,
    log_sums: u64,
    deltas: u64,
    bias: u64,
    dbias: u64,
    tiles: u64,
    seed: u64,
    q_stride: u32,
    k_stride: u32,
    v_stride: u32,
    heads: u32,
    size: u32,
    columns: u32,
    window: i32,
    bound: u32,
    kept: f32,
    scale: f32,
    aligned: u32,
    tile_count: u32,
}

// SAFETY: the struct is that of the kernels.
unsafe impl Params for AttentionParams {}

/// The most blocks of a grid in y. There are few in tests, so that tests use z, too.
const MOST_BLOCKS: usize = if cfg!(test) { 3 } else { 65_535 };

/// The head sizes for which there are kernels.
const SIZES: [usize; 5] = [16, 32, 64, 128, 256];

/// Those for which there are plain kernels too.
const USUAL_SIZES: [usize; 3] = [32, 64, 128];

pub(in crate::ops) fn cuda([q, k, v]: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
    let hidden = heads.check([q, k, v])?;
    if q.dtype() != k.dtype() || q.dtype() != v.dtype() {
        bail!("attention: q {:?}, k {:?}, v {:?} differ in type", q.dtype(), k.dtype(), v.dtype());
    }
    if q.elem_count() == 0 {
        return q.zeros_like();
    }
    let attention = Attention::new(hidden, heads)?;
    match heads.bias.filter(|bias| bias.track_op()) {
        Some(bias) => with_trained_bias(attention, &Tensor::cat(&[q, k, v], 1)?, bias),
        None => with_fixed_bias(attention, [&neighbouring(q)?, &neighbouring(k)?, &neighbouring(v)?]),
    }
}

/// Attention whose result has a gradient only in `q`, `k` and `v`.
fn with_fixed_bias(attention: Attention, qkv: [&Tensor; 3]) -> Result<Tensor> {
    let (y, log_sums) = attention.forward(qkv, qkv.iter().any(|x| x.track_op()))?;
    // SAFETY: the kernel writes every element, in both directions.
    unsafe {
        recorded("attention", qkv, y, move |qkv, y, dy| {
            Ok(attention.backward(qkv, [y, dy], log_sums.as_ref(), None)?.map(Some))
        })
    }
}

/// Attention whose result has a gradient in the bias too. Candle records at most three inputs, so `q`, `k` and `v` are the thirds of
/// each row of `qkv [T, 3 hidden]`.
fn with_trained_bias(attention: Attention, qkv: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let thirds = |qkv: &Tensor| -> Result<[Tensor; 3]> {
        let hidden = qkv.dim(1)? / 3;
        Ok([qkv.narrow(1, 0, hidden)?, qkv.narrow(1, hidden, hidden)?, qkv.narrow(1, 2 * hidden, hidden)?])
    };
    let [q, k, v] = thirds(qkv)?;
    let (y, log_sums) = attention.forward([&q, &k, &v], true)?;
    // SAFETY: the kernel writes every element, in both directions.
    unsafe {
        recorded("attention", [qkv, bias], y, move |[qkv, bias], y, dy| {
            let [q, k, v] = thirds(qkv)?;
            // No one else has this tensor yet, and the kernel adds to it.
            let dbias = Tensor::zeros(bias.shape(), DType::F32, bias.device())?;
            let gradients = attention.backward([&q, &k, &v], [y, dy], log_sums.as_ref(), Some(&dbias))?;
            Ok([Some(Tensor::cat(&gradients, 1)?), Some(dbias.to_dtype(bias.dtype())?)])
        })
    }
}

/// `x`, whose rows consist of neighbouring elements.
fn neighbouring(x: &Tensor) -> Result<Tensor> {
    if x.stride().last() == Some(&1) { Ok(x.clone()) } else { x.contiguous() }
}

/// The tiles of `rows` rows of all texts, as `TextTile` in `params.cuh`.
fn tiles(offsets: &[usize], rows: usize) -> Vec<[u32; 4]> {
    let of_text = |(text, span): (usize, &[usize])| {
        let (start, len) = (span[0], span[1] - span[0]);
        (0..len).step_by(rows).map(move |first| [start, len, first, text].map(|x| x as u32))
    };
    offsets.windows(2).enumerate().flat_map(of_text).collect()
}

/// The number of those tiles.
fn count(offsets: &[usize], rows: usize) -> usize {
    offsets.windows(2).map(|span| (span[1] - span[0]).div_ceil(rows)).sum()
}

/// What all launches for one attention share.
struct Attention {
    offsets: Vec<usize>,
    heads: usize,
    /// The head size, and the size to which it is rounded up.
    size: usize,
    padded: usize,
    scale: f32,
    window: i32,
    /// `[heads, columns]`, f32.
    bias: Option<Tensor>,
    dropout: Option<Dropout>,
}

/// The kernels.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    Forward,
    /// For scores that are only scaled products by a positive scale, without dropout, and aligned rows.
    Plain,
    /// The same, for short texts.
    PlainShort,
    BackwardQueries,
    BackwardKeys,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "attention",
            Self::Plain => "attention_plain",
            Self::PlainShort => "attention_plain_short",
            Self::BackwardQueries => "attention_backward_queries",
            Self::BackwardKeys => "attention_backward_keys",
        }
    }

    /// The number of warps of a block. Each owns 16 rows.
    fn warps(self) -> usize {
        if matches!(self, Self::PlainShort) { 2 } else { 4 }
    }

    /// The number of rows that a block owns.
    fn rows(self) -> usize {
        16 * self.warps()
    }

    /// Bytes of shared memory of a block: tiles with rows of `padded + 8` elements of `bytes` bytes, those over which the block walks
    /// twice.
    fn shared(self, padded: usize, bytes: usize) -> usize {
        // `STEP` in `tile.cuh`, and `KEYS` in `kernels.cu`.
        let step = (8192 / (padded * bytes)).clamp(16, 64);
        let row = (padded + 8) * bytes;
        match self {
            Self::Forward | Self::Plain => (self.rows() + 4 * step) * row,
            Self::PlainShort => (self.rows() + 4 * step.min(32)) * row,
            Self::BackwardQueries => (2 * self.rows() + 4 * step) * row,
            Self::BackwardKeys => (2 * self.rows() + 4 * step) * row + 4 * step * size_of::<f32>(),
        }
    }
}

impl Attention {
    fn new(hidden: usize, heads: &Heads) -> Result<Self> {
        let size = hidden / heads.heads;
        let Some(padded) = SIZES.into_iter().find(|&padded| size <= padded) else {
            bail!("attention: heads of size {size}, but on a GPU they may have at most {}", SIZES[SIZES.len() - 1]);
        };
        let bias = |bias: &Tensor| bias.detach().to_dtype(DType::F32)?.contiguous();
        Ok(Self {
            offsets: heads.offsets.to_vec(),
            heads: heads.heads,
            size,
            padded,
            scale: heads.scale as f32,
            // No text is longer than 2^30, and sums with such a number do not overflow.
            window: heads.window.map_or(1 << 30, |window| window.min(1 << 30) as i32),
            bias: heads.bias.map(bias).transpose()?,
            dropout: heads.dropout,
        })
    }

    /// The result, and the logarithms `[T, heads]` of the softmax's sums if a gradient follows.
    fn forward(&self, qkv: [&Tensor; 3], gradient: bool) -> Result<(Output, Option<Tensor>)> {
        let q = qkv[0];
        let y = Output::new(q.shape(), q.dtype(), q.device())?;
        let log_sums = gradient.then(|| self.by_head(q)).transpose()?;
        let params = AttentionParams {
            y: y.address(),
            log_sums: log_sums.as_ref().map_or(0, Output::address),
            ..self.params(qkv)?
        };
        let params = AttentionParams { aligned: u32::from(self.aligned(&params, q.dtype())), ..params };
        self.launch(self.forward_kernel(&params), q, params)?;
        // SAFETY: the kernel writes every element.
        Ok((y, log_sums.map(|log_sums| unsafe { log_sums.tensor() })))
    }

    /// The gradients of `q`, `k` and `v`, contiguous, from the result `y` and its gradient. Adds the bias's gradient to `dbias`.
    fn backward(
        &self,
        qkv: [&Tensor; 3],
        [y, dy]: [&Tensor; 2],
        log_sums: Option<&Tensor>,
        dbias: Option<&Tensor>,
    ) -> Result<[Tensor; 3]> {
        let Some(log_sums) = log_sums else { bail!("attention: a gradient of a result that was not tracked") };
        let q = qkv[0];
        let dy = dy.to_dtype(q.dtype())?.contiguous()?;
        let gradient = || Output::new(q.shape(), q.dtype(), q.device());
        let (dq, dk, dv, deltas) = (gradient()?, gradient()?, gradient()?, self.by_head(q)?);
        let params = AttentionParams {
            y: address(y)?,
            dy: address(&dy)?,
            dq: dq.address(),
            dk: dk.address(),
            dv: dv.address(),
            log_sums: address(log_sums)?,
            deltas: deltas.address(),
            dbias: dbias.map_or(Ok(0), address)?,
            ..self.params(qkv)?
        };
        let params = AttentionParams { aligned: u32::from(self.aligned(&params, q.dtype())), ..params };
        // The second kernel reads the sums that the first writes.
        self.launch(Kernel::BackwardQueries, q, params)?;
        self.launch(Kernel::BackwardKeys, q, params)?;
        // SAFETY: the kernels write every element.
        Ok(unsafe { [dq.tensor(), dk.tensor(), dv.tensor()] })
    }

    /// Memory for a number for each token and head.
    fn by_head(&self, q: &Tensor) -> Result<Output> {
        Output::new((q.dim(0)?, self.heads), DType::F32, q.device())
    }

    /// The parameters that do not depend on the kernel, but for `aligned`.
    fn params(&self, qkv: [&Tensor; 3]) -> Result<AttentionParams> {
        let [q, k, v] = qkv;
        let [q, k, v] = [Matrix::of("attention", q)?, Matrix::of("attention", k)?, Matrix::of("attention", v)?];
        let stride = |x: &Matrix| u32::try_from(x.stride).map_err(candle_core::Error::wrap);
        let dropout = self.dropout.unwrap_or(Dropout { p: 0.0, seed: 0 });
        let (bound, kept) = dropout.bound_and_factor();
        Ok(AttentionParams {
            q: q.address,
            k: k.address,
            v: v.address,
            bias: self.bias.as_ref().map_or(Ok(0), address)?,
            seed: dropout.seed,
            q_stride: stride(&q)?,
            k_stride: stride(&k)?,
            v_stride: stride(&v)?,
            heads: self.heads as u32,
            size: self.size as u32,
            columns: self.bias.as_ref().map_or(Ok(0), |bias| bias.dim(1))? as u32,
            window: self.window,
            bound,
            kept,
            scale: self.scale,
            ..AttentionParams::default()
        })
    }

    /// Whether all rows can be read 16 bytes at a time.
    fn aligned(&self, p: &AttentionParams, dtype: DType) -> bool {
        let addresses = [p.q, p.k, p.v, p.y, p.dy, p.dq, p.dk, p.dv];
        let rows =
            [p.q_stride, p.k_stride, p.v_stride, p.size].map(|elements| elements as usize * dtype.size_in_bytes());
        addresses.iter().all(|address| address.is_multiple_of(16)) && rows.iter().all(|row| row % 16 == 0)
    }

    /// The kernel that computes the result. The choice between the plain ones does not change a bit of it.
    fn forward_kernel(&self, p: &AttentionParams) -> Kernel {
        let usual = p.aligned == 1 && p.scale > 0.0 && USUAL_SIZES.contains(&self.padded);
        let plain = usual && self.bias.is_none() && self.dropout.is_none();
        let tiles = |kernel: Kernel| count(&self.offsets, kernel.rows());
        match plain {
            false => Kernel::Forward,
            // Most tiles would be half empty.
            true if 2 * tiles(Kernel::PlainShort) < 3 * tiles(Kernel::Plain) => Kernel::PlainShort,
            true => Kernel::Plain,
        }
    }

    /// Launches a kernel for every head of every tile. `params` lacks only the tiles.
    fn launch(&self, kernel: Kernel, q: &Tensor, params: AttentionParams) -> Result<()> {
        let (dtype, device) = (q.dtype(), q.device());
        let tiles = tiles(&self.offsets, kernel.rows());
        let table = Table::new(&tiles, device)?;
        let params = AttentionParams { tiles: table.address()?, tile_count: tiles.len() as u32, ..params };
        let name = format!("{}_{}", kernel.name(), self.padded);
        // Neighbouring blocks read neighbouring heads.
        let z = tiles.len().div_ceil(MOST_BLOCKS);
        let grid = Grid {
            blocks: [self.heads, tiles.len().div_ceil(z), z],
            threads: 32 * kernel.warps(),
            shared: kernel.shared(self.padded, dtype.size_in_bytes()),
        };
        // SAFETY: the parameters are the kernel's; `q`, `k`, `v` and what has their shape hold all rows of the tiles, which the offsets
        // give, and `Heads::check` has compared these with the shapes.
        unsafe { launch(&Place::of(device)?, &name, dtype, grid, &params) }
    }
}
