//! Encoders, each written once over the seam, on packed texts, and used alike for serving and training.
//!
//! An architecture is one file and one row of [`open`] and [`layout`].

mod batch;
mod bert;
mod head;
mod layers;
mod seam;
mod site;

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

pub use batch::{Encoded, Packed};
pub use head::{Head, first_tokens, head_logits};
pub use seam::{DropPoint, Identity, Seam};
pub use site::{Dim, HeadParameter, Layout, Module, NamedSite, Site};

use crate::model::{Base, BaseConfig, Frozen, ModelError};

/// A frozen encoder. Shared by `Arc` and never mutated; what varies comes through the seam.
pub trait Encoder: Send + Sync {
    /// Its sites and what a head over it carries.
    fn layout(&self) -> &Layout;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// Every parameter that it asks the seam for, by its name in a classifier's checkpoint.
    fn parameters(&self) -> &[Frozen];

    /// The last hidden states, `[T, hidden]`.
    ///
    /// # Errors
    /// Token ids outside the tables, and whatever the seam and the operations raise.
    fn forward(&self, batch: &Packed, seam: &dyn Seam) -> Result<Tensor>;

    /// Logits `[B, labels]` of `head` over the first tokens `[B, hidden]`.
    ///
    /// # Errors
    /// A head without what the architecture needs, and whatever the seam and the operations raise.
    fn logits(&self, first: &Tensor, head: &Head, seam: &dyn Seam) -> Result<Tensor>;
}

/// The encoder of a base.
///
/// # Errors
/// An architecture that is not served, and tensors that are missing or of another shape than the configuration says.
pub fn open(base: &Base, device: &Device) -> std::result::Result<Arc<dyn Encoder>, ModelError> {
    Ok(Arc::new(bert::Bert::open(base, device)?))
}

/// The sites of a base, from its configuration alone.
#[must_use]
pub fn layout(config: &BaseConfig) -> Layout {
    bert::layout(config)
}
