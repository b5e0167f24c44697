//! The reference: candle's operations.

use candle_core::{D, Result, Tensor};

use super::even;

pub(in crate::ops) fn reference(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

pub(in crate::ops) fn gated_reference(x: &Tensor) -> Result<Tensor> {
    even(x)?;
    let wide = x.dim(D::Minus1)? / 2;
    reference(&x.narrow(1, 0, wide)?)? * x.narrow(1, wide, wide)?
}
