//! The discriminator of ELECTRA (Clark et al. 2020): embeddings that may be narrower than the layers, and a head of two linears
//! with GELU between them.

use serde::Deserialize;
use serde_json::json;

use super::post_norm::{BERT, PostNormSpec};
use super::{Activation, Architecture, Family, HeadSpec, absolute};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "electra",
    aliases: &[],
    synonyms: &[],
    defaults: || json!({"embedding_size": 128}),
    only: absolute,
    padding: |_| None,
    has_positions: |_| true,
    layout: |config| SPEC.layout(config),
    family: Family::PostNorm(&SPEC),
    tokenizer_class: "BertTokenizer",
};

static SPEC: PostNormSpec = PostNormSpec {
    prefix: "electra",
    stack: "encoder.layer",
    names: BERT,
    tables: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
    embedding: |config| Ok(config.own::<Settings>()?.embedding_size),
    projection: "electra.embeddings_project",
    relative: None,
    head: HeadSpec { activation: Activation::Gelu, ..HeadSpec::ROBERTA },
};

/// The keys of `config.json` that only this architecture has.
#[derive(Deserialize)]
struct Settings {
    embedding_size: usize,
}
