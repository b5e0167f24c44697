//! The reference: candle's operations.

use candle_core::{Result, Tensor};

use super::Rotary;

pub(in crate::ops) fn reference(x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
    rotary.check(x)?;
    let ((tokens, hidden), half) = (x.dims2()?, rotary.half);
    let [cos, sin] = rotary.tensors(x.device())?;
    let x = x.reshape((tokens, hidden / (2 * half), 2 * half))?;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape((tokens, hidden))
}
