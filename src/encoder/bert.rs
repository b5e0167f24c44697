//! BERT (Devlin et al. 2019): absolute positions; its classifier reads the pooled first token.

use serde_json::{Value, json};

use super::Architecture;
use super::head::{Activation, Shape};
use super::post_norm::{self, BERT, PostNorm, Spec};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "bert",
    aliases: &[],
    defaults: || json!({}),
    only: Vec::<(&str, Value)>::new,
    padding: |_| None,
    layout: |config| post_norm::layout(&SPEC, config),
    open: |base, backend| PostNorm::open(&SPEC, base, backend),
};

static SPEC: Spec = Spec {
    prefix: "bert",
    stack: "encoder.layer",
    names: BERT,
    tables: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
    embedding: |config| Ok(config.hidden_size),
    projection: "",
    relative: None,
    head: Shape {
        dense: "bert.pooler.dense",
        dense_bias: true,
        activation: Activation::Tanh,
        norm: None,
        output: "classifier",
        drops_input: false,
    },
};
