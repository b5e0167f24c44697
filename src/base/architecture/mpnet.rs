//! MPNet (Song et al. 2020): BERT's layers under other names, positions counted as in RoBERTa, RoBERTa's head, and a bias of the
//! attention scores by distance that all layers share.

use serde::Deserialize;
use serde_json::{Value, json};

use super::post_norm::{Names, PostNormSpec, Relative};
use super::{Architecture, Family, HeadSpec};
use crate::base::{BaseConfig, ModelError};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "mpnet",
    aliases: &[],
    synonyms: &[],
    defaults: || {
        json!({"vocab_size": 30527, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
               "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 0, "pad_token_id": 1,
               "relative_attention_num_buckets": BUCKETS})
    },
    only: Vec::<(&str, Value)>::new,
    padding: |_| Some(PADDING),
    has_positions: |_| true,
    layout: |config| SPEC.layout(config),
    family: Family::PostNorm(&SPEC),
    tokenizer_class: "MPNetTokenizer",
};

/// `MPNetEmbeddings` counts positions from this id, whatever `pad_token_id` says.
const PADDING: u32 = 1;

/// `MPNetEncoder` uses this many buckets, even if `relative_attention_num_buckets` gives the table more rows.
const BUCKETS: usize = 32;

static SPEC: PostNormSpec = PostNormSpec {
    prefix: "mpnet",
    stack: "encoder.layer",
    names: Names {
        linears: [
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
            "intermediate.dense",
            "output.dense",
        ],
        attention_norm: "attention.LayerNorm",
        output_norm: "output.LayerNorm",
        drops_attention: true,
    },
    tables: &["word_embeddings", "position_embeddings"],
    embedding: |config| Ok(config.hidden_size),
    projection: "",
    relative: Some(Relative { table: "encoder.relative_attention_bias", rows, row: bucket }),
    head: HeadSpec::ROBERTA,
};

/// The keys of `config.json` that only this architecture has.
#[derive(Deserialize)]
struct Settings {
    relative_attention_num_buckets: usize,
}

/// The number of rows of the bias table. Only the first [`BUCKETS`] are used.
fn rows(config: &BaseConfig) -> Result<usize, ModelError> {
    let rows = config.own::<Settings>()?.relative_attention_num_buckets;
    config.demand(rows >= BUCKETS, "relative_attention_num_buckets", format!("{BUCKETS} or more"), rows)?;
    Ok(rows)
}

/// The bucket of the distance `j - i` of key j from query i, as in T5 (`relative_position_bucket`). Half of the buckets are for
/// each side of the query. On each side, the first half of the buckets holds one distance each; the second half covers distances up
/// to 128 by their logarithm.
fn bucket(distance: i64) -> usize {
    const SIDE: usize = BUCKETS / 2;
    const EXACT: usize = SIDE / 2;
    let (side, far) = (if distance > 0 { SIDE } else { 0 }, distance.unsigned_abs() as usize);
    // log(far / 8) / log(128 / 8) * 8, rounded down, equals the binary logarithm of (far / 8)^2, rounded down.
    let within = if far < EXACT { far } else { EXACT + ((far * far).ilog2() - (EXACT * EXACT).ilog2()) as usize };
    side + within.min(SIDE - 1)
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// `relative_position_bucket(torch.arange(-600, 601))`, computed by transformers 5.23.0.
    #[test]
    fn buckets_match_transformers() {
        let golden = include_str!("../../../tests/goldens/mpnet_buckets.json");
        let golden: Vec<usize> = serde_json::from_str(golden).unwrap_or_default();
        assert_eq!(golden.len(), 1201);
        for (distance, expected) in (-600..).zip(golden) {
            assert_eq!(bucket(distance), expected, "{distance}");
        }
    }
}
