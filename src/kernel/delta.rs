//! The low-rank deltas of a mixed batch, each segment with its own rank.

use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::dot::few_rows;
use super::host;
use super::product::{Size, Target, Threads, View, product};
use crate::adapter::Delta;

/// Up to this rank, dot products beat a general product, which packs its operands.
const NARROW: usize = 32;

/// `scale * (x A^T) B^T` for `x [T, in]`, `a [r, in]`, `b [out, r]`, by candle's operations: `[T, out]`.
pub(crate) fn reference(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale
}

/// The sizes of a delta, and its two products.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) rank: usize,
    pub(crate) out: usize,
}

impl Dims {
    pub(crate) fn new(x: &Shape, a: &Shape, b: &Shape) -> Result<Self> {
        match (x.dims(), a.dims(), b.dims()) {
            (&[rows, width], &[rank, also_width], &[out, also_rank]) if width == also_width && rank == also_rank => {
                Ok(Self { rows, width, rank, out })
            }
            (x, a, b) => bail!("delta: expected x [T, in], A [r, in], B [out, r], found {x:?}, {a:?}, {b:?}"),
        }
    }

    /// `x A^T`, `[rows, rank]`.
    pub(crate) fn shrink(self, x: &[f32], a: &[f32], threads: Threads) -> Vec<f32> {
        if self.rank <= NARROW {
            return few_rows(&x[..self.rows * self.width], &a[..self.rank * self.width], None, self.width, threads);
        }
        let mut h = vec![0.0; self.rows * self.rank];
        let target = Target { data: &mut h, row: self.rank, add: false };
        let size = Size { m: self.rows, n: self.rank, k: self.width };
        product(target, View::rows(x, self.width), View::rows(a, self.width).t(), 1.0, size, threads);
        h
    }

    /// `y += scale * h B^T`, `y [rows, out]`.
    pub(crate) fn expand(self, y: &mut [f32], h: &[f32], b: &[f32], scale: f32, threads: Threads) {
        let target = Target { data: y, row: self.out, add: true };
        let size = Size { m: self.rows, n: self.out, k: self.rank };
        product(target, View::rows(h, self.rank), View::rows(b, self.rank).t(), scale, size, threads);
    }
}

/// Rows of a batch that one adapter changes at one site.
#[derive(Debug, Clone)]
pub struct Segment<'a> {
    /// Which rows of the batch.
    pub rows: Range<usize>,
    /// What they get added.
    pub delta: &'a Delta,
}

/// `y[s] += scale * (x[s] A^T) B^T` for each segment s: `x [T, in]`, `y [T, out]`, each segment with its own rank.
///
/// Rows in no segment are untouched, and with no segment at all `y` is returned as it came: a site of rank 0 costs nothing and
/// is bit-identical to the base.
///
/// # Errors
/// Segments outside the batch, shapes that do not fit, and candle's own.
pub fn ragged_delta(x: &Tensor, y: Tensor, segments: &[Segment]) -> Result<Tensor> {
    if segments.is_empty() {
        return Ok(y);
    }
    if !y.device().is_cpu() {
        return ragged_reference(x, &y, segments);
    }
    y.inplace_op2(&x.contiguous()?, &RaggedDelta { segments })?;
    Ok(y)
}

/// The same by candle's operations, a segment at a time.
pub(crate) fn ragged_reference(x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let (tokens, _) = y.dims2()?;
    let mut parts = Vec::with_capacity(2 * segments.len() + 1);
    let mut next = 0;
    for Segment { rows, delta } in segments {
        if rows.start > next {
            parts.push(y.narrow(0, next, rows.start - next)?);
        }
        let rows_x = x.narrow(0, rows.start, rows.len())?;
        let added = reference(&rows_x, &delta.a, &delta.b, delta.scale)?;
        parts.push((y.narrow(0, rows.start, rows.len())? + added)?);
        next = rows.end;
    }
    if next < tokens {
        parts.push(y.narrow(0, next, tokens - next)?);
    }
    Tensor::cat(&parts, 0)
}

struct RaggedDelta<'a> {
    segments: &'a [Segment<'a>],
}

impl InplaceOp2 for RaggedDelta<'_> {
    fn name(&self) -> &'static str {
        "ragged-delta"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, yl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<()> {
        let (width, out) = (xl.shape().dims2()?.1, yl.shape().dims2()?.1);
        let x = host::slice(self.name(), x, xl)?;
        let Some((start, end)) = yl.contiguous_offsets() else { bail!("ragged-delta: expected contiguous rows") };
        let CpuStorage::F32(y) = y else { bail!("ragged-delta: expected f32") };
        let y = &mut y[start..end];
        for Segment { rows, delta } in self.segments {
            let (Some(x), Some(y)) =
                (x.get(rows.start * width..rows.end * width), y.get_mut(rows.start * out..rows.end * out))
            else {
                bail!("ragged-delta: rows {rows:?} lie outside {:?}", yl.shape())
            };
            let dims = Dims::new(&(rows.len(), width).into(), delta.a.shape(), delta.b.shape())?;
            if dims.out != out {
                bail!("ragged-delta: expected B of {out} rows, found {}", dims.out);
            }
            host::read(self.name(), [&delta.a, &delta.b], |[a, b]| {
                let h = dims.shrink(x, a, Threads::All);
                dims.expand(y, &h, b, delta.scale as f32, Threads::All);
            })?;
        }
        Ok(())
    }
}
