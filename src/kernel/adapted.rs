//! `y = x W^T + b + scale * (x A^T) B^T` in training: a frozen linear and its low-rank delta as one operation, so that the two
//! share an output buffer, and `x` gets one gradient instead of two to add up.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::delta::{self, Dims};
use super::linear::{self, Linear};
use super::product::{Size, Target, Threads, View, product};
use super::{Param, host};
use crate::adapter::Delta;

/// A linear with its delta: `x [T, in]`, `w [out, in]`, `b [out]` and [`Delta`]'s `A [r, in]`, `B [out, r]` give `[T, out]`,
/// differentiable in `x`, `A` and `B`.
///
/// With frozen `w` and `b` on the CPU this is three products straight from the mapping; otherwise it is the composition.
///
/// # Errors
/// Shapes that do not fit, and candle's own.
pub fn adapted_linear(x: &Tensor, w: &Param, b: &Param, delta: &Delta) -> Result<Tensor> {
    match (w, b) {
        (Param::Frozen(w), Param::Frozen(b)) if w.slice().is_some() => {
            let op = AdaptedLinear { linear: Linear::new(w, Some(b)), scale: delta.scale as f32 };
            x.contiguous()?.apply_op3(&delta.a.contiguous()?, &delta.b.contiguous()?, op)
        }
        _ => reference(x, w, b, delta),
    }
}

/// The same by candle's operations: the oracle, and what runs on devices without a kernel.
pub(crate) fn reference(x: &Tensor, w: &Param, b: &Param, delta: &Delta) -> Result<Tensor> {
    linear::reference(x, &w.tensor()?, &b.tensor()?)? + delta::reference(x, &delta.a, &delta.b, delta.scale)?
}

struct AdaptedLinear {
    linear: Linear,
    scale: f32,
}

impl CustomOp3 for AdaptedLinear {
    fn name(&self) -> &'static str {
        "adapted-linear"
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
        let mut y = self.linear.apply(x, dims.rows, dims.width)?;
        if y.len() != dims.rows * dims.out {
            bail!("{name} {}: expected B of {} rows, found {}", self.linear.name(), y.len() / dims.rows, dims.out);
        }
        let h = dims.shrink(x, a, self.scale);
        dims.expand(&mut y, &h, b);
        Ok(host::fresh(y, (dims.rows, dims.out)))
    }

    /// With `H = scale * x A^T` and `dH = scale * dY B`: `dx = dY W + dH A`, `dA = dH^T x`, `dB = dY^T H`.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dims @ Dims { rows, width, rank, out } = Dims::new(x.shape(), a.shape(), b.shape())?;
        let (mut da, mut db) = (vec![0.0; rank * width], vec![0.0; out * rank]);
        let dx = host::read(self.name(), [x, a, b, dy], |[xs, a, b, dy]| -> Result<Option<Vec<f32>>> {
            let h = dims.shrink(xs, a, self.scale);
            let target = Target { data: &mut db, row: rank, add: false };
            let size = Size { m: out, n: rank, k: rows };
            product(target, View::rows(dy, out).t(), View::rows(&h, rank), 1.0, size, Threads::All);
            let mut dh = h;
            let target = Target { data: &mut dh, row: rank, add: false };
            let size = Size { m: rows, n: rank, k: out };
            product(target, View::rows(dy, out), View::rows(b, rank), self.scale, size, Threads::All);
            let target = Target { data: &mut da, row: width, add: false };
            let size = Size { m: rank, n: width, k: rows };
            product(target, View::rows(&dh, rank).t(), View::rows(xs, width), 1.0, size, Threads::All);
            if !x.track_op() {
                return Ok(None);
            }
            let mut dx = self.linear.backward(dy, rows)?;
            let target = Target { data: &mut dx, row: width, add: true };
            let size = Size { m: rows, n: width, k: rank };
            product(target, View::rows(&dh, rank), View::rows(a, width), 1.0, size, Threads::All);
            Ok(Some(dx))
        })??;
        let device = x.device();
        let dx = dx.map(|dx| Tensor::from_vec(dx, (rows, width), device)).transpose()?;
        let da = Tensor::from_vec(da, (rank, width), device)?;
        Ok((dx, Some(da), Some(Tensor::from_vec(db, (out, rank), device)?)))
    }
}
