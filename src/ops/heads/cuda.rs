//! The GPU's form: one launch for all heads.

use candle_core::{DType, Result, Tensor, bail};

use super::HeadLinear;
use crate::cuda::{Grid, Matrix, Output, Params, Place, Table, address, launch};
use crate::ops::rows::neighbouring;

/// `HeadsParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HeadsParams {
    x: u64,
    tasks: u64,
    rows: u64,
    y: u64,
    stride: u64,
    width: u32,
    fast: u32,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for HeadsParams {}

/// `HeadsTask` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HeadsTask {
    weight: [u32; 2],
    bias: [u32; 2],
    out: u32,
    first: u32,
    count: u32,
    y: u32,
}

// SAFETY: the struct consists of 32-bit words without gaps.
unsafe impl bytemuck::NoUninit for HeadsTask {}

/// The threads of a block, the rows of a task, and the outputs of a block: `HEADS_THREADS`, `HEADS_ROWS` and `HEADS_OUT` for each warp.
const THREADS: usize = 128;
const ROWS: usize = 8;
const OUT: usize = THREADS / 32 * 4;

/// A linear whose parameters are on the device.
struct Placed {
    weight: Tensor,
    bias: Tensor,
    out: usize,
}

impl Placed {
    /// The parameters in f32, with shapes that fit rows of `width`.
    fn of(linear: &HeadLinear, width: usize) -> Result<Self> {
        let place = |tensor: Tensor| tensor.to_dtype(DType::F32)?.contiguous();
        let (weight, bias) = (place(linear.weight.tensor()?)?, place(linear.bias.tensor()?)?);
        match (weight.dims(), bias.dims()) {
            (&[out, found], &[biases]) if found == width && biases == out => Ok(Self { weight, bias, out }),
            (weight, bias) => bail!("head: weight {weight:?} and bias {bias:?} do not fit rows of {width}"),
        }
    }
}

fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

pub(in crate::ops) fn cuda(x: &Tensor, linears: &[HeadLinear]) -> Result<Tensor> {
    let x = neighbouring(&x.to_dtype(DType::F32)?)?;
    let from = Matrix::of("head", &x)?;
    let placed = linears.iter().map(|linear| Placed::of(linear, from.width)).collect::<Result<Vec<_>>>()?;
    let (mut tasks, mut rows, mut len) = (Vec::new(), Vec::new(), 0);
    let aligned = |address: u64| address.is_multiple_of(16);
    let mut fast = from.width.is_multiple_of(4) && from.stride.is_multiple_of(4) && aligned(from.address);
    for (linear, placed) in linears.iter().zip(&placed) {
        if let Some(row) = linear.rows.iter().find(|&&row| row as usize >= from.rows) {
            bail!("head: row {row} of {}", from.rows);
        }
        let (weight, bias, out) = (address(&placed.weight)?, address(&placed.bias)?, placed.out);
        fast &= aligned(weight);
        for part in linear.rows.chunks(ROWS) {
            let (first, count) = (rows.len() as u32, part.len() as u32);
            let (weight, bias) = (halves(weight), halves(bias));
            tasks.push(HeadsTask { weight, bias, out: out as u32, first, count, y: len as u32 });
            rows.extend_from_slice(part);
            len += part.len() * out;
        }
    }
    let y = Output::new(len, DType::F32, x.device())?;
    if !tasks.is_empty() {
        let (table, order) = (Table::new(&tasks, x.device())?, Table::new(&rows, x.device())?);
        let params = HeadsParams {
            x: from.address,
            tasks: table.address()?,
            rows: order.address()?,
            y: y.address(),
            stride: from.stride as u64,
            width: from.width as u32,
            fast: u32::from(fast),
        };
        let widest = placed.iter().map(|placed| placed.out).max().unwrap_or(0);
        let grid = Grid { blocks: [tasks.len(), widest.div_ceil(OUT), 1], threads: THREADS, shared: 0 };
        // SAFETY: the loop above has checked every row, and `Placed::of` the parameters' shapes; `placed` lives until the launch.
        unsafe { launch(&Place::of(x.device())?, "heads", DType::F32, grid, &params)? };
    }
    // SAFETY: each of the tasks, which together cover the output, has written its rows.
    Ok(unsafe { y.tensor() })
}
