//! The CPU's form: chooses the kernels. Inference makes one pass over one buffer; training runs operations with gradients.

use candle_core::{Result, Tensor};

use super::adapted::adapted;
use super::frozen::FrozenLinear;
use super::ragged::Shrunk;
use super::{Added, Linear, Segment, add_segments_reference, reference};
use crate::cpu::host;
use crate::ops::gelu;
use crate::params::Param;

/// The products with the A's of all linears run first, so that `x` is read once for all of them.
pub(in crate::ops) fn cpu(x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
    let segments: Vec<&[Segment]> = linears.iter().map(|linear| linear.added.segments()).collect();
    let shrunk = Shrunk::new(x, &segments)?;
    linears.iter().enumerate().map(|(i, linear)| one(x, linear, &shrunk, i)).collect()
}

/// Computes the `i`-th linear. If no gradients are tracked, it is one pass over one buffer; in training, each step is an operation
/// with its gradient.
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
        // A trained bias with a frozen weight (BitFit): the product still reads the mapping.
        (Param::Frozen(w), Param::Tensor(b), Added::Nothing) => {
            x.contiguous()?.apply_op1(FrozenLinear::new(w, None))?.broadcast_add(b)?
        }
        _ => return reference(x, linear),
    };
    if linear.gelu { gelu::cpu(&y) } else { Ok(y) }
}

/// Copies `y`, because other tensors may share its storage.
pub(in crate::ops) fn add_segments_cpu(x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let matrices = segments.iter().flat_map(|Segment { delta, .. }| [&delta.a, &delta.b]);
    if [x, y].into_iter().chain(matrices).any(Tensor::track_op) {
        return add_segments_reference(x, y, segments);
    }
    let mut sum = host::read("delta", [y], |[y]| y.to_vec())?;
    Shrunk::new(x, &[segments])?.expand(0, &mut sum, y.dim(0)?)?;
    Tensor::from_vec(sum, y.shape(), y.device())
}
