//! ELECTRA (Clark et al. 2020), the discriminator: embeddings may be narrower than the layers; a head of two linears with GELU
//! between.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Architecture;
use super::head::{Activation, Shape};
use super::post_norm::{self, BERT, PostNorm, Spec};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "electra",
    aliases: &[],
    defaults: || json!({"embedding_size": 128}),
    only: Vec::<(&str, Value)>::new,
    padding: |_| None,
    layout: |config| post_norm::layout(&SPEC, config),
    open: |base, backend| PostNorm::open(&SPEC, base, backend),
};

static SPEC: Spec = Spec {
    prefix: "electra",
    stack: "encoder.layer",
    names: BERT,
    tables: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
    embedding: |config| Ok(config.own::<Settings>()?.embedding_size),
    projection: "electra.embeddings_project",
    relative: None,
    head: Shape {
        dense: "classifier.dense",
        dense_bias: true,
        activation: Activation::Gelu,
        norm: None,
        output: "classifier.out_proj",
        drops_input: true,
    },
};

/// Keys of its own.
#[derive(Deserialize)]
struct Settings {
    embedding_size: usize,
}
