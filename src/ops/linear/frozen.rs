//! The product with a frozen weight, on slices. The weight is read from the mapping or from its packed form.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::cpu::gemm::{Size, Target, Threads, View, gemm};
use crate::cpu::gemv::{FEW, few_rows};
use crate::cpu::host;
use crate::cpu::packed::times_stored;
use crate::params::Frozen;

/// A frozen linear on slices.
pub(super) struct FrozenLinear {
    w: Frozen,
    b: Option<Frozen>,
}

impl FrozenLinear {
    pub(super) fn new(w: &Frozen, b: Option<&Frozen>) -> Self {
        Self { w: w.clone(), b: b.cloned() }
    }

    /// The weight's name.
    pub(super) fn weight_name(&self) -> &str {
        self.w.name()
    }

    /// The weight's elements, `out` and `in`.
    pub(super) fn weight(&self) -> Result<(&[f32], usize, usize)> {
        match (self.w.slice(), self.w.shape()) {
            (Some(data), &[out, width]) => Ok((data, out, width)),
            (_, shape) => bail!("linear: weight {} of shape {shape:?} is not a matrix on the CPU", self.w.name()),
        }
    }

    /// `x W^T + b` for `rows` rows of x, each of `found` elements.
    pub(super) fn apply(&self, x: &[f32], rows: usize, found: usize) -> Result<Vec<f32>> {
        let (w, out, width) = self.weight()?;
        if found != width {
            bail!("linear {}: expected rows of {width}, found {found}", self.w.name());
        }
        let bias = self.b.as_ref().and_then(Frozen::slice);
        if let Some(prepacked) = self.w.prepacked() {
            return Ok(prepacked.apply(&x[..rows * width], bias));
        }
        if rows <= FEW {
            return Ok(few_rows(&x[..rows * width], w, bias, width, Threads::All));
        }
        let mut y = match bias {
            Some(b) => b.repeat(rows),
            None => vec![0.0; rows * out],
        };
        let target = Target { data: &mut y, row: out, add: bias.is_some() };
        let size = Size { m: rows, n: out, k: width };
        gemm(target, View::rows(x, width), View::rows(w, width).t(), 1.0, size, Threads::All);
        Ok(y)
    }

    /// `dy W` for rows of dy.
    pub(super) fn backward(&self, dy: &[f32]) -> Result<Vec<f32>> {
        let (w, out, _) = self.weight()?;
        Ok(times_stored(dy, w, out))
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let y = self.apply(host::slice(self.name(), x, layout)?, rows, width)?;
        Ok(host::fresh(y, (rows, self.weight()?.1)))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let rows = dy.dim(0)?;
        let dx = host::read(self.name(), [dy], |[dy]| self.backward(dy))??;
        Ok(Some(Tensor::from_vec(dx, (rows, self.weight()?.2), dy.device())?))
    }
}
