//! RoBERTa (Liu et al. 2019) and XLM-R: positions counted from the padding token's id, and a head of two linears.

use serde_json::json;

use super::post_norm::{BERT, PostNormSpec};
use super::{Architecture, Family, HeadSpec, absolute};

pub(super) const ROBERTA: Architecture = Architecture {
    model_type: "roberta",
    aliases: &[],
    synonyms: &[],
    defaults: || json!({"pad_token_id": 1}),
    only: absolute,
    // With -1, which is no token's id, positions are counted from 0.
    padding: |config| u32::try_from(config.pad_token_id.unwrap_or_default()).ok(),
    has_positions: |_| true,
    layout: |config| SPEC.layout(config),
    family: Family::PostNorm(&SPEC),
    tokenizer_class: "RobertaTokenizer",
};

/// The same encoder under another name, with another tokenizer.
pub(super) const XLM_ROBERTA: Architecture =
    Architecture { model_type: "xlm-roberta", tokenizer_class: "XLMRobertaTokenizer", ..ROBERTA };

static SPEC: PostNormSpec = PostNormSpec {
    prefix: "roberta",
    stack: "encoder.layer",
    names: BERT,
    tables: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
    embedding: |config| Ok(config.hidden_size),
    projection: "",
    relative: None,
    head: HeadSpec::ROBERTA,
};
