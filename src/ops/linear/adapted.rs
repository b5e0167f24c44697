//! `y = x W^T + b + scale * (x A^T) B^T` for training. A frozen linear and its low-rank delta are one operation: they share an
//! output buffer, and `x` gets one gradient instead of two that would have to be added.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::frozen::FrozenLinear;
use super::ragged::Dims;
use crate::cpu::gemm::{Size, Target, Threads, View, gemm};
use crate::cpu::host;
use crate::params::{Delta, Frozen};

/// The three products, with `W` read from the mapping. Differentiable in `x`, `A` and `B`.
pub(super) fn adapted(x: &Tensor, w: &Frozen, b: &Frozen, delta: &Delta) -> Result<Tensor> {
    let op = AdaptedLinear { linear: FrozenLinear::new(w, Some(b)), scale: delta.scale as f32 };
    x.contiguous()?.apply_op3(&delta.a.contiguous()?, &delta.b.contiguous()?, op)
}

struct AdaptedLinear {
    linear: FrozenLinear,
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
            bail!(
                "{name} {}: expected B of {} rows, found {}",
                self.linear.weight_name(),
                y.len() / dims.rows,
                dims.out
            );
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
            gemm(target, View::rows(dy, out).t(), View::rows(&h, rank), 1.0, size, Threads::All);
            let mut dh = h;
            let target = Target { data: &mut dh, row: rank, add: false };
            let size = Size { m: rows, n: rank, k: out };
            gemm(target, View::rows(dy, out), View::rows(b, rank), self.scale, size, Threads::All);
            let target = Target { data: &mut da, row: width, add: false };
            let size = Size { m: rank, n: width, k: rows };
            gemm(target, View::rows(&dh, rank).t(), View::rows(xs, width), 1.0, size, Threads::All);
            if !x.track_op() {
                return Ok(None);
            }
            let mut dx = self.linear.backward(dy, rows)?;
            let target = Target { data: &mut dx, row: width, add: true };
            let size = Size { m: rows, n: width, k: rank };
            gemm(target, View::rows(&dh, rank), View::rows(a, width), 1.0, size, Threads::All);
            Ok(Some(dx))
        })??;
        let device = x.device();
        let dx = dx.map(|dx| Tensor::from_vec(dx, (rows, width), device)).transpose()?;
        let da = Tensor::from_vec(da, (rank, width), device)?;
        Ok((dx, Some(da), Some(Tensor::from_vec(db, (out, rank), device)?)))
    }
}
