//! DeBERTa-v2 and v3 (He et al. 2021): the keys of `config.json` that only they have, their sites and their head.

use serde::Deserialize;
use serde_json::json;

use super::post_norm::{BERT, Names, modules};
use super::{Activation, Architecture, Family, HeadSpec};
use crate::base::{BaseConfig, ModelError};
use crate::params::{Input, Layout, Module};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "deberta-v2",
    aliases: &[("cls_dropout", "classifier_dropout")],
    synonyms: &[],
    defaults: || json!({"layer_norm_eps": 1e-7, "type_vocab_size": 0, "max_position_embeddings": 512, "pooler_dropout": 0.0}),
    only: || vec![("pooler_hidden_act", json!("gelu")), ("conv_groups", json!(1))],
    padding: |_| None,
    has_positions: |config| config.own::<Settings>().is_ok_and(|settings| settings.position_biased_input),
    layout,
    family: Family::Deberta,
    tokenizer_class: "DebertaV2Tokenizer",
};

pub(super) const PREFIX: &str = "deberta";

pub(crate) const NAMES: Names = Names {
    linears: [
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
    ..BERT
};

pub(crate) const HEAD: HeadSpec = HeadSpec {
    dense: "pooler.dense",
    dense_bias: true,
    activation: Activation::Gelu,
    norm: None,
    output: "classifier",
    drops_input: true,
};

pub(crate) const EMBED_PROJECTION: &str = "deberta.embeddings.embed_proj";

/// The keys of `config.json` that only this architecture has.
#[derive(Deserialize)]
pub(crate) struct Settings {
    #[serde(default)]
    pub(crate) relative_attention: bool,
    #[serde(default = "unset")]
    pub(crate) max_relative_positions: i64,
    #[serde(default = "unset")]
    pub(crate) position_buckets: i64,
    #[serde(default = "yes")]
    pub(crate) position_biased_input: bool,
    #[serde(default)]
    pub(crate) pos_att_type: Option<Kinds>,
    #[serde(default)]
    pub(crate) share_att_key: bool,
    #[serde(default)]
    pub(crate) norm_rel_ebd: Option<String>,
    #[serde(default)]
    pub(crate) conv_kernel_size: usize,
    #[serde(default)]
    pub(crate) conv_act: ConvActivation,
    pub(crate) embedding_size: Option<usize>,
    pub(crate) attention_head_size: Option<usize>,
    pub(crate) pooler_hidden_size: Option<usize>,
}

/// `"c2p|p2c"`, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Kinds {
    Joined(String),
    List(Vec<String>),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConvActivation {
    #[default]
    Tanh,
    Gelu,
    Relu,
}

fn unset() -> i64 {
    -1
}

fn yes() -> bool {
    true
}

impl Settings {
    pub(crate) fn read(config: &BaseConfig) -> std::result::Result<Self, ModelError> {
        let settings: Self = config.own()?;
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        for (key, found, expected) in [
            ("attention_head_size", settings.attention_head_size, hidden / heads),
            ("pooler_hidden_size", settings.pooler_hidden_size, hidden),
        ] {
            let found = found.unwrap_or(expected);
            config.demand(found == expected, key, expected.to_string(), found)?;
        }
        let kernel = settings.conv_kernel_size;
        config.demand(kernel == 0 || kernel % 2 == 1, "conv_kernel_size", "an odd number".to_owned(), kernel)?;
        Ok(settings)
    }

    pub(crate) fn attends(&self, kind: &str) -> bool {
        match &self.pos_att_type {
            None => false,
            Some(Kinds::Joined(joined)) => joined.to_lowercase().split('|').any(|each| each.trim() == kind),
            Some(Kinds::List(list)) => list.iter().any(|each| each == kind),
        }
    }

    /// The number of rows for relative positions on either side of 0.
    pub(crate) fn span(&self, config: &BaseConfig) -> usize {
        if self.position_buckets > 0 { self.position_buckets as usize } else { self.reach(config) }
    }

    pub(crate) fn reach(&self, config: &BaseConfig) -> usize {
        if self.max_relative_positions < 1 {
            config.max_position_embeddings
        } else {
            self.max_relative_positions as usize
        }
    }
}

pub(crate) fn layout(config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
    let settings = Settings::read(config)?;
    let hidden = config.hidden_size;
    let mut modules = modules(config, &NAMES);
    if settings.relative_attention && !settings.share_att_key {
        let own =
            |name, label| Module { name, label, in_features: hidden, out_features: hidden, input: Input::Positions };
        modules.extend(settings.attends("c2p").then(|| own("attention.self.pos_key_proj", "position key")));
        modules.extend(settings.attends("p2c").then(|| own("attention.self.pos_query_proj", "position query")));
    }
    let projects = settings.embedding_size.is_some_and(|width| width != hidden);
    let mut tables = vec!["deberta.embeddings.word_embeddings".to_owned()];
    tables.extend(settings.position_biased_input.then(|| "deberta.embeddings.position_embeddings".to_owned()));
    tables.extend((config.type_vocab_size > 0).then(|| "deberta.embeddings.token_type_embeddings".to_owned()));
    tables.extend(settings.relative_attention.then(|| "deberta.encoder.rel_embeddings".to_owned()));
    tables.extend((settings.conv_kernel_size > 0).then(|| "deberta.encoder.conv.conv".to_owned()));
    Ok(Layout {
        prefix: PREFIX,
        stack: "encoder.layer",
        layers: config.num_hidden_layers,
        modules,
        other_linears: projects
            .then(|| EMBED_PROJECTION.to_owned())
            .into_iter()
            .chain([HEAD.dense.to_owned()])
            .collect(),
        tables,
        head: HEAD.parameters(hidden),
        hidden,
    })
}
