//! One file an operation: the kernel on slices, its reference by candle's own operations, its backward.
//!
//! A kernel runs on the CPU over mapped parameters and comes to autograd as a candle custom op. Where there is none, because the
//! tensors live on a GPU or the parameter is being trained, an operation is the composition of candle's operations that its
//! tests take as the oracle; so every encoder is written once.

mod adapted;
mod ahead;
mod attention;
mod delta;
mod disentangled;
mod dot;
mod dropout;
mod embed;
mod expand;
mod gelu;
mod host;
mod lanes;
mod linear;
mod math;
mod norm;
pub mod prepacked;
mod product;
mod rope;
mod short;
mod turn;

use candle_core::{Result, Tensor};

pub use adapted::adapted_linear;
pub use attention::{Heads, attention};
pub use delta::{Segment, ragged_delta, ragged_deltas};
pub use disentangled::{Attend, Disentangled, TextPositions, attend, disentangled_attention, disentangled_scores};
pub use dropout::{Dropout, dropout, splitmix};
pub use embed::embed;
pub use gelu::{gated_gelu, gelu};
pub use linear::linear;
pub use norm::residual_norm;
pub use rope::{Rotary, rotate};

use crate::model::Frozen;

#[cfg(test)]
mod tests;

/// Elements that one parallel task of an element-wise kernel takes: enough to outweigh its dispatch.
const CHUNK: usize = 8192;

/// Rows of `width` elements that one parallel task takes.
fn rows_per_task(width: usize) -> usize {
    CHUNK.div_ceil(width.max(1))
}

/// A parameter as the seam decided: the base's own, or a tensor in its place.
#[derive(Debug, Clone)]
pub enum Param {
    /// The base's, in the mapping or on the device.
    Frozen(Frozen),
    /// Trained or given by an adapter.
    Tensor(Tensor),
}

impl Param {
    /// As a tensor; of a mapped parameter, a copy.
    ///
    /// # Errors
    /// Candle's own.
    pub fn tensor(&self) -> Result<Tensor> {
        match self {
            Self::Frozen(frozen) => frozen.tensor(),
            Self::Tensor(tensor) => Ok(tensor.clone()),
        }
    }
}
