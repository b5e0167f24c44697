//! On slices of the mapping, or on the weight's packed form.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::adapted::adapted;
use super::ragged::Shrunk;
use super::{Added, Linear, Segment, add_segments_reference, reference};
use crate::cpu::gemm::{Size, Target, Threads, View, gemm};
use crate::cpu::gemv::{FEW, few_rows};
use crate::cpu::host;
use crate::ops::gelu;
use crate::params::{Frozen, Param};

/// The products with the A's of all linears come first: adapters' matrices pass over the rows of `x` once.
pub(in crate::ops) fn cpu(x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
    let segments: Vec<&[Segment]> = linears.iter().map(|linear| linear.added.segments()).collect();
    let shrunk = Shrunk::new(x, &segments)?;
    linears.iter().enumerate().map(|(i, linear)| one(x, linear, &shrunk, i)).collect()
}

/// The `i`-th linear. Where nothing is tracked it is one pass over one buffer; in training each step is an operation with its
/// gradient.
fn one(x: &Tensor, linear: &Linear, shrunk: &Shrunk, i: usize) -> Result<Tensor> {
    let y = match (&linear.weight, &linear.bias, &linear.added) {
        (Param::Frozen(w), Param::Frozen(b), Added::Nothing | Added::Segments(_)) if !x.track_op() => {
            let (frozen, (rows, width)) = (FrozenLinear::new(w, Some(b)), x.dims2()?);
            let mut y = host::read("linear", [x], |[x]| frozen.apply(x, rows, width))??;
            shrunk.expand(i, &mut y, rows)?;
            if linear.gelu {
                gelu::overwrite(&mut y);
            }
            let out = frozen.weight()?.1;
            return Tensor::from_vec(y, (rows, out), x.device());
        }
        (Param::Frozen(w), Param::Frozen(b), Added::Nothing) => {
            x.contiguous()?.apply_op1(FrozenLinear::new(w, Some(b)))?
        }
        (Param::Frozen(w), Param::Frozen(b), Added::Whole(delta)) => adapted(x, w, b, delta)?,
        // A trained bias over a frozen weight (BitFit): the product still runs from the mapping.
        (Param::Frozen(w), Param::Tensor(b), Added::Nothing) => {
            x.contiguous()?.apply_op1(FrozenLinear::new(w, None))?.broadcast_add(b)?
        }
        _ => return reference(x, linear),
    };
    if linear.gelu { gelu::cpu(&y) } else { Ok(y) }
}

/// `y` is copied: it may be shared.
pub(in crate::ops) fn add_segments_cpu(x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let matrices = segments.iter().flat_map(|Segment { delta, .. }| [&delta.a, &delta.b]);
    if [x, y].into_iter().chain(matrices).any(Tensor::track_op) {
        return add_segments_reference(x, y, segments);
    }
    let mut sum = host::read("delta", [y], |[y]| y.to_vec())?;
    Shrunk::new(x, &[segments])?.expand(0, &mut sum, y.dim(0)?)?;
    Tensor::from_vec(sum, y.shape(), y.device())
}

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

    /// The weight's elements with `out` and `in`.
    fn weight(&self) -> Result<(&[f32], usize, usize)> {
        match (self.w.slice(), self.w.shape()) {
            (Some(data), &[out, width]) => Ok((data, out, width)),
            (_, shape) => bail!("linear: weight {} of shape {shape:?} is not a matrix on the CPU", self.w.name()),
        }
    }

    /// `x W^T + b` for `rows` of x, each of `found` elements.
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

    /// `dy W` for `rows` of dy.
    pub(super) fn backward(&self, dy: &[f32], rows: usize) -> Result<Vec<f32>> {
        let (w, out, width) = self.weight()?;
        let mut dx = vec![0.0; rows * width];
        let target = Target { data: &mut dx, row: width, add: false };
        let size = Size { m: rows, n: width, k: out };
        gemm(target, View::rows(dy, out), View::rows(w, width), 1.0, size, Threads::All);
        Ok(dx)
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
        let dx = host::read(self.name(), [dy], |[dy]| self.backward(dy, rows))??;
        Ok(Some(Tensor::from_vec(dx, (rows, self.weight()?.2), dy.device())?))
    }
}
