//! Random operands: never zeros, which a machine may multiply faster.

use candle_core::{Device, Result, Tensor};
use polyrank::params::Delta;
use rand::Rng;
use rand::rngs::StdRng;

/// `len` values in -1..1.
pub(crate) fn values(len: usize, rng: &mut StdRng) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The same as a tensor of `shape`.
pub(crate) fn tensor(shape: &[usize], rng: &mut StdRng) -> Result<Tensor> {
    Tensor::from_vec(values(shape.iter().product(), rng), shape, &Device::Cpu)
}

/// A delta of `rank` for a linear of `width` to `out`, small beside what it is added to.
pub(crate) fn delta((width, out): (usize, usize), rank: usize, rng: &mut StdRng) -> Result<Delta> {
    // B lies by ranks, as adapters are read.
    let (a, b) = (tensor(&[rank, width], rng)?, tensor(&[rank, out], rng)?.t()?);
    Ok(Delta { a, b, scale: 0.1 / (width * rank) as f64 })
}
