//! `y = x W^T + b` over the mapped weight.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::Param;
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
            x.contiguous()?.apply_op1(Linear { w: w.clone(), b: Some(b.clone()) })
        }
        // A trained bias over a frozen weight (BitFit): the product still runs from the mapping.
        (Param::Frozen(w), Param::Tensor(b)) if w.slice().is_some() => {
            x.contiguous()?.apply_op1(Linear { w: w.clone(), b: None })?.broadcast_add(b)
        }
        _ => reference(x, &w.tensor()?, &b.tensor()?),
    }
}

/// The same by candle's operations: the oracle, and what runs on devices without a kernel.
pub(crate) fn reference(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)?.broadcast_add(b)
}

struct Linear {
    w: Frozen,
    b: Option<Frozen>,
}

impl Linear {
    /// The weight's elements with `out` and `in`.
    fn weight(&self) -> Result<(&[f32], usize, usize)> {
        match (self.w.slice(), self.w.shape()) {
            (Some(data), &[out, width]) => Ok((data, out, width)),
            (_, shape) => bail!("linear: weight {} of shape {shape:?} is not a matrix on the CPU", self.w.name()),
        }
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (w, out, width) = self.weight()?;
        let (rows, found) = layout.shape().dims2()?;
        if found != width {
            bail!("linear {}: expected rows of {width}, found {found}", self.w.name());
        }
        let x = host::slice(self.name(), x, layout)?;
        let bias = self.b.as_ref().and_then(Frozen::slice);
        let mut y = match bias {
            Some(b) => b.repeat(rows),
            None => vec![0.0; rows * out],
        };
        let target = Target { data: &mut y, row: out, add: bias.is_some() };
        product(
            target,
            View::rows(x, width),
            View::rows(w, width).t(),
            1.0,
            Size { m: rows, n: out, k: width },
            Threads::All,
        );
        Ok(host::fresh(y, (rows, out)))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (w, out, width) = self.weight()?;
        let rows = dy.dim(0)?;
        let mut dx = vec![0.0; rows * width];
        host::read(self.name(), [dy], |[dy]| {
            let target = Target { data: &mut dx, row: width, add: false };
            product(
                target,
                View::rows(dy, out),
                View::rows(w, width),
                1.0,
                Size { m: rows, n: width, k: out },
                Threads::All,
            );
        })?;
        Ok(Some(Tensor::from_vec(dx, (rows, width), dy.device())?))
    }
}
