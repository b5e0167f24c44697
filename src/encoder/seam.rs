//! The seam between an encoder, which knows *where*, and an adapter, which knows *what*.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{Fork, Point, Site};
use crate::adapter::Delta;
use crate::kernel::Dropout;

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

/// What an encoder asks while it runs. Every answer defaults to the bare, frozen base.
///
/// Serving answers with the mixed batch ([`crate::adapter::Mixed`]), training with its method, a bare base with [`Identity`].
pub trait Seam {
    /// Where the parameter `name` (as in a classifier's checkpoint, `bert.encoder.layer.0.output.dense.bias`) comes from:
    /// `None` is the frozen mapping, `Some` a tensor of the same shape that replaces it. Asked for every parameter.
    ///
    /// # Errors
    /// Whatever making the tensor raises.
    fn parameter(&self, _name: &str) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The low-rank delta of the linear at `site`, where all rows have the same one: it then runs as one operation with the
    /// linear, differentiable in the delta, and before [`Self::project`].
    ///
    /// # Errors
    /// Whatever making the delta raises.
    fn delta(&self, _site: Site) -> Result<Option<Delta>> {
        Ok(None)
    }

    /// `y [T, out]` of the linear at `site` with what the adapter adds for its input `x [T, in]`.
    ///
    /// # Errors
    /// Whatever the delta's operations raise.
    fn project(&self, _site: Site, _x: &Tensor, y: Tensor) -> Result<Tensor> {
        Ok(y)
    }

    /// [`Self::project`] of linears that read the same `x`, so that what they share is computed once; `linear(i)` gives the `y` of
    /// the i-th site.
    ///
    /// # Errors
    /// Those of [`Self::project`] and of `linear`.
    fn project_all(&self, sites: &[Site], x: &Tensor, linear: &dyn Fn(usize) -> Result<Tensor>) -> Result<Vec<Tensor>> {
        sites.iter().enumerate().map(|(i, &site)| self.project(site, x, linear(i)?)).collect()
    }

    /// How the rows part at `point`, where some do: texts that several adapters shared until here go on apart. Asked once at
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

    /// `y [n, out]` of the linear at `site` with what the adapter of `group` adds for `x [n, in]`, which belongs to no text.
    /// `y` may be shared: what is added goes to a copy.
    ///
    /// # Errors
    /// Whatever the delta's operations raise.
    fn project_shared(&self, _site: Site, _group: usize, _x: &Tensor, y: Tensor) -> Result<Tensor> {
        Ok(y)
    }

    /// `h [T, out]`, what follows the linear at `site` (bottleneck adapters).
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

impl Seam for Identity {}
