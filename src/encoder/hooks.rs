//! The calls that an encoder makes while it runs. The encoder knows *where* something may change; an adapter or a training method
//! knows *what* changes.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::Fork;
use crate::ops::{Added, Dropout};
use crate::params::{Delta, Point, Site};

/// The places where `transformers` applies dropout in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropPoint {
    /// After the embeddings' LayerNorm.
    Embeddings,
    /// After the attention's output linear of a layer, before the residual.
    AttentionOutput(usize),
    /// At the feed-forward's output linear of a layer: after it and before the residual; in ModernBERT, on its input.
    Output(usize),
    /// The attention weights of a layer.
    Attention(usize),
    /// The relative positions of a layer (DeBERTa).
    Positions(usize),
    /// The input of the head.
    HeadInput,
    /// Before the classifier.
    Head,
}

/// An encoder's hooks. Every method defaults to the bare, frozen base.
///
/// Serving implements them with a mixed batch ([`crate::engine::Mixed`]), training with its method. [`Identity`] is the bare base.
pub trait Hooks {
    /// The tensor that replaces the parameter `name`, which is its name in a classifier's checkpoint, such as
    /// `bert.encoder.layer.0.output.dense.bias`. The tensor has the same shape; `None` keeps the base's. The encoder calls this for
    /// every parameter.
    ///
    /// # Errors
    /// If the tensor cannot be made.
    fn parameter(&self, _name: &str) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The deltas to add to the output of the linear at `site`.
    ///
    /// # Errors
    /// If a delta cannot be made.
    fn added(&self, _site: Site) -> Result<Added<'_>> {
        Ok(Added::Nothing)
    }

    /// The fork at `point`, or `None` if no text forks there. After a fork, texts that several adapters shared have rows for each, and
    /// rows that nothing reads are gone.
    /// The encoder calls this once at every point, in order, before the linears that read the input.
    fn fork(&self, _point: Point) -> Option<Fork<'_>> {
        None
    }

    /// Groups of texts that get the same deltas, as ranges of the batch's `tokens` rows in the attention of `layer`, in order and
    /// without gaps. The encoder calls this where a linear has an input besides the tokens: DeBERTa projects its relative positions
    /// by the same linears as the tokens.
    fn groups(&self, _layer: usize, tokens: usize) -> Vec<Range<usize>> {
        std::iter::once(0..tokens).collect()
    }

    /// The delta of the texts of `group` at `site`, for an input that belongs to no text. The encoder calls this where
    /// [`Self::added`] returns segments or nothing.
    fn group_delta(&self, _site: Site, _group: usize) -> Option<&Delta> {
        None
    }

    /// Runs after the linear at `site` and its activation, if it has one, on the output `h [T, out]` (bottleneck adapters).
    ///
    /// # Errors
    /// If the adapter's operations fail.
    fn after(&self, _site: Site, h: Tensor) -> Result<Tensor> {
        Ok(h)
    }

    /// The dropout at `point`. Serving drops nothing.
    fn dropout(&self, _point: DropPoint) -> Option<Dropout> {
        None
    }
}

/// The bare base: adds nothing and replaces nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl Hooks for Identity {}
