//! `y = x W^T + b + scale * (x A^T) B^T` for training. A frozen linear and its low-rank delta are one operation: they share an
//! output buffer, and `x` gets one gradient instead of two that would have to be added.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::frozen::FrozenLinear;
use super::ragged::{Dims, transposed};
use crate::cpu::host;
use crate::params::{Delta, Frozen};

/// The three products, with `W` read from the mapping. Differentiable in `x`, `A` and `B`.
pub(super) fn adapted(x: &Tensor, w: &Frozen, b: &Frozen, delta: &Delta) -> Result<Tensor> {
    let op = AdaptedLinear { linear: FrozenLinear::new(w, Some(b)), scale: delta.scale as f32, h: OnceLock::new() };
    x.contiguous()?.apply_op3(&delta.a.contiguous()?, &delta.b.contiguous()?, op)
}

struct AdaptedLinear {
    linear: FrozenLinear,
    scale: f32,
    /// `scale * x A^T`, `[rows, rank]`, from the forward pass.
    h: OnceLock<Vec<f32>>,
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
        let h = self.h.get_or_init(|| dims.shrink(x, a, self.scale));
        dims.expand(&mut y, h, &transposed(b, dims.rank));
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
        // The dimensions of the products that end in rows as wide as x.
        let back = Dims { width: out, out: width, ..dims };
        let tracked = x.track_op();
        let (da, db, dx) = host::read(self.name(), [x, a, b, dy], |[x, a, b, dy]| -> Result<_> {
            let h = self.h.get_or_init(|| dims.shrink(x, a, self.scale));
            let of_b = || transposed(&dims.outer(h, dy), out);
            let of_a_and_x = || -> Result<_> {
                let dh = back.shrink(dy, &transposed(b, rank), self.scale);
                let da = back.outer(&dh, x);
                if !tracked {
                    return Ok((da, None));
                }
                let mut dx = self.linear.backward(dy)?;
                back.expand(&mut dx, &dh, a);
                Ok((da, Some(dx)))
            };
            let (db, rest) = rayon::join(of_b, of_a_and_x);
            let (da, dx) = rest?;
            Ok((da, db, dx))
        })??;
        let device = x.device();
        let dx = dx.map(|dx| Tensor::from_vec(dx, (rows, width), device)).transpose()?;
        let da = Tensor::from_vec(da, (rank, width), device)?;
        Ok((dx, Some(da), Some(Tensor::from_vec(db, (out, rank), device)?)))
    }
}
