//! Residual sum and LayerNorm: `(h + r - mean) / sqrt(var + eps) * weight + bias` over the last dimension, with the population
//! variance.

mod cpu;
mod cuda;
mod reference;

pub(super) use cpu::cpu;
pub(super) use cuda::cuda;
pub(super) use reference::reference;

use crate::params::Param;

/// The parameters of a LayerNorm.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// `[hidden]`.
    pub weight: &'a Param,
    /// `[hidden]`.
    pub bias: &'a Param,
    /// Added to the variance.
    pub eps: f64,
}
