//! Finishes the outputs of linears on a GPU: adds the bias and the deltas and applies GELU, in at most two launches.

use std::ops::Range;

use candle_core::{D, DType, Result, Tensor, bail};

use super::launch_plan::{Finish, Launch, Piece, Span, Strip, plan};
use super::ragged::Dims;
use crate::cuda::{Grid, Matrix, Output, Params, Place, Table, address, launch};
use crate::params::Delta;

/// The most outputs in a launch, `TARGETS` in `expand.cu`.
pub(super) const TARGETS: usize = 4;
/// The numbers of strips and spans that a launch takes in its parameters. A table in the device's memory holds more.
const STRIPS: usize = 50;
const SPANS: usize = 96;
/// The numbers of threads in a block, and of warps that share a tile of the shrink, each with sums of 24 columns.
const SHRINK_THREADS: usize = 256;
const EXPAND_THREADS: usize = 128;
const SHRINK_SUMS: usize = 8 * 24 * size_of::<f32>();

/// A delta's matrices in the type of the activations.
#[derive(Debug, Clone)]
pub(super) struct TypedDelta {
    /// `A [rank, in]`, contiguous.
    pub(super) a: Tensor,
    /// The transpose of B, `[rank, out]`, contiguous.
    pub(super) bt: Tensor,
    pub(super) scale: f32,
}

impl TypedDelta {
    /// `delta` for x, whose output has `out` columns. Matrices of another type are converted.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub(super) fn new(x: &Tensor, delta: &Delta, out: usize) -> Result<Self> {
        check(x, delta, out)?;
        let a = delta.a.detach().to_dtype(x.dtype())?.contiguous()?;
        let bt = delta.b.detach().t()?.to_dtype(x.dtype())?.contiguous()?;
        Ok(Self { a, bt, scale: delta.scale as f32 })
    }

    /// The delta on some rows.
    pub(super) fn piece(&self, rows: Range<usize>) -> Result<Piece> {
        Ok(Piece { rows, rank: self.a.dim(0)?, a: address(&self.a)?, b: address(&self.bt)?, scale: self.scale })
    }
}

fn check(x: &Tensor, delta: &Delta, out: usize) -> Result<()> {
    let dims = Dims::new(x.shape(), delta.a.shape(), delta.b.shape())?;
    if dims.out != out {
        bail!("linear: expected B of {out} rows, found {}", dims.out);
    }
    Ok(())
}

/// What is added to one output, and the matrices that were converted for it, which live as long.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    all: Vec<Piece>,
    converted: Vec<TypedDelta>,
}

impl Pieces {
    /// Adds `delta` on some rows of x, at least one. Matrices that lie in memory as the kernels read them, which is how adapters in service
    /// lie, are only looked at: a batch has a hundred of them at each linear.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub(super) fn push(&mut self, x: &Tensor, rows: Range<usize>, delta: &Delta, out: usize) -> Result<()> {
        check(x, delta, out)?;
        let Delta { a, b, scale } = delta;
        let rank = a.dims()[0];
        if rank == 0 {
            return Ok(());
        }
        let typed = a.dtype() == x.dtype() && b.dtype() == x.dtype();
        self.all.push(if typed && a.is_contiguous() && b.stride() == [1, out] {
            Piece { rows, rank, a: address(a)?, b: address(b)?, scale: *scale as f32 }
        } else {
            let converted = TypedDelta::new(x, delta, out)?;
            let piece = converted.piece(rows)?;
            self.converted.push(converted);
            piece
        });
        Ok(())
    }

    /// The deltas, in the order in which they were added.
    pub(super) fn all(&self) -> &[Piece] {
        &self.all
    }
}

/// A linear's output, to which its bias and its deltas are still to be added.
pub(super) struct Unfinished<'a> {
    /// The address of what is added to, `[T, out]`, and the distance between its rows.
    pub(super) from: (u64, usize),
    /// The same of the result. It may be `from`.
    pub(super) to: (u64, usize),
    /// The number of columns.
    pub(super) out: usize,
    /// f32 `[out]`, contiguous.
    pub(super) bias: Option<&'a Tensor>,
    pub(super) gelu: bool,
    /// In ascending order of their rows, which do not overlap.
    pub(super) pieces: &'a [Piece],
}

impl<'a> Unfinished<'a> {
    fn planned(&self) -> Finish<'a> {
        let every_row = self.bias.is_some() || self.gelu || self.from != self.to;
        Finish { out: self.out, every_row, pieces: self.pieces }
    }

    /// The output as the kernel reads it, and whether every row may be accessed in words of 16 bytes.
    fn target(&self, element: usize) -> Result<(Target, bool)> {
        let bias = self.bias.map_or(Ok(0), address)?;
        let mut addresses = [self.from.0, self.to.0, bias].into_iter().chain(self.pieces.iter().map(|piece| piece.b));
        let aligned = self.out.is_multiple_of(8)
            && [self.from.1, self.to.1].into_iter().all(|stride| (stride * element).is_multiple_of(16))
            && addresses.all(|address| address.is_multiple_of(16));
        let target = Target {
            from: self.from.0,
            to: self.to.0,
            bias,
            from_stride: self.from.1 as u32,
            to_stride: self.to.1 as u32,
            out: self.out as u32,
            gelu: self.gelu.into(),
        };
        Ok((target, aligned))
    }
}

/// `Target` in `expand.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Target {
    from: u64,
    to: u64,
    bias: u64,
    from_stride: u32,
    to_stride: u32,
    out: u32,
    gelu: u32,
}

/// `ShrinkParams` in `shrink.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ShrinkParams {
    x: u64,
    h: u64,
    strips: u64,
    count: u32,
    width: u32,
    stride: u32,
    unused: u32,
    small: [Strip; STRIPS],
}

