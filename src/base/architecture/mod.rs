//! How architectures differ, as far as a configuration says: names, sizes, sites, heads. The code that reads a base and the code
//! that runs it both use this module.
//!
//! Each architecture is one file and one row of [`ARCHITECTURES`]:
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
//! The first five configure one encoder, described by `post_norm.rs`; `head.rs` describes classifiers.

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
    /// An encoder with norms after the residuals.
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
    /// The keys of its configuration for which BERT has another name: (its own name, BERT's name).
    pub aliases: &'static [(&'static str, &'static str)],
    /// BERT's names of `aliases` that `transformers` reads too, and prefers (its `attribute_map`). It ignores the others.
    pub synonyms: &'static [&'static str],
    /// The defaults of `transformers` for keys that a configuration leaves out, if they differ from BERT's.
    pub defaults: fn() -> Value,
    /// Keys of which only one value is supported, with that value. Any other value is rejected by name.
    pub only: fn() -> Vec<(&'static str, Value)>,
    /// The id of the padding token, if positions are counted from it: a text's first token then has the position after it. `None`
    /// if positions are counted from 0.
    pub padding: fn(&BaseConfig) -> Option<u32>,
    /// Whether the base has an embedding for each position, so that no text may be longer. Other bases know only distances.
    pub has_positions: fn(&BaseConfig) -> bool,
    /// The sites, from the configuration alone. Head tensors that a base may have are not marked as required.
    pub layout: fn(&BaseConfig) -> Result<Layout, ModelError>,
    /// The encoder that runs it.
    pub(crate) family: Family,
    /// The class of `transformers` that makes its tokenizer if no file names one.
    pub tokenizer_class: &'static str,
}

impl Architecture {
    /// What a classifier's checkpoint puts before the names of the encoder's tensors, such as `bert`.
    pub(crate) fn prefix(&self) -> &'static str {
        match self.family {
            Family::PostNorm(spec) => spec.prefix,
            Family::Deberta => deberta::PREFIX,
            Family::ModernBert => modernbert::PREFIX,
        }
    }
}

/// Other kinds of positions, which older releases of `transformers` know for some architectures, are not supported.
fn absolute() -> Vec<(&'static str, Value)> {
    vec![("position_embedding_type", Value::from("absolute"))]
}

/// All supported architectures.
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
/// If a key that only this architecture has is malformed.
pub fn layout(config: &BaseConfig) -> Result<Layout, ModelError> {
    (config.architecture().layout)(config)
}
