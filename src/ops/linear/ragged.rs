//! The low-rank deltas of a mixed batch, each segment with its own rank.
//!
//! First `h = scale * x A^T` is computed once for all linears that read the same `x`: the A's that apply to the same rows are
//! stacked into one matrix. Then `y += h B^T` runs for each linear. Both products run over the true ranks only, and a row's result
//! does not depend, to the bit, on the rows beside it.

use std::ops::Range;

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::Segment;
use crate::cpu::expand::{Thin, expand};
use crate::cpu::gemv::dots;
use crate::cpu::host;
use crate::cpu::transpose::{Submatrix, transpose};
use crate::params::Delta;

const NAME: &str = "ragged-delta";

/// The largest number of rows in one step: their part of `x` stays in a core's cache while the rows of the A's are read.
const ROWS: usize = 256;
/// The number of multiplications that outweighs waking other threads.
const WORTH_THREADS: usize = 1 << 19;

/// The sizes of a delta, and its two products on slices.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) rank: usize,
    pub(super) out: usize,
}

impl Dims {
    pub(super) fn new(x: &Shape, a: &Shape, b: &Shape) -> Result<Self> {
        match (x.dims(), a.dims(), b.dims()) {
            (&[rows, width], &[rank, also_width], &[out, also_rank]) if width == also_width && rank == also_rank => {
                Ok(Self { rows, width, rank, out })
            }
            (x, a, b) => bail!("delta: expected x [T, in], A [r, in], B [out, r], found {x:?}, {a:?}, {b:?}"),
        }
    }

    /// `scale * x A^T`, `[rows, rank]`.
    pub(super) fn shrink(self, x: &[f32], a: &[f32], scale: f32) -> Vec<f32> {
        let rows: Vec<&[f32]> = a.chunks_exact(self.width.max(1)).collect();
        let stack = Stack { rows, scales: vec![scale; self.rank], width: self.width };
        let mut h = vec![0.0; self.rows * self.rank];
        let steps = Steps::new(self.rows, self.rows * self.width * self.rank);
        let parts = h.chunks_mut((steps.rows * self.rank).max(1)).zip(x.chunks((steps.rows * self.width).max(1)));
        steps.run(parts.collect(), |(h, x)| stack.shrink(h, x, 0..self.rank));
        h
    }

    /// `y += h B` for `y [rows, out]` and `b [rank, out]`.
    pub(super) fn expand(self, y: &mut [f32], h: &[f32], b: &[f32]) {
        let steps = Steps::new(self.rows, self.rows * self.out * self.rank);
        let parts = y.chunks_mut((steps.rows * self.out).max(1)).zip(h.chunks((steps.rows * self.rank).max(1)));
        let thin = |data| Thin { data, stride: self.rank, rank: self.rank };
        steps.run(parts.collect(), |(y, h)| expand(y, thin(h), b, &[]));
    }

    /// `h^T m`, `[rank, out]`, for `h [rows, rank]` and `m [rows, out]`.
    pub(super) fn outer(self, h: &[f32], m: &[f32]) -> Vec<f32> {
        let mut product = vec![0.0; self.rank * self.out];
        let h = Thin { data: &transposed(h, self.rank), stride: self.rows, rank: self.rows };
        expand(&mut product, h, m, &[]);
        product
    }
}

/// The transpose of a matrix with rows of `width` elements.
pub(super) fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    let len = matrix.len() / width.max(1);
    let mut columns = vec![0.0; matrix.len()];
    transpose(&mut columns, len, matrix, Submatrix { len, size: width, row: width });
    columns
}

/// The number of rows in a step, and whether steps run on several threads.
struct Steps {
    rows: usize,
    threads: bool,
}

impl Steps {
    /// For `rows` rows whose products take `work` multiplications in total.
    fn new(rows: usize, work: usize) -> Self {
        let threads = rayon::current_num_threads();
        if threads > 1 && work >= WORTH_THREADS {
            Self { rows: rows.div_ceil(threads).next_multiple_of(8).min(ROWS), threads: true }
        } else {
            Self { rows: ROWS, threads: false }
        }
    }

