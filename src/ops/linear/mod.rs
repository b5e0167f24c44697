//! Linears, and what adapters add to them: `y = x W^T + b`, plus low-rank deltas.
//!
//! | file | idea |
//! | --- | --- |
//! | `reference.rs` | by candle's operations |
//! | `cpu.rs` | which kernel runs |
//! | `frozen.rs` | the product with the mapped weight, or with its packed form |
//! | `ragged.rs` | the deltas of a mixed batch, in serving |
//! | `adapted.rs` | one delta for all rows, with its gradients, in training |

mod adapted;
mod cpu;
mod frozen;
mod ragged;
mod reference;

use std::ops::Range;

pub(super) use cpu::{add_segments_cpu, cpu};
pub(super) use reference::{add_segments_reference, reference};

use crate::params::{Delta, Param};

/// A linear and all that happens to its output before another operation reads it.
#[derive(Debug, Clone)]
pub struct Linear<'a> {
    /// `W [out, in]`.
    pub weight: Param,
    /// `b [out]`.
    pub bias: Param,
    /// What is added to `x W^T + b`.
    pub added: Added<'a>,
    /// Whether the sum goes through GELU.
    pub gelu: bool,
}

/// What an adapter, or several, add to the output of a linear.
#[derive(Debug, Clone, Default)]
pub enum Added<'a> {
    /// Nothing: the result is bit-identical to the base's.
    #[default]
    Nothing,
    /// One delta for all rows, differentiable in `A` and `B`.
    Whole(Delta),
    /// Segments of rows, each with its own delta and rank. They do not overlap, and their rows rise. Rows in no segment stay
    /// bit-identical to the base's.
    Segments(Vec<Segment<'a>>),
}

impl<'a> Added<'a> {
    fn segments(&self) -> &[Segment<'a>] {
        match self {
            Self::Segments(segments) => segments,
            Self::Nothing | Self::Whole(_) => &[],
        }
    }
}

/// Rows of a batch that one adapter changes at one site.
#[derive(Debug, Clone)]
pub struct Segment<'a> {
    /// Which rows of the batch.
    pub rows: Range<usize>,
    /// What they get added.
    pub delta: &'a Delta,
}
