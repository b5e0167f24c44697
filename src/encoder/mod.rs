//! Encoders on packed texts. Each is written once; hooks make it serve a mixed batch or train a method.
//!
//! | file | encoder |
//! | --- | --- |
//! | `post_norm.rs` | BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT, MPNet: one encoder, told apart by [`crate::base::architecture`] |
//! | `deberta.rs` | DeBERTa-v2 and v3 |
//! | `modernbert.rs` | ModernBERT |
//!
//! `layers.rs` has the parts that all are made of, `head.rs` the classifiers, `hooks.rs` what an encoder asks while it runs, and
//! `fork.rs` what lets texts fork on their way.

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
pub use head::{Head, first_tokens, head_logits};
pub use hooks::{DropPoint, Hooks, Identity};

use self::deberta::Deberta;
use self::modernbert::ModernBert;
use self::post_norm::PostNorm;
use crate::base::architecture::Family;
use crate::base::{Base, ModelError};
use crate::params::{Backend, Frozen, Layout};

/// A frozen encoder. Shared by `Arc` and never mutated; what varies comes through its hooks.
pub trait Encoder: Send + Sync {
    /// Its sites and what a head over it carries.
    fn layout(&self) -> &Layout;

    /// Every parameter that it asks its hooks for, by its name in a classifier's checkpoint.
    fn parameters(&self) -> &[Frozen];

    /// The last hidden states, `[T, hidden]`: of the rows of `batch`, or of what they became where they fork.
    ///
    /// # Errors
    /// Token ids outside the tables, and whatever the hooks and the operations raise.
    fn forward(&self, batch: &Packed, hooks: &dyn Hooks) -> Result<Tensor>;

    /// What the head reads of each text: `hidden [T, hidden]` with texts at `offsets [B + 1]` to `[B, hidden]`; the first token,
    /// where nothing else is said.
    ///
    /// # Errors
    /// Candle's own.
    fn pool(&self, hidden: &Tensor, offsets: &[usize]) -> Result<Tensor> {
        first_tokens(hidden, offsets)
    }

    /// Logits `[B, labels]` of `head` over what was pooled, `[B, hidden]`.
    ///
    /// # Errors
    /// A head without what the architecture needs, and whatever the hooks and the operations raise.
    fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor>;
}

/// The encoder of a base.
///
/// # Errors
/// An architecture that is not served, and tensors that are missing or of another shape than the configuration says.
pub fn open(base: &Base, backend: &Backend) -> std::result::Result<Arc<dyn Encoder>, ModelError> {
    Ok(match base.config.architecture().family {
        Family::PostNorm(spec) => Arc::new(PostNorm::open(spec, base, backend)?),
        Family::Deberta => Arc::new(Deberta::open(base, backend)?),
        Family::ModernBert => Arc::new(ModernBert::open(base, backend)?),
    })
}
