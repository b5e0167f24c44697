//! DistilBERT (Sanh et al. 2019): names of its own, no segments, and a head of two linears with ReLU between them.

use serde_json::json;

use super::post_norm::{Names, PostNormSpec};
use super::{Activation, Architecture, Family, HeadSpec};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "distilbert",
    aliases: &[
        ("dim", "hidden_size"),
        ("n_heads", "num_attention_heads"),
        ("n_layers", "num_hidden_layers"),
        ("hidden_dim", "intermediate_size"),
        ("activation", "hidden_act"),
        ("dropout", "hidden_dropout_prob"),
        ("attention_dropout", "attention_probs_dropout_prob"),
        ("seq_classif_dropout", "classifier_dropout"),
    ],
    synonyms: &["hidden_size", "num_attention_heads", "num_hidden_layers"],
    defaults: || {
        json!({"vocab_size": 30522, "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 6,
               "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 0, "classifier_dropout": 0.2})
    },
    // Its configuration has no key for the norms' epsilon.
    only: || vec![("layer_norm_eps", json!(1e-12))],
    padding: |_| None,
    has_positions: |_| true,
    layout: |config| SPEC.layout(config),
    family: Family::PostNorm(&SPEC),
    tokenizer_class: "BertTokenizer",
};

static SPEC: PostNormSpec = PostNormSpec {
    prefix: "distilbert",
    stack: "transformer.layer",
    names: Names {
        linears: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"],
        attention_norm: "sa_layer_norm",
        output_norm: "output_layer_norm",
        drops_attention: false,
    },
    tables: &["word_embeddings", "position_embeddings"],
    embedding: |config| Ok(config.hidden_size),
    projection: "",
    relative: None,
    head: HeadSpec {
        dense: "pre_classifier",
        dense_bias: true,
        activation: Activation::Relu,
        norm: None,
        output: "classifier",
        drops_input: false,
    },
};
