//! `y = x W^T + b` over the mapped weight, or its prepacked form.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::Param;
use super::dot::{FEW, few_rows};
use super::host;
use super::product::{Size, Target, Threads, View, product};
use crate::model::Frozen;

/// A linear layer: `x [T, in]`, `w [out, in]`, `b [out]` give `[T, out]`.
///
/// With frozen parameters on the CPU this is one product straight from the mapping; its backward is the product with `W`
/// and gives `x` its gradient only. Otherwise it is candle's composition.
///
/// # Errors
/// Shapes that do not fit, and candle's own.
pub fn linear(x: &Tensor, w: &Param, b: &Param) -> Result<Tensor> {
    match (w, b) {
        (Param::Frozen(w), Param::Frozen(b)) if w.slice().is_some() => {
            x.contiguous()?.apply_op1(Linear::new(w, Some(b)))
        }
        // A trained bias over a frozen weight (BitFit): the product still runs from the mapping.
        (Param::Frozen(w), Param::Tensor(b)) if w.slice().is_some() => {
            x.contiguous()?.apply_op1(Linear::new(w, None))?.broadcast_add(b)
        }
        _ => reference(x, &w.tensor()?, &b.tensor()?),
    }
}

/// The same by candle's operations: the oracle, and what runs on devices without a kernel.
pub(crate) fn reference(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)?.broadcast_add(b)
}

/// A frozen linear on the CPU, on slices.
pub(crate) struct Linear {
    w: Frozen,
    b: Option<Frozen>,
}

impl Linear {
    pub(crate) fn new(w: &Frozen, b: Option<&Frozen>) -> Self {
        Self { w: w.clone(), b: b.cloned() }
    }

    /// The weight's name.
    pub(crate) fn name(&self) -> &str {
        self.w.name()
    }

    /// The weight's elements with `out` and `in`.
    fn weight(&self) -> Result<(&[f32], usize, usize)> {
        match (self.w.slice(), self.w.shape()) {
            (Some(data), &[out, width]) => Ok((data, out, width)),
            (_, shape) => bail!("linear: weight {} of shape {shape:?} is not a matrix on the CPU", self.w.name()),
        }
    }

    /// `x W^T + b` for `rows` of x, each of `found` elements.
    pub(crate) fn apply(&self, x: &[f32], rows: usize, found: usize) -> Result<Vec<f32>> {
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
        product(target, View::rows(x, width), View::rows(w, width).t(), 1.0, size, Threads::All);
        Ok(y)
    }

    /// `dy W` for `rows` of dy.
    pub(crate) fn backward(&self, dy: &[f32], rows: usize) -> Result<Vec<f32>> {
        let (w, out, width) = self.weight()?;
        let mut dx = vec![0.0; rows * width];
        let target = Target { data: &mut dx, row: width, add: false };
        let size = Size { m: rows, n: width, k: out };
        product(target, View::rows(dy, out), View::rows(w, width), 1.0, size, Threads::All);
        Ok(dx)
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let y = self.apply(host::slice(CustomOp1::name(self), x, layout)?, rows, width)?;
        Ok(host::fresh(y, (rows, self.weight()?.1)))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let rows = dy.dim(0)?;
        let dx = host::read(CustomOp1::name(self), [dy], |[dy]| self.backward(dy, rows))??;
        Ok(Some(Tensor::from_vec(dx, (rows, self.weight()?.2), dy.device())?))
    }
}
