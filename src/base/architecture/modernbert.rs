//! ModernBERT (Warner et al. 2024): the keys of `config.json` that only it has, its sites and its head.

use serde::Deserialize;
use serde_json::json;

use super::{Activation, Architecture, Family, HeadSpec};
use crate::base::{BaseConfig, ModelError};
use crate::params::{Input, Layout, Module};
use crate::text::AS_IT_IS;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "modernbert",
    aliases: &[
        ("norm_eps", "layer_norm_eps"),
        ("hidden_activation", "hidden_act"),
        ("attention_dropout", "attention_probs_dropout_prob"),
        ("mlp_dropout", "hidden_dropout_prob"),
    ],
    synonyms: &[],
    defaults: || {
        json!({"layer_norm_eps": 1e-5, "type_vocab_size": 0, "hidden_dropout_prob": 0.0, "classifier_dropout": 0.0,
               "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 8192})
    },
    only: || vec![("classifier_activation", json!("gelu"))],
    padding: |_| None,
    has_positions: |_| false,
    layout,
    family: Family::ModernBert,
    // `transformers` ignores the class that a ModernBERT names.
    tokenizer_class: AS_IT_IS,
};

pub(super) const PREFIX: &str = "model";

pub(crate) const QKV: usize = 0;
pub(crate) const ATTENTION_OUTPUT: usize = 1;
pub(crate) const INTERMEDIATE: usize = 2;
pub(crate) const OUTPUT: usize = 3;

/// The keys of `config.json` that only this architecture has.
#[derive(Deserialize)]
pub(crate) struct Settings {
    #[serde(default)]
    layer_types: Option<Vec<LayerType>>,
    #[serde(default = "three")]
    global_attn_every_n_layers: usize,
    #[serde(default = "window")]
    local_attention: usize,
    #[serde(default)]
    sliding_window: Option<usize>,
    #[serde(default)]
    rope_parameters: Option<Ropes>,
    /// The form in older files, for both types of layers.
    #[serde(default)]
    rope_scaling: Option<Rope>,
    #[serde(default)]
    global_rope_theta: Option<f64>,
    #[serde(default)]
    local_rope_theta: Option<f64>,
    #[serde(default)]
    pub(crate) norm_bias: bool,
    #[serde(default)]
    pub(crate) attention_bias: bool,
    #[serde(default)]
    pub(crate) mlp_bias: bool,
    #[serde(default)]
    pub(crate) classifier_bias: bool,
    #[serde(default)]
    pub(crate) classifier_pooling: Pooling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

/// Rotary settings by type of layer, the form in newer files.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ropes {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(default, alias = "type")]
    rope_type: RopeType,
    rope_theta: Option<f64>,
}

/// The only supported type. Other types stretch the positions; a file that names one is rejected when it is read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RopeType {
    #[default]
    Default,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pooling {
    #[default]
    Cls,
    Mean,
}

fn three() -> usize {
    3
}

fn window() -> usize {
    128
}

impl Settings {
    pub(crate) fn read(config: &BaseConfig) -> std::result::Result<Self, ModelError> {
        let settings: Self = config.own()?;
        let layers = config.num_hidden_layers;
        let listed = settings.layer_types.as_ref().map_or(layers, Vec::len);
        config.demand(listed == layers, "layer_types", format!("{layers} of them"), listed)?;
        let every = settings.global_attn_every_n_layers;
        config.demand(every > 0, "global_attn_every_n_layers", "1 or more".to_owned(), every)?;
        let heads = 2 * config.num_attention_heads;
        let even = config.hidden_size.is_multiple_of(heads);
        config.demand(even, "hidden_size", format!("a multiple of {heads}"), config.hidden_size)?;
        Ok(settings)
    }

    fn layer_type(&self, layer: usize) -> LayerType {
        match &self.layer_types {
            Some(types) => types[layer],
            None if layer.is_multiple_of(self.global_attn_every_n_layers) => LayerType::FullAttention,
            None => LayerType::SlidingAttention,
        }
    }

    /// The greatest distance of two tokens that see each other, or `None` where all do. `local_attention` counts the tokens on both
    /// sides. Where a file has both keys, `transformers` lets `sliding_window` win.
    pub(crate) fn window(&self, layer: usize) -> Option<usize> {
        let window = self.sliding_window.unwrap_or(self.local_attention / 2);
        (self.layer_type(layer) == LayerType::SlidingAttention).then_some(window)
    }

    /// The base of the rotary angles. Where several keys give one, they win in the order in which `transformers` lets them.
    pub(crate) fn theta(&self, layer: usize) -> f64 {
        let ropes = self.rope_parameters.as_ref();
        let (rope, key, default) = match self.layer_type(layer) {
            LayerType::FullAttention => {
                (ropes.and_then(|r| r.full_attention.as_ref()), self.global_rope_theta, 160_000.0)
            }
            LayerType::SlidingAttention => {
                (ropes.and_then(|r| r.sliding_attention.as_ref()), self.local_rope_theta, 10_000.0)
            }
        };
        let of = |rope: &Rope| match rope.rope_type {
            RopeType::Default => rope.rope_theta,
        };
        self.rope_scaling.as_ref().and_then(of).or(rope.and_then(of)).or(key).unwrap_or(default)
    }

    pub(crate) fn head(&self) -> HeadSpec {
        HeadSpec {
            dense: "head.dense",
            dense_bias: self.classifier_bias,
            activation: Activation::Gelu,
            norm: Some(("head.norm", self.norm_bias)),
            output: "classifier",
            drops_input: false,
        }
    }
}

pub(crate) fn layout(config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
    let head = Settings::read(config)?.head();
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let module =
        |name, label, in_features, out_features, input| Module { name, label, in_features, out_features, input };
    Ok(Layout {
        prefix: PREFIX,
        stack: "layers",
        layers: config.num_hidden_layers,
        modules: vec![
            module("attn.Wqkv", "qkv", hidden, 3 * hidden, Input::Attention),
            module("attn.Wo", "attention output", hidden, hidden, Input::AttentionOutput),
            module("mlp.Wi", "intermediate", hidden, 2 * wide, Input::FeedForward),
            module("mlp.Wo", "output", wide, hidden, Input::FeedForwardOutput),
        ],
        other_linears: vec![head.dense.to_owned()],
        tables: vec!["model.embeddings.tok_embeddings".to_owned()],
        head: head.parameters(hidden),
        hidden,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    /// `transformers` 5.23 gave the expected values, as `ModernBertConfig(**keys)`.
    #[test]
    fn windows_and_rotary_bases_equal_those_of_transformers() {
        let rope = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
        let cases = [
            (json!({}), 64, 160_000.0, 10_000.0),
            (json!({"local_attention": 7}), 3, 160_000.0, 10_000.0),
            (json!({"sliding_window": 5}), 5, 160_000.0, 10_000.0),
            (json!({"sliding_window": 5, "local_attention": 64}), 5, 160_000.0, 10_000.0),
            (json!({"global_rope_theta": 7.0, "local_rope_theta": 3.0}), 64, 7.0, 3.0),
            (json!({"rope_parameters": {"full_attention": rope(9.0)}, "global_rope_theta": 7.0}), 64, 9.0, 10_000.0),
            (json!({"rope_scaling": rope(5.0)}), 64, 5.0, 5.0),
            (json!({"rope_scaling": {"rope_type": "default"}}), 64, 160_000.0, 10_000.0),
            (json!({"rope_parameters": {"full_attention": rope(9.0)}, "rope_scaling": rope(5.0)}), 64, 5.0, 5.0),
        ];
        for (keys, window, full, sliding) in cases {
            let mut config = json!({
                "model_type": "modernbert", "vocab_size": 1, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                "intermediate_size": 8,
            });
            for (key, value) in keys.as_object().into_iter().flatten() {
                config[key] = value.clone();
            }
            let config = BaseConfig::parse(Path::new("config.json"), config).unwrap();
            let settings = Settings::read(&config).unwrap();
            assert_eq!((settings.window(0), settings.window(1)), (None, Some(window)), "{keys}");
            assert_eq!((settings.theta(0), settings.theta(1)), (full, sliding), "{keys}");
        }
    }
}
