//! Many tensors as one vector, and back. Training has hundreds of small tensors that it treats alike, and a launch for each would take
//! longer than the work.

mod cuda;
mod reference;

use candle_core::{Result, Shape, Var, bail};

pub(super) use cuda::{assign_cuda, join_cuda, split_cuda};
pub(super) use reference::{assign_reference, join_reference, split_reference};

/// The index in the vector of the first element of each part, and the vector's length.
fn starts(parts: impl Iterator<Item = usize>) -> (Vec<usize>, usize) {
    let mut next = 0;
    let starts = parts.map(|part| {
        next += part;
        next - part
    });
    (starts.collect(), next)
}

/// The same for the parts of a vector of `len` elements.
fn starts_in(len: usize, parts: impl Iterator<Item = usize>) -> Result<Vec<usize>> {
    match starts(parts) {
        (starts, expected) if expected == len => Ok(starts),
        (_, expected) => bail!("split: expected a vector of {expected} elements, found {len}"),
    }
}

fn starts_of_shapes(len: usize, shapes: &[Shape]) -> Result<Vec<usize>> {
    starts_in(len, shapes.iter().map(Shape::elem_count))
}

fn starts_of_vars(len: usize, vars: &[&Var]) -> Result<Vec<usize>> {
    starts_in(len, vars.iter().map(|var| var.elem_count()))
}
