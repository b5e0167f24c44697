//! The GPU's form: one launch, however many tensors there are.

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};

use super::{starts, starts_of_shapes, starts_of_vars};
use crate::cuda::{Grid, Output, Params, Place, Table, address, launch};

/// `FlatParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FlatParams {
    parts: u64,
    vector: u64,
}

// SAFETY: the struct is that of the kernels.
unsafe impl Params for FlatParams {}

/// The number of threads in a block, `THREADS` in `kernels.cu`; of elements of each thread of a block; and the most blocks for a tensor.
const THREADS: usize = 256;
const EACH: usize = 8;
const MOST: usize = 256;

/// The most tensors in a launch: the limit of a grid in y.
const TENSORS: usize = 65_535;

/// Where a tensor's elements are, as the kernels read it.
struct Part {
    address: u64,
    rows: usize,
    width: usize,
    stride: usize,
    step: usize,
}

impl Part {
    /// A tensor whose elements lie one after another.
    fn contiguous(address: u64, count: usize) -> Self {
        Self { address, rows: 1, width: count, stride: 0, step: 1 }
    }

    /// A matrix with any strides, or any contiguous tensor.
    fn of(tensor: &Tensor) -> Result<Option<Self>> {
        let address = address(tensor)?;
        Ok(match (tensor.dims(), tensor.stride()) {
            _ if tensor.is_contiguous() => Some(Self::contiguous(address, tensor.elem_count())),
            (&[width], &[step]) => Some(Self { address, rows: 1, width, stride: 0, step }),
            (&[rows, width], &[stride, step]) => Some(Self { address, rows, width, stride, step }),
            _ => None,
        })
    }

    fn count(&self) -> usize {
        self.rows * self.width
    }

    fn words(&self, start: usize) -> Result<[u32; 8]> {
        let word = |x: usize| u32::try_from(x).map_err(candle_core::Error::wrap);
        word(self.count())?;
        let (start, low) = (start as u64, |x: u64| x as u32);
        let [rows, width, stride, step] = [self.rows, self.width, self.stride, self.step].map(word);
        let [a, s] = [self.address, start].map(|x| [low(x), low(x >> 32)]);
        Ok([a[0], a[1], s[0], s[1], rows?, width?, stride?, step?])
    }
}

/// Runs `kernel` over the parts, whose elements are of `dtype`, and the vector at `vector`.
///
/// # Safety
/// The parts and the vector must be as large as the parts say, and valid for what the kernel writes.
unsafe fn run(
    kernel: &str,
    dtype: DType,
    parts: &[Part],
    starts: &[usize],
    vector: u64,
    device: &Device,
) -> Result<()> {
    for (parts, starts) in parts.chunks(TENSORS).zip(starts.chunks(TENSORS)) {
        let words = parts.iter().zip(starts).map(|(part, &start)| part.words(start)).collect::<Result<Vec<_>>>()?;
        let longest = parts.iter().map(Part::count).max().unwrap_or(0);
        if longest == 0 {
            continue;
        }
        let table = Table::new(&words, device)?;
        let params = FlatParams { parts: table.address()?, vector };
        let blocks = [longest.div_ceil(THREADS * EACH).min(MOST), parts.len(), 1];
        let grid = Grid { blocks, threads: THREADS, shared: 0 };
        // SAFETY: the caller promises that `parts` and `vector` are valid for what the kernel reads and writes. The table is made here.
        unsafe { launch(&Place::of(device)?, kernel, dtype, grid, &params)? };
    }
    Ok(())
}

pub(in crate::ops) fn join_cuda(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else { bail!("join: no tensors") };
    // Tensors of other types, or of more than two dimensions in another order, are rare.
    let dtype = if tensors.iter().all(|tensor| tensor.dtype() == first.dtype()) { first.dtype() } else { DType::F32 };
    let plain = |tensor: &&Tensor| {
        let tensor = tensor.detach().to_dtype(dtype)?;
        if tensor.rank() > 2 { tensor.contiguous() } else { Ok(tensor) }
    };
    let tensors = tensors.iter().map(plain).collect::<Result<Vec<_>>>()?;
    let part = |tensor: &Tensor| match Part::of(tensor)? {
        Some(part) => Ok(part),
        None => bail!("join: expected a contiguous tensor, found strides {:?}", tensor.stride()),
    };
    let parts = tensors.iter().map(part).collect::<Result<Vec<_>>>()?;
    let (starts, len) = starts(parts.iter().map(Part::count));
    let vector = Output::new(len, DType::F32, first.device())?;
    // SAFETY: the parts are the tensors, and the vector has as many elements as they have together, all of which are written.
    unsafe {
        run("join", dtype, &parts, &starts, vector.address(), first.device())?;
        Ok(vector.tensor())
    }
}

pub(in crate::ops) fn split_cuda(vector: &Tensor, shapes: &[Shape], dtype: DType) -> Result<Vec<Var>> {
    let starts = starts_of_shapes(vector.elem_count(), shapes)?;
    let outputs = shapes.iter().map(|shape| Output::new(shape.clone(), dtype, vector.device()));
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let parts = outputs.iter().map(|output| Part::contiguous(output.address(), output.shape().elem_count()));
    let vector = vector.to_dtype(DType::F32)?.contiguous()?;
    // SAFETY: the outputs have together as many elements as the vector has, which `starts_of_shapes` checks, and all are written.
    unsafe {
        run("split", dtype, &parts.collect::<Vec<_>>(), &starts, address(&vector)?, vector.device())?;
        outputs.into_iter().map(|output| output.variable()).collect()
    }
}

pub(in crate::ops) fn assign_cuda(vector: &Tensor, vars: &[&Var]) -> Result<()> {
    let starts = starts_of_vars(vector.elem_count(), vars)?;
    let Some(first) = vars.first() else { return Ok(()) };
    if let Some(other) = vars.iter().find(|var| var.dtype() != first.dtype() || !var.is_contiguous()) {
        bail!("assign: expected contiguous {:?}, found {:?} {:?}", first.dtype(), other.dtype(), other.layout());
    }
    let parts = vars.iter().map(|var| Ok(Part::contiguous(address(var)?, var.elem_count())));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let vector = vector.to_dtype(DType::F32)?.contiguous()?;
    // SAFETY: the variables have together as many elements as the vector has, which `starts_of_vars` checks. The content of a variable
    // may change: the device does so in the order of its work, and in tests nothing else reads the variables meanwhile.
    unsafe { run("split", first.dtype(), &parts, &starts, address(&vector)?, vector.device()) }
}
