//! The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, and the gated GELU.

mod cpu;
mod cuda;
mod reference;

use candle_core::{Result, Tensor, bail};

pub(super) use cpu::{cpu, gated_cpu, overwrite};
pub(super) use cuda::{backward_cuda, cuda, forward_cuda, gated_cuda};
pub(super) use reference::{gated_reference, reference};

/// Checks that the rows of `x` have an even width.
fn even(x: &Tensor) -> Result<()> {
    let (_, width) = x.dims2()?;
    if !width.is_multiple_of(2) {
        bail!("gated-gelu: expected rows of even width, found {:?}", x.dims());
    }
    Ok(())
}
