//! The low-rank delta of an adapted linear: differentiable for training, ragged over a mixed batch for serving.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::host;
use super::product::{Size, Target, Threads, View, product};
use crate::adapter::Delta;

/// `scale * (x A^T) B^T` for `x [T, in]`, `a [r, in]`, `b [out, r]`: `[T, out]`, differentiable in all three.
///
/// # Errors
/// Shapes that do not fit, and candle's own.
pub fn lora_delta(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, LoraDelta { scale: scale as f32 })
    } else {
        reference(x, a, b, scale)
    }
}

/// The same by candle's operations: the oracle, and what runs on devices without a kernel.
pub(crate) fn reference(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale
}

/// The sizes of a delta.
#[derive(Clone, Copy)]
struct Dims {
    rows: usize,
    width: usize,
    rank: usize,
    out: usize,
}

impl Dims {
    fn new(x: &Shape, a: &Shape, b: &Shape) -> Result<Self> {
        match (x.dims(), a.dims(), b.dims()) {
            (&[rows, width], &[rank, also_width], &[out, also_rank]) if width == also_width && rank == also_rank => {
                Ok(Self { rows, width, rank, out })
            }
            (x, a, b) => bail!("delta: expected x [T, in], A [r, in], B [out, r], found {x:?}, {a:?}, {b:?}"),
        }
    }

    /// `x A^T`, `[rows, rank]`.
    fn shrink(self, x: &[f32], a: &[f32], threads: Threads) -> Vec<f32> {
        let mut h = vec![0.0; self.rows * self.rank];
        let target = Target { data: &mut h, row: self.rank, add: false };
        let size = Size { m: self.rows, n: self.rank, k: self.width };
        product(target, View::rows(x, self.width), View::rows(a, self.width).t(), 1.0, size, threads);
        h
    }

    /// `y += scale * h B^T`, `y [rows, out]`.
    fn expand(self, y: &mut [f32], h: &[f32], b: &[f32], scale: f32, threads: Threads) {
        let target = Target { data: y, row: self.out, add: true };
        let size = Size { m: self.rows, n: self.out, k: self.rank };
        product(target, View::rows(h, self.rank), View::rows(b, self.rank).t(), scale, size, threads);
    }
}

struct LoraDelta {
    scale: f32,
}

impl CustomOp3 for LoraDelta {
    fn name(&self) -> &'static str {
        "lora-delta"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = Dims::new(xl.shape(), al.shape(), bl.shape())?;
        let name = self.name();
        let (x, a, b) = (host::slice(name, x, xl)?, host::slice(name, a, al)?, host::slice(name, b, bl)?);
        let h = dims.shrink(x, a, Threads::All);
        let mut y = vec![0.0; dims.rows * dims.out];
        dims.expand(&mut y, &h, b, self.scale, Threads::All);
        Ok(host::fresh(y, (dims.rows, dims.out)))
    }

    /// With `H = x A^T` and `dH = scale * dY B`: `dx = dH A`, `dA = dH^T x`, `dB = scale * dY^T H`.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dims @ Dims { rows, width, rank, out } = Dims::new(x.shape(), a.shape(), b.shape())?;
        let (mut dx, mut da, mut db) = (None, vec![0.0; rank * width], vec![0.0; out * rank]);
        host::read(self.name(), [x, a, b, dy], |[xs, a, b, dy]| {
            let h = dims.shrink(xs, a, Threads::All);
            let target = Target { data: &mut db, row: rank, add: false };
            let size = Size { m: out, n: rank, k: rows };
            product(target, View::rows(dy, out).t(), View::rows(&h, rank), self.scale, size, Threads::All);
            let mut dh = h;
            let target = Target { data: &mut dh, row: rank, add: false };
            let size = Size { m: rows, n: rank, k: out };
            product(target, View::rows(dy, out), View::rows(b, rank), self.scale, size, Threads::All);
            let target = Target { data: &mut da, row: width, add: false };
            let size = Size { m: rank, n: width, k: rows };
            product(target, View::rows(&dh, rank).t(), View::rows(xs, width), 1.0, size, Threads::All);
            if x.track_op() {
                let mut grad = vec![0.0; rows * width];
                let target = Target { data: &mut grad, row: width, add: false };
                let size = Size { m: rows, n: width, k: rank };
                product(target, View::rows(&dh, rank), View::rows(a, width), 1.0, size, Threads::All);
                dx = Some(grad);
            }
        })?;
        let device = x.device();
        let dx = dx.map(|dx| Tensor::from_vec(dx, (rows, width), device)).transpose()?;
        let da = Tensor::from_vec(da, (rank, width), device)?;
        Ok((dx, Some(da), Some(Tensor::from_vec(db, (out, rank), device)?)))
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
