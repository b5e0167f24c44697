//! Encoders on packed texts. Each is written once; hooks make it serve a mixed batch or train with a method.
//!
//! | file | encoder |
//! | --- | --- |
//! | `post_norm.rs` | BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT, MPNet: one encoder, configured by [`crate::base::architecture`] |
//! | `deberta.rs` | DeBERTa-v2 and v3 |
//! | `modernbert.rs` | ModernBERT |
//!
//! `layers.rs` has the layers that all of them use, `head.rs` the classifiers, `hooks.rs` the calls that an encoder makes while it
//! runs, `batch.rs` packed texts, and `fork.rs` their forks.

mod batch;
mod deberta;
mod fork;
mod head;
mod hooks;
mod layers;
mod modernbert;
mod post_norm;

use std::sync::Arc;

use candle_core::{Result, Tensor};

pub use batch::Packed;
pub use fork::Fork;
pub use head::{Head, HeadJob, first_tokens};
pub use hooks::{DropPoint, Hooks, Identity};

use self::deberta::Deberta;
use self::fork::FirstTokens;
use self::modernbert::ModernBert;
use self::post_norm::PostNorm;
use crate::base::architecture::Family;
use crate::base::{Base, ModelError};
use crate::params::{Backend, Frozen, Layout, Point};

/// A frozen encoder. It is shared by `Arc` and never mutated; everything that varies comes through its hooks.
pub trait Encoder: Send + Sync {
    /// The encoder's sites and the tensors of its heads.
    fn layout(&self) -> &Layout;

    /// Every parameter for which it calls its hooks, with its name in a classifier's checkpoint.
    fn parameters(&self) -> &[Frozen];

    /// The last hidden states, `[T, hidden]`, of the rows of `batch`, or of the forked rows if any forked.
    ///
    /// # Errors
    /// If a token id lies outside the tables, or the hooks or the operations fail.
    fn forward(&self, batch: &Packed, hooks: &dyn Hooks) -> Result<Tensor>;

    /// The input of the head for each text, `[B, hidden]`, from `hidden [T, hidden]` with texts at `offsets [B + 1]`. By default it
    /// is the first token.
    ///
    /// # Errors
    /// Candle's own.
    fn pool(&self, hidden: &Tensor, offsets: &[usize]) -> Result<Tensor> {
        first_tokens(hidden, offsets)
    }

    /// The point from which only a text's first token is read: after the last layer's attention, if the head reads only that token.
    /// `None` if all tokens are read.
    fn first_tokens_from(&self) -> Option<Point> {
        None
    }

    /// [`Self::pool`] of [`Self::forward`], `[B, hidden]`, for hooks that fork no rows and add no segments. What nothing reads is not
    /// computed ([`Self::first_tokens_from`]).
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    fn pooled(&self, batch: &Packed, hooks: &dyn Hooks) -> Result<Tensor> {
        match self.first_tokens_from() {
            Some(point) => self.forward(batch, &FirstTokens::new(point, &batch.offsets, hooks)),
            None => self.pool(&self.forward(batch, hooks)?, &batch.offsets),
        }
    }

    /// Logits `[B, labels]` of `head` from the pooled texts, `[B, hidden]`.
    ///
    /// # Errors
    /// If the head lacks a tensor that the architecture needs, or the hooks or the operations fail.
    fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor>;

    /// Logits `[rows, labels]` of each job from the pooled texts, `[B, hidden]`. The encoders of this crate run each stage of all heads
    /// in one operation, and all results are parts of one tensor, in the order of the jobs and without gaps. Not differentiable on a
    /// GPU.
    ///
    /// # Errors
    /// As [`Encoder::logits`]; and if a row lies outside `pooled`.
    fn heads(&self, pooled: &Tensor, jobs: &[HeadJob<'_>], hooks: &dyn Hooks) -> Result<Vec<Tensor>> {
        let run = |job: &HeadJob| {
            let rows = Tensor::new(job.rows(), pooled.device())?;
            self.logits(&pooled.index_select(&rows, 0)?, job.head, hooks)
        };
        jobs.iter().map(run).collect()
    }
}

/// Opens the encoder of a base.
///
/// # Errors
/// If the architecture is not supported, a tensor is missing or does not have the shape that the configuration says, or the weights do
/// not fit in the device's memory.
pub fn open(base: &Base, backend: &Backend) -> std::result::Result<Arc<dyn Encoder>, ModelError> {
    base.weights.check_room(backend)?;
    Ok(match base.config.architecture().family {
        Family::PostNorm(spec) => Arc::new(PostNorm::open(spec, base, backend)?),
        Family::Deberta => Arc::new(Deberta::open(base, backend)?),
        Family::ModernBert => Arc::new(ModernBert::open(base, backend)?),
    })
}
