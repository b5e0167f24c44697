//! Encoders on packed texts. Each is written once; hooks make it serve a mixed batch or train a method.
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
//! the classifiers, `fork.rs` what lets texts fork on their way.

mod batch;
mod bert;
mod deberta;
mod distilbert;
mod electra;
mod fork;
mod head;
mod hooks;
mod layers;
mod modernbert;
mod mpnet;
mod post_norm;
mod roberta;

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use candle_core::{Result, Tensor};
use serde_json::Value;

pub use batch::{Encoded, Packed};
pub use fork::Fork;
pub use head::{Head, first_tokens, head_logits};
pub use hooks::{DropPoint, Hooks, Identity};

use crate::model::{Base, BaseConfig, ModelError};
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

/// Opens the encoder of a base.
type Open = fn(&Base, &Backend) -> std::result::Result<Arc<dyn Encoder>, ModelError>;

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
pub fn open(base: &Base, backend: &Backend) -> std::result::Result<Arc<dyn Encoder>, ModelError> {
    (base.config.architecture().open)(base, backend)
}

/// The sites of a base, from its configuration alone.
///
/// # Errors
/// A configuration whose own keys are malformed.
pub fn layout(config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
    (config.architecture().layout)(config)
}