    fn run<P: Send>(&self, parts: Vec<P>, step: impl Fn(P) + Send + Sync) {
        if self.threads { parts.into_par_iter().for_each(step) } else { parts.into_iter().for_each(step) }
    }
}

/// The rows of several A's, stacked, each with its scale.
struct Stack<'a> {
    rows: Vec<&'a [f32]>,
    scales: Vec<f32>,
    width: usize,
}

impl Stack<'_> {
    /// Computes `h = scale * x A^T` for the rows `which` of the stack. Meanwhile it prefetches the same number of rows after them.
    fn shrink(&self, h: &mut [f32], x: &[f32], which: Range<usize>) {
        let (rows, rest) = self.rows[which.start..].split_at(which.len());
        let next = &rest[..rest.len().min(rows.len())];
        dots(h, x, |j| rows[j], None, (rows.len(), self.width), next);
        for h in h.chunks_exact_mut(rows.len().max(1)) {
            for (h, scale) in h.iter_mut().zip(&self.scales[which.clone()]) {
                *h *= scale;
            }
        }
    }
}

/// `h = scale * x A^T` for every segment.
pub(super) struct Shrunk<'a> {
    h: Vec<f32>,
    /// The segments of each linear, in the order of their rows.
    parts: Vec<Vec<ShrunkSegment<'a>>>,
}

/// A segment, the index of its first element in `h`, and the distance between its rows in `h`.
struct ShrunkSegment<'a> {
    rows: Range<usize>,
    delta: &'a Delta,
    start: usize,
    stride: usize,
}

