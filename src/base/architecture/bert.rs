//! BERT (Devlin et al. 2019): absolute positions; the classifier reads the pooled first token.

use serde_json::json;

use super::post_norm::{BERT, PostNormSpec};
use super::{Activation, Architecture, Family, HeadSpec, absolute};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "bert",
    aliases: &[],
    synonyms: &[],
    defaults: || json!({}),
    only: absolute,
    padding: |_| None,
    has_positions: |_| true,
    layout: |config| SPEC.layout(config),
    family: Family::PostNorm(&SPEC),
    tokenizer_class: "BertTokenizer",
};

static SPEC: PostNormSpec = PostNormSpec {
    prefix: "bert",
    stack: "encoder.layer",
    names: BERT,
    tables: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
    embedding: |config| Ok(config.hidden_size),
    projection: "",
    relative: None,
    head: HeadSpec {
        dense: "bert.pooler.dense",
        dense_bias: true,
        activation: Activation::Tanh,
        norm: None,
        output: "classifier",
        drops_input: false,
    },
};
