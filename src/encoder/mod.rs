//! Encoders, each written once over the seam, on packed texts, and used alike for serving and training.
//!
//! An architecture is one file and one row of [`ARCHITECTURES`]:
//!
//! | file | architecture |
//! | --- | --- |
//! | `bert.rs` | BERT |
//! | `roberta.rs` | RoBERTa, XLM-R |
//! | `electra.rs` | ELECTRA |
//! | `distilbert.rs` | DistilBERT |
//! | `deberta.rs` | DeBERTa-v2 and v3 |
//! | `modernbert.rs` | ModernBERT |
//! | `mpnet.rs` | MPNet |
//!
//! All but DeBERTa and ModernBERT run the same layers, `post_norm.rs`; `layers.rs` has the parts that all are made of, `head.rs`
//! the classifiers, `fork.rs` what lets texts part on their way.

mod batch;
mod bert;
mod deberta;
mod distilbert;
mod electra;
mod fork;
mod head;
mod layers;
mod modernbert;
mod mpnet;
mod post_norm;
mod roberta;
mod seam;
mod site;

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use serde_json::Value;

pub use batch::{Encoded, Packed};
pub use fork::Fork;
pub use head::{Head, first_tokens, head_logits};
pub use seam::{DropPoint, Identity, Seam};
pub use site::{Dim, HeadParameter, INPUTS, Layout, Module, NamedSite, Point, Site};

use crate::model::{Base, BaseConfig, Frozen, ModelError};

/// A frozen encoder. Shared by `Arc` and never mutated; what varies comes through the seam.
pub trait Encoder: Send + Sync {
    /// Its sites and what a head over it carries.
    fn layout(&self) -> &Layout;

    /// Where it computes.
    fn device(&self) -> &Device;

    /// Every parameter that it asks the seam for, by its name in a classifier's checkpoint.
    fn parameters(&self) -> &[Frozen];

    /// The last hidden states, `[T, hidden]`: of the rows of `batch`, or of what they became where the seam let them part.
    ///
    /// # Errors
    /// Token ids outside the tables, and whatever the seam and the operations raise.
    fn forward(&self, batch: &Packed, seam: &dyn Seam) -> Result<Tensor>;

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
    /// A head without what the architecture needs, and whatever the seam and the operations raise.
    fn logits(&self, pooled: &Tensor, head: &Head, seam: &dyn Seam) -> Result<Tensor>;
}

/// Opens the encoder of a base.
type Open = fn(&Base, &Device) -> std::result::Result<Arc<dyn Encoder>, ModelError>;

/// One row of the table of architectures.
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Keys of its configuration that BERT names otherwise: (its own name, BERT's).
    pub aliases: &'static [(&'static str, &'static str)],
    /// `transformers`' values of keys that a configuration leaves out, where they are not BERT's.
    pub defaults: fn() -> Value,
    /// The only values that are served of some keys; anything else is refused by name.
    pub only: fn() -> Vec<(&'static str, Value)>,
    /// The padding token, where positions are counted from its id: a text's first token has the position behind it. `None` where
    /// they are counted from 0.
    pub padding: fn(&BaseConfig) -> Option<u32>,
    /// Its sites, from the configuration alone. Parameters of heads that a base may bring are not required.
    pub layout: fn(&BaseConfig) -> std::result::Result<Layout, ModelError>,
    open: Open,
}

/// Every architecture that is served.
pub static ARCHITECTURES: &[Architecture] = &[
    bert::ARCHITECTURE,
    roberta::ROBERTA,
    roberta::XLM_ROBERTA,
    electra::ARCHITECTURE,
    distilbert::ARCHITECTURE,
    deberta::ARCHITECTURE,
    modernbert::ARCHITECTURE,
    mpnet::ARCHITECTURE,
];

/// The architecture of a `model_type`.
#[must_use]
pub fn architecture(model_type: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.model_type == model_type)
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl Debug for Architecture {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}

/// The encoder of a base.
///
/// # Errors
/// An architecture that is not served, and tensors that are missing or of another shape than the configuration says.
pub fn open(base: &Base, device: &Device) -> std::result::Result<Arc<dyn Encoder>, ModelError> {
    (base.config.architecture().open)(base, device)
}

/// The sites of a base, from its configuration alone.
///
/// # Errors
/// A configuration whose own keys are malformed.
pub fn layout(config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
    (config.architecture().layout)(config)
}