impl<'a> Shrunk<'a> {
    pub(super) fn new(x: &Tensor, segments: &[&[Segment<'a>]]) -> Result<Self> {
        let mut all: Vec<(usize, &Segment<'a>)> =
            Vec::with_capacity(segments.iter().map(|segments| segments.len()).sum());
        for (linear, segments) in segments.iter().enumerate() {
            let segments = segments.iter().filter(|segment| !segment.rows.is_empty());
            all.extend(segments.map(|segment| (linear, segment)));
        }
        let mut parts: Vec<Vec<ShrunkSegment>> =
            segments.iter().map(|segments| Vec::with_capacity(segments.len())).collect();
        if all.is_empty() {
            return Ok(Self { h: Vec::new(), parts });
        }
        all.sort_by_key(|(linear, Segment { rows, .. })| (rows.start, rows.end, *linear));
        let (mut groups, mut size, mut above) = (Vec::with_capacity(all.len()), 0, 0);
        for group in all.chunk_by(|(_, a), (_, b)| a.rows == b.rows) {
            let (rows, ranks) = (group[0].1.rows.clone(), group.iter().map(|(_, segment)| segment.delta.rank()));
            let (stride, mut start) = (ranks.sum(), size);
            for &(linear, Segment { delta, .. }) in group {
                parts[linear].push(ShrunkSegment { rows: rows.clone(), delta, start, stride });
                start += delta.rank();
            }
            groups.push((rows.clone(), above..above + stride));
            size += rows.len() * stride;
            above += stride;
        }
        let deltas: Vec<&Delta> = all.iter().map(|(_, segment)| segment.delta).collect();
        Ok(Self { h: shrink(x, &deltas, &groups, size)?, parts })
    }
}

/// Computes `scale * x A^T` for `groups`, each a range of rows of x and a range of rows of the stacked A's of `deltas`. The result
/// has `size` elements, group by group.
fn shrink(x: &Tensor, deltas: &[&Delta], groups: &[(Range<usize>, Range<usize>)], size: usize) -> Result<Vec<f32>> {
    let (tokens, width) = x.dims2()?;
    let guards: Vec<_> = deltas.iter().map(|delta| delta.a.storage_and_layout()).collect();
    let rank = groups.last().map_or(0, |(_, which)| which.end);
    let mut stack = Stack { rows: Vec::with_capacity(rank), scales: Vec::with_capacity(rank), width };
    for ((storage, layout), delta) in guards.iter().zip(deltas) {
        let dims = Dims::new(x.shape(), layout.shape(), delta.b.shape())?;
        stack.rows.extend(host::of(NAME, storage, layout)?.chunks_exact(width.max(1)));
        stack.scales.extend(std::iter::repeat_n(delta.scale as f32, dims.rank));
    }
    let mut h = vec![0.0; size];
    host::read(NAME, [x], |[x]| {
        let steps = Steps::new(tokens, size * width);
        let (mut parts, mut rest) = (Vec::with_capacity(groups.len()), &mut h[..]);
        for (rows, which) in groups {
            let Some(x) = x.get(rows.start * width..rows.end * width) else {
                bail!("{NAME}: rows {rows:?} lie outside {tokens} tokens")
            };
            let (h, after) = std::mem::take(&mut rest).split_at_mut(rows.len() * which.len());
            rest = after;
            // Nearly always true. Small segments are cheap, so dividing them would cost more than it gains.
            if rows.len() <= steps.rows {
                parts.push((h, x, which.clone()));
                continue;
            }
            let steps = h.chunks_mut((steps.rows * which.len()).max(1)).zip(x.chunks((steps.rows * width).max(1)));
            parts.extend(steps.map(|(h, x)| (h, x, which.clone())));
        }
        steps.run(parts, |(h, x, which)| stack.shrink(h, x, which));
        Ok(())
    })??;
    Ok(h)
}

impl Shrunk<'_> {
    /// Computes `y += h B^T` for the segments of one linear: `y [tokens, out]`.
    pub(super) fn expand(&self, linear: usize, y: &mut [f32], tokens: usize) -> Result<()> {
        let parts = &self.parts[linear];
        if parts.is_empty() {
            return Ok(());
        }
        let out = y.len() / tokens.max(1);
        let copies = parts.iter().map(|part| by_rank(&part.delta.b)).collect::<Result<Vec<_>>>()?;
        let stored = parts.iter().zip(&copies).map(|(part, copy)| copy.as_ref().unwrap_or(&part.delta.b));
        let guards: Vec<_> = stored.map(Tensor::storage_and_layout).collect();
        let b = guards.iter().map(|(storage, layout)| host::dense(NAME, storage, layout));
        let b = b.collect::<Result<Vec<_>>>()?;
        let work: usize = parts.iter().map(|part| part.rows.len() * part.delta.rank() * out).sum();
        let steps = Steps::new(tokens, work);
        let (mut tasks, mut rest, mut next) = (Vec::with_capacity(parts.len()), y, 0);
        for (i, ShrunkSegment { rows, delta, start, stride }) in parts.iter().enumerate() {
            let (rank, found) = (delta.rank(), b[i].len());
            if found != rank * out {
                bail!("{NAME}: expected B of {out} rows and rank {rank}, found {found} elements");
            }
            if rows.start < next || rows.end > tokens {
                bail!("{NAME}: rows {rows:?} overlap others or lie outside {tokens} tokens");
            }
            let (_, after) = std::mem::take(&mut rest).split_at_mut((rows.start - next) * out);
            let (y, after) = after.split_at_mut(rows.len() * out);
            (rest, next) = (after, rows.end);
            let following = b.get(i + 1).copied().unwrap_or(&[]);
            let thin = |first: usize| Thin { data: &self.h[start + first * stride..], stride: *stride, rank };
            if rows.len() <= steps.rows {
                tasks.push((y, thin(0), b[i], following));
                continue;
            }
            for (step, y) in y.chunks_mut((steps.rows * out).max(1)).enumerate() {
                tasks.push((y, thin(step * steps.rows), b[i], following));
            }
        }
        steps.run(tasks, |(y, h, b, following)| expand(y, h, b, following));
        Ok(())
    }
}

/// A copy of `b [out, r]` stored rank by rank, or `None` if `b` is already stored that way, as in adapters read from files.
fn by_rank(b: &Tensor) -> Result<Option<Tensor>> {
    if b.is_fortran_contiguous() { Ok(None) } else { b.t()?.contiguous().map(Some) }
}
