//! RoBERTa (Liu et al. 2019) and XLM-R: positions counted from the padding token's id, a head of two linears.

use serde_json::{Value, json};

use super::Architecture;
use super::head::{Activation, Shape};
use super::post_norm::{self, BERT, PostNorm, Spec};

pub(super) const ROBERTA: Architecture = Architecture {
    model_type: "roberta",
    aliases: &[],
    defaults: || json!({"pad_token_id": 1}),
    only: Vec::<(&str, Value)>::new,
    // -1 counts from 0: no token has it.
    padding: |config| u32::try_from(config.pad_token_id.unwrap_or_default()).ok(),
    layout: |config| post_norm::layout(&SPEC, config),
    open: |base, device| PostNorm::open(&SPEC, base, device),
};

/// The same under another name, with another tokenizer.
pub(super) const XLM_ROBERTA: Architecture = Architecture { model_type: "xlm-roberta", ..ROBERTA };

static SPEC: Spec = Spec {
    prefix: "roberta",
    stack: "encoder.layer",
    names: BERT,
    tables: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
    embedding: |config| Ok(config.hidden_size),
    projection: "",
    relative: None,
    head: Shape {
        dense: "classifier.dense",
        dense_bias: true,
        activation: Activation::Tanh,
        norm: None,
        output: "classifier.out_proj",
        drops_input: true,
    },
};
