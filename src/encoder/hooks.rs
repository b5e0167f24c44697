//! What an encoder asks while it runs. The encoder knows *where*, an adapter or a training method knows *what*.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::Fork;
use crate::ops::{Added, Dropout};
use crate::params::{Delta, Point, Site};

/// Where `transformers` drops activations while it trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropPoint {
    /// After the embeddings' LayerNorm.
    Embeddings,
    /// After the attention's output linear of a layer, before the residual.
    AttentionOutput(usize),
    /// After the feed-forward's output linear of a layer, before the residual.
    Output(usize),
    /// The attention weights of a layer.
    Attention(usize),
    /// The relative positions of a layer (DeBERTa).
    Positions(usize),
    /// What the head reads.
    HeadInput,
    /// Before the classifier.
    Head,
}

/// The questions. Every answer defaults to the bare, frozen base.
///
/// Serving answers with a mixed batch ([`crate::engine::Mixed`]), training with its method, and a bare base with [`Identity`].
pub trait Hooks {
    /// The tensor that replaces the parameter `name` (as in a classifier's checkpoint, `bert.encoder.layer.0.output.dense.bias`),
    /// of the same shape; `None` leaves the base's own. Asked for every parameter.
    ///
    /// # Errors
    /// Whatever making the tensor raises.
    fn parameter(&self, _name: &str) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// What is added to the output of the linear at `site`.
    ///
    /// # Errors
    /// Whatever making a delta raises.
    fn added(&self, _site: Site) -> Result<Added<'_>> {
        Ok(Added::Nothing)
    }

    /// How the rows fork at `point`, where some do: texts that several adapters shared until here go on apart. Asked once at
    /// every point, in order, before the linears that read the input.
    fn fork(&self, _point: Point) -> Option<Fork<'_>> {
        None
    }

    /// Texts that share what is added, as ranges of the batch's `tokens` rows in the attention of `layer`, in order, without
    /// gaps. Asked where a linear has an input besides the tokens (DeBERTa projects its relative positions by the very linears
    /// that project the tokens).
    fn groups(&self, _layer: usize, tokens: usize) -> Vec<Range<usize>> {
        std::iter::once(0..tokens).collect()
    }

    /// The delta that the texts of `group` have at `site`, for an input that belongs to no text. Asked where [`Self::added`]
    /// names segments or nothing.
    fn group_delta(&self, _site: Site, _group: usize) -> Option<&Delta> {
        None
    }

    /// What follows the linear at `site`, and its activation where it has one, given its output `h [T, out]` (bottleneck adapters).
    ///
    /// # Errors
    /// Whatever the adapter's operations raise.
    fn after(&self, _site: Site, h: Tensor) -> Result<Tensor> {
        Ok(h)
    }

    /// What is dropped at `point`; serving drops nothing.
    fn dropout(&self, _point: DropPoint) -> Option<Dropout> {
        None
    }
}

/// The bare base: nothing added, nothing replaced.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl Hooks for Identity {}
