//! What tells one architecture from another, known from a configuration alone: names, sizes, sites, heads. Reading a base and
//! running it both stand on it.
//!
//! An architecture is one file and one row of [`ARCHITECTURES`]:
//!
//! | file | architecture |
//! | --- | --- |
//! | `bert.rs` | BERT |
//! | `roberta.rs` | RoBERTa, XLM-R |
//! | `electra.rs` | ELECTRA |
//! | `distilbert.rs` | DistilBERT |
//! | `mpnet.rs` | MPNet |
//! | `deberta.rs` | DeBERTa-v2 and v3 |
//! | `modernbert.rs` | ModernBERT |
//!
//! The first five describe one encoder, `post_norm.rs`; `head.rs` describes classifiers.

mod bert;
pub(crate) mod deberta;
mod distilbert;
mod electra;
mod head;
pub(crate) mod modernbert;
mod mpnet;
mod post_norm;
mod roberta;

use std::fmt::{self, Debug, Formatter};

use serde_json::Value;

pub(crate) use self::head::{Activation, HeadSpec};
pub(crate) use self::post_norm::{
    ATTENTION_OUTPUT, INTERMEDIATE, KEY, Names, OUTPUT, PostNormSpec, QUERY, Relative, VALUE,
};
use super::{BaseConfig, ModelError};
use crate::params::Layout;

/// The encoder that runs an architecture.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Family {
    /// Norms after the residuals, told apart by names.
    PostNorm(&'static PostNormSpec),
    /// DeBERTa.
    Deberta,
    /// ModernBERT.
    ModernBert,
}

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
    pub layout: fn(&BaseConfig) -> Result<Layout, ModelError>,
    /// The encoder that runs it.
    pub(crate) family: Family,
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

/// The sites of a base, from its configuration alone.
///
/// # Errors
/// A configuration whose own keys are malformed.
pub fn layout(config: &BaseConfig) -> Result<Layout, ModelError> {
    (config.architecture().layout)(config)
}