/// `ExpandParams` in `expand.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ExpandParams {
    h: u64,
    spans: u64,
    count: u32,
    unused: u32,
    targets: [Target; TARGETS],
    small: [Span; SPANS],
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for ShrinkParams {}
// SAFETY: the struct is that of the kernel.
unsafe impl Params for ExpandParams {}

// Kernels may have 4 KiB of parameters on all drivers, and 32 KiB since CUDA 12.1.
const _: () = assert!(size_of::<ShrinkParams>() <= 4096 && size_of::<ExpandParams>() <= 4096);

/// Finishes up to [`TARGETS`] outputs, which were computed from the same x. Returns `h = scale * x A^T` of all deltas, one after the
/// other, if there are any.
///
/// # Safety
/// The addresses must be those of `[T, out]` matrices of x's type, and `to` must not overlap x.
pub(super) unsafe fn finish(x: &Tensor, outputs: &[Unfinished]) -> Result<Option<Tensor>> {
    let element = x.dtype().size_in_bytes();
    let rows = Matrix::of("linear", x)?;
    let finishes: Vec<Finish> = outputs.iter().map(Unfinished::planned).collect();
    let plan = plan(rows.rows, rows.width * element, &finishes);
    if plan.expand.blocks == 0 {
        return Ok(None);
    }
    let (mut targets, mut aligned) = ([Target::default(); TARGETS], true);
    for (target, output) in targets.iter_mut().zip(outputs) {
        let (found, words) = output.target(element)?;
        *target = found;
        aligned &= words;
    }
    let place = Place::of(x.device())?;
    let h = if plan.scratch == 0 {
        None
    } else {
        let h = Output::new(plan.scratch, x.dtype(), x.device())?;
        // SAFETY: `h` has the planned size, and the caller promises the rest.
        unsafe { shrink(&place, x, &rows, &plan.shrink, &h)? };
        Some(h)
    };
    let (small, table) = items::<Span, SPANS>(&plan.expand, x)?;
    let params = ExpandParams {
        h: h.as_ref().map_or(0, Output::address),
        spans: table.as_ref().map_or(Ok(0), Table::address)?,
        count: plan.expand.items.len() as u32,
        unused: 0,
        targets,
        small,
    };
    let grid = Grid { blocks: [plan.expand.blocks, 1, 1], threads: EXPAND_THREADS, shared: 0 };
    let kernel = if aligned { "linear_expand" } else { "linear_expand_unaligned" };
    // SAFETY: the plan's spans lie inside the outputs, whose addresses the caller promises, and inside h.
    unsafe { launch(&place, kernel, x.dtype(), grid, &params)? };
    // SAFETY: the strips cover all of h.
    Ok(h.map(|h| unsafe { h.tensor() }))
}

/// Launches the shrink.
///
/// # Safety
/// `h` must have the size that the plan says.
unsafe fn shrink(place: &Place, x: &Tensor, rows: &Matrix, plan: &Launch<Strip>, h: &Output) -> Result<()> {
    let element = x.dtype().size_in_bytes();
    let (small, table) = items::<Strip, STRIPS>(plan, x)?;
    let a = plan.items.iter().flat_map(|strip| strip.a);
    let sizes = [rows.address, (rows.stride * element) as u64, (rows.width * element) as u64];
    let params = ShrinkParams {
        x: rows.address,
        h: h.address(),
        strips: table.as_ref().map_or(Ok(0), Table::address)?,
        count: plan.items.len() as u32,
        width: rows.width as u32,
        stride: rows.stride as u32,
        unused: 0,
        small,
    };
    let aligned = rows.width.is_multiple_of(8) && sizes.into_iter().chain(a).all(|bytes| bytes.is_multiple_of(16));
    let kernel = match (plan.height, aligned) {
        (16, true) => "linear_shrink_16",
        (16, false) => "linear_shrink_unaligned_16",
        (_, true) => "linear_shrink_32",
        (_, false) => "linear_shrink_unaligned_32",
    };
    let grid = Grid { blocks: [plan.blocks, 1, 1], threads: SHRINK_THREADS, shared: plan.height * SHRINK_SUMS };
    // SAFETY: the plan's strips lie inside x, the A's and h.
    unsafe { launch(place, kernel, x.dtype(), grid, &params) }
}

/// The items as parameters, or as a table if there are too many.
fn items<Item: bytemuck::Pod, const N: usize>(plan: &Launch<Item>, x: &Tensor) -> Result<([Item; N], Option<Table>)> {
    let mut small = [Item::zeroed(); N];
    match small.get_mut(..plan.items.len()) {
        Some(some) => some.copy_from_slice(&plan.items),
        None => return Ok((small, Some(Table::new(&plan.items, x.device())?))),
    }
    Ok((small, None))
}

/// The bias as the kernel reads it: f32.
///
/// # Errors
/// If it does not have `out` elements.
pub(super) fn typed_bias(bias: &Tensor, out: usize) -> Result<Tensor> {
    if bias.dims() != [out] {
        bail!("linear: expected a bias of {out} elements, found {:?}", bias.dims());
    }
    bias.detach().to_dtype(DType::F32)?.contiguous()
}

/// `x`, or a copy of it, as rows of neighbouring elements that do not overlap.
pub(super) fn rowwise(x: &Tensor) -> Result<Tensor> {
    let ((_, width), stride) = (x.dims2()?, x.stride());
    let apart = stride[1] == 1 && stride[0] >= width;
    if apart && x.dim(D::Minus1)? > 0 { Ok(x.clone()) } else { x.contiguous() }
}
