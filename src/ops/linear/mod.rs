//! Linears and the low-rank deltas that adapters add to them: `y = x W^T + b + scale * (x A^T) B^T`.
//!
//! | file | idea |
//! | --- | --- |
//! | `reference.rs` | candle's operations |
//! | `cpu.rs` | chooses the CPU's kernels |
//! | `frozen.rs` | the product with a frozen weight, mapped or packed |
//! | `ragged.rs` | the deltas of a mixed batch, for inference |
//! | `adapted.rs` | one delta for all rows, with its gradients, for training |
//! | `cuda.rs` | the GPU's form: products in cuBLAS, then at most two kernels |
//! | `finish.rs` | launches those two kernels |
//! | `operands.rs` | what all of these read: weights and biases in the types of kernels, and products |
//! | `shrink.cu`, `expand.cu` | the kernels; `segments.cuh` has what they share |
//! | `launch_plan.rs` | which rows and columns their blocks compute |
//! | `training.rs` | the GPU's gradients |
//! | `trained.rs` | one operation for linears that training adapts on a GPU, with gradients outside candle's graph |

mod adapted;
mod cpu;
mod cuda;
mod finish;
mod frozen;
mod launch_plan;
mod operands;
mod ragged;
mod reference;
mod trained;
mod training;

use std::ops::Range;

pub(super) use cpu::{add_segments_cpu, cpu};
pub(super) use cuda::{add_segments_cuda, cuda};
pub(super) use reference::{add_segments_reference, reference};
pub use trained::TrainedDelta;

use crate::params::{Delta, Param};

/// A linear, and what happens to its output before another operation reads it.
#[derive(Debug, Clone)]
pub struct Linear<'a> {
    /// `W [out, in]`.
    pub weight: Param,
    /// `b [out]`.
    pub bias: Param,
    /// What is added to `x W^T + b`.
    pub added: Added<'a>,
    /// Whether GELU is applied to the sum.
    pub gelu: bool,
}

/// What one adapter or several adapters add to the output of a linear.
#[derive(Debug, Clone, Default)]
pub enum Added<'a> {
    /// Nothing: the result is bit-identical to the base's.
    #[default]
    Nothing,
    /// One delta for all rows, differentiable in `A` and `B`.
    Whole(Delta),
    /// Segments of rows, each with its own delta and rank, in ascending order and without overlap. Rows in no segment stay
    /// bit-identical to the base's.
    Segments(Vec<Segment<'a>>),
    /// One delta for all rows, whose gradients are added to memory of its own. Only on a GPU.
    Trained(TrainedDelta),
}

impl<'a> Added<'a> {
    fn segments(&self) -> &[Segment<'a>] {
        match self {
            Self::Segments(segments) => segments,
            Self::Nothing | Self::Whole(_) | Self::Trained(_) => &[],
        }
    }
}

/// Rows of a batch that one adapter changes at one site.
#[derive(Debug, Clone)]
pub struct Segment<'a> {
    /// The rows of the batch.
    pub rows: Range<usize>,
    /// The delta that is added to them.
    pub delta: &'a Delta,
}
