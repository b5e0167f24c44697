//! Feed-forward blocks: `outer(inner(x))`, where the inner linear ends with GELU. On a GPU one kernel finishes the inner linear and
//! computes the first half of the outer linear's deltas, so that the widest tensor of a layer is not read again.

use candle_core::{Result, Tensor, bail};

use super::cuda::{Ready, cuda, tracked};
use super::feed_forward_plan::{Band, pays, plan};
use super::finish::{expand, items, rowwise, scratch, shrink};
use super::operands::product_at;
use super::{Added, Linear};
use crate::cuda::{Grid, Output, Params, Place, Table, address, launch};
use crate::ops::Ops;

/// The number of bands that a launch takes in its parameters. A table in the device's memory holds more.
const BANDS: usize = 70;
/// The number of columns that a warp computes at a time, `BAND_CHUNK` in `feed_forward.cu`.
const CHUNK: usize = 32;
/// The number of threads in a block, and for each row of a tile, the sums of 8 warps for 24 columns.
const THREADS: usize = 256;
const SUMS: usize = 8 * 24 * size_of::<f32>();

/// `FeedForwardParams` in `feed_forward.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FeedForwardParams {
    y: u64,
    bias: u64,
    h: u64,
    to: u64,
    bands: u64,
    count: u32,
    width: u32,
    small: [Band; BANDS],
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for FeedForwardParams {}
// Kernels may have 4 KiB of parameters.
const _: () = assert!(size_of::<FeedForwardParams>() <= 4096);

/// The block as two linears, one after the other.
pub(in crate::ops) fn feed_forward<O: Ops + ?Sized>(
    ops: &O,
    x: &Tensor,
    inner: &Linear,
    outer: &Linear,
) -> Result<Tensor> {
    let z = only(ops.linears(x, std::slice::from_ref(inner))?)?;
    only(ops.linears(&z, std::slice::from_ref(outer))?)
}

fn only(mut results: Vec<Tensor>) -> Result<Tensor> {
    match (results.pop(), results.len()) {
        (Some(only), 0) => Ok(only),
        (_, more) => bail!("one linear gave {more} results besides its own"),
    }
}

pub(in crate::ops) fn feed_forward_cuda(x: &Tensor, inner: &Linear, outer: &Linear) -> Result<Tensor> {
    match planned(x, inner, outer)? {
        Some(y) => Ok(y),
        None => {
            let z = only(cuda(x, std::slice::from_ref(inner))?)?;
            only(cuda(&z, std::slice::from_ref(outer))?)
        }
    }
}

/// The block with the kernel in the middle, or `None` where separate launches are better or needed.
fn planned(x: &Tensor, inner: &Linear, outer: &Linear) -> Result<Option<Tensor>> {
    let trained = |linear: &Linear| matches!(linear.added, Added::Trained(_)) || tracked(linear);
    let (Added::Segments(segments), false) = (&outer.added, x.track_op() || trained(inner) || trained(outer)) else {
        return Ok(None);
    };
    let ranks = segments.iter().map(|segment| segment.delta.rank());
    if !inner.gelu || !pays(x.dim(0)?, ranks) {
        return Ok(None);
    }
    let x = &rowwise(x)?;
    let first = Ready::new(x, inner)?;
    let (tokens, width) = (x.dim(0)?, first.out);
    // SAFETY: nothing reads the tensor before the product below has been queued, which writes every element.
    let z = unsafe { Output::new((tokens, width), x.dtype(), x.device())?.tensor() };
    let second = Ready::new(&z, outer)?;
    let (deltas, outer_deltas) = (first.pieces(x, inner)?, second.pieces(&z, outer)?);
    let start = address(&z)?;
    let bias = first.bias.as_ref().map_or(Ok(0), address)?;
    let read = deltas.all().iter().map(|piece| piece.b).chain(outer_deltas.all().iter().map(|piece| piece.a));
    if width % CHUNK != 0 || !read.chain([start, bias]).all(|address| address.is_multiple_of(16)) {
        return Ok(None);
    }

    let y = Output::new((tokens, second.out), x.dtype(), x.device())?;
    let output = second.unfinished((y.address(), second.out), &outer_deltas);
    let row_bytes = [x.dim(1)?, width].map(|width| width * x.dtype().size_in_bytes());
    let middle = first.unfinished((start, width), &deltas);
    let plan = plan(tokens, row_bytes, middle.planned(), output.planned());
    let [h, to] = plan.scratch.map(|size| scratch(size, x));
    let (h, to) = (h?, to?);
    let (small, table) = items::<Band, BANDS>(&plan.bands, x)?;
    let params = FeedForwardParams {
        y: start,
        bias,
        h: h.as_ref().map_or(0, Output::address),
        to: to.as_ref().map_or(0, Output::address),
        bands: table.as_ref().map_or(Ok(0), Table::address)?,
        count: plan.bands.items.len() as u32,
        width: width as u32,
        small,
    };
    let kernel = if plan.bands.height == 16 { "linear_feed_forward_16" } else { "linear_feed_forward_32" };
    let grid = Grid { blocks: [plan.bands.blocks, 1, 1], threads: THREADS, shared: plan.bands.height * SUMS };
    // SAFETY: z and y are matrices of these shapes, both scratches have the planned sizes, and the bands lie inside all of them. Bands and
    // the rest's strips write all of the outer h, and everything is queued in the order in which it is read.
    unsafe {
        product_at(x, &first.weight, (start, width))?;
        if let Some(h) = &h {
            shrink(x, &plan.shrink, h)?;
        }
        launch(&Place::of(x.device())?, kernel, x.dtype(), grid, &params)?;
        if let Some(to) = &to {
            shrink(&z, &plan.rest, to)?;
        }
        product_at(&z, &second.weight, (y.address(), second.out))?;
        expand(x, &[output], &plan.expand, to.as_ref())?;
        Ok(Some(y.tensor()))
    }
}
