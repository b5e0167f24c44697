//! ModernBERT (Warner et al. 2024): norms before the residuals, rotary positions, gated feed-forward, layers that see a window
//! or the whole text.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::fork::Texts;
use super::head::{Activation, Classifier, Shape};
use super::layers::{Linear, Loader, Norm, Tables, dropped};
use super::{Architecture, DropPoint, Encoder, Head, Hooks, Packed, first_tokens};
use crate::model::{Base, BaseConfig, ModelError};
use crate::ops::{Heads, Ops};
use crate::params::{Backend, Frozen, Layout, Module, Site};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "modernbert",
    aliases: &[
        ("norm_eps", "layer_norm_eps"),
        ("hidden_activation", "hidden_act"),
        ("attention_dropout", "attention_probs_dropout_prob"),
        ("mlp_dropout", "hidden_dropout_prob"),
    ],
    defaults: || {
        json!({"layer_norm_eps": 1e-5, "type_vocab_size": 0, "hidden_dropout_prob": 0.0, "classifier_dropout": 0.0,
               "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 8192})
    },
    only: || vec![("classifier_activation", json!("gelu"))],
    padding: |_| None,
    layout,
    open: |base, backend| Ok(Arc::new(ModernBert::open(base, backend)?)),
};

const QKV: usize = 0;
const ATTENTION_OUTPUT: usize = 1;
const INTERMEDIATE: usize = 2;
const OUTPUT: usize = 3;

/// Keys of its own.
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    layer_types: Option<Vec<LayerType>>,
    #[serde(default = "three")]
    global_attn_every_n_layers: usize,
    #[serde(default = "window")]
    local_attention: usize,
    #[serde(default)]
    rope_parameters: Option<Ropes>,
    /// As older files have it, for layers of both kinds.
    #[serde(default, rename = "rope_scaling")]
    _rope_scaling: Option<Rope>,
    #[serde(default)]
    global_rope_theta: Option<f64>,
    #[serde(default)]
    local_rope_theta: Option<f64>,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    classifier_bias: bool,
    #[serde(default)]
    classifier_pooling: Pooling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

/// Rotary settings by kind of layer, as newer files have them.
#[derive(Default, Deserialize)]
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

/// Other types stretch the positions; files that ask for them are refused where they are read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RopeType {
    #[default]
    Default,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Pooling {
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
    fn read(config: &BaseConfig) -> std::result::Result<Self, ModelError> {
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

    fn theta(&self, kind: LayerType) -> f64 {
        let ropes = self.rope_parameters.as_ref();
        let (rope, key, default) = match kind {
            LayerType::FullAttention => {
                (ropes.and_then(|r| r.full_attention.as_ref()), self.global_rope_theta, 160_000.0)
            }
            LayerType::SlidingAttention => {
                (ropes.and_then(|r| r.sliding_attention.as_ref()), self.local_rope_theta, 10_000.0)
            }
        };
        let theta = rope.and_then(|rope| match rope.rope_type {
            RopeType::Default => rope.rope_theta,
        });
        theta.or(key).unwrap_or(default)
    }

    fn head(&self) -> Shape {
        Shape {
            dense: "head.dense",
            dense_bias: self.classifier_bias,
            activation: Activation::Gelu,
            norm: Some(("head.norm", self.norm_bias)),
            output: "classifier",
            drops_input: false,
        }
    }
}

fn layout(config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
    let head = Settings::read(config)?.head();
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let module =
        |name, label, in_features, out_features, input| Module { name, label, in_features, out_features, input };
    Ok(Layout {
        prefix: "model",
        stack: "layers",
        layers: config.num_hidden_layers,
        modules: vec![
            module("attn.Wqkv", "qkv", hidden, 3 * hidden, 0),
            module("attn.Wo", "attention output", hidden, hidden, 1),
            module("mlp.Wi", "intermediate", hidden, 2 * wide, 2),
            module("mlp.Wo", "output", wide, hidden, 3),
        ],
        other_linears: vec![head.dense.to_owned()],
        tables: vec!["model.embeddings.tok_embeddings".to_owned()],
        head: head.parameters(hidden),
        hidden,
    })
}

/// A ModernBERT over a base's mapping.
struct ModernBert {
    ops: &'static dyn Ops,
    layout: Layout,
    pooling: Pooling,
    tables: Tables,
    norm: Norm,
    layers: Vec<Layer>,
    final_norm: Norm,
    classifier: Classifier,
    parameters: Vec<Frozen>,
}

struct Layer {
    ops: &'static dyn Ops,
    index: usize,
    heads: usize,
    hidden: usize,
    window: Option<usize>,
    theta: f64,
    /// The first layer's input is normed already.
    attention_norm: Option<Norm>,
    qkv: Linear,
    attention_output: Linear,
    output_norm: Norm,
    intermediate: Linear,
    output: Linear,
}

impl Layer {
    fn load(
        loader: &mut Loader,
        layout: &Layout,
        config: &BaseConfig,
        settings: &Settings,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        let (hidden, eps, kind) = (config.hidden_size, config.layer_norm_eps, settings.layer_type(index));
        let ops = loader.ops();
        let mut site = |module, biased| loader.site(layout, Site { layer: index, module }, biased);
        let [qkv, attention_output] =
            [site(QKV, settings.attention_bias)?, site(ATTENTION_OUTPUT, settings.attention_bias)?];
        let [intermediate, output] = [site(INTERMEDIATE, settings.mlp_bias)?, site(OUTPUT, settings.mlp_bias)?];
        let mut norm = |name: &str| {
            loader.norm(&format!("{}.{}.{index}.{name}", layout.prefix, layout.stack), hidden, eps, settings.norm_bias)
        };
        Ok(Self {
            ops,
            index,
            heads: config.num_attention_heads,
            hidden,
            // `local_attention` counts both sides.
            window: (kind == LayerType::SlidingAttention).then_some(settings.local_attention / 2),
            theta: settings.theta(kind),
            attention_norm: if index == 0 { None } else { Some(norm("attn_norm")?) },
            qkv,
            attention_output,
            output_norm: norm("mlp_norm")?,
            intermediate,
            output,
        })
    }

    fn forward(&self, mut x: Tensor, texts: &mut Texts, hooks: &dyn Hooks) -> Result<Tensor> {
        // Before the norms: to norm a row twice costs no more than to copy it twice.
        texts.fork(self.index, 0, [&mut x])?;
        let normed = self.attention_norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.alone(&x, hooks))?;
        let qkv = self.qkv.forward(&normed, hooks)?;
        let part = |i: usize| qkv.narrow(1, i * self.hidden, self.hidden);
        let rotary = texts.rotary(self.hidden / self.heads, self.theta)?;
        let (q, k) = (self.ops.rotate(&part(0)?, &rotary)?, self.ops.rotate(&part(1)?, &rotary)?);
        let scale = 1.0 / ((self.hidden / self.heads) as f64).sqrt();
        let dropout = hooks.dropout(DropPoint::Attention(self.index));
        let heads =
            Heads { offsets: texts.offsets, heads: self.heads, scale, window: self.window, bias: None, dropout };
        let mut attended = self.ops.attention([&q, &k, &part(2)?], &heads)?;
        texts.fork(self.index, 1, [&mut x, &mut attended])?;
        let h = self.attention_output.forward(&attended, hooks)?;
        x = (x + dropped(h, DropPoint::AttentionOutput(self.index), self.ops, hooks)?)?;
        texts.fork(self.index, 2, [&mut x])?;
        let wide = self.intermediate.forward(&self.output_norm.alone(&x, hooks)?, hooks)?;
        let mut gated = self.ops.gated_gelu(&wide)?;
        texts.fork(self.index, 3, [&mut x, &mut gated])?;
        x + self.output.forward(&dropped(gated, DropPoint::Output(self.index), self.ops, hooks)?, hooks)?
    }
}

impl ModernBert {
    fn open(base: &Base, backend: &Backend) -> std::result::Result<Self, ModelError> {
        let config = &base.config;
        let (mut layout, settings) = (layout(config)?, Settings::read(config)?);
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
        let mut loader = Loader::new(&base.weights, backend);
        let words = loader.take("model.embeddings.tok_embeddings.weight", &[config.vocab_size, hidden])?;
        let tables = Tables { words, positions: None, types: None, backend: backend.clone() };
        let norm = loader.norm("model.embeddings.norm", hidden, eps, settings.norm_bias)?;
        let layers = (0..layout.layers).map(|index| Layer::load(&mut loader, &layout, config, &settings, index));
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        let final_norm = loader.norm("model.final_norm", hidden, eps, settings.norm_bias)?;
        let classifier = Classifier::open(settings.head(), &mut loader, &mut layout, eps)?;
        let (pooling, ops, parameters) = (settings.classifier_pooling, loader.ops(), loader.taken());
        Ok(Self { ops, layout, pooling, tables, norm, layers, final_norm, classifier, parameters })
    }
}

impl Encoder for ModernBert {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn parameters(&self) -> &[Frozen] {
        &self.parameters
    }

    fn forward(&self, batch: &Packed, hooks: &dyn Hooks) -> Result<Tensor> {
        let sum = self.tables.sum(batch, &[], hooks)?;
        let mut x = dropped(self.norm.alone(&sum, hooks)?, DropPoint::Embeddings, self.ops, hooks)?;
        let mut texts = Texts::new(&batch.offsets, hooks);
        for layer in &self.layers {
            x = layer.forward(x, &mut texts, hooks)?;
        }
        self.final_norm.alone(&x, hooks)
    }

    fn pool(&self, hidden: &Tensor, offsets: &[usize]) -> Result<Tensor> {
        match self.pooling {
            Pooling::Cls => first_tokens(hidden, offsets),
            Pooling::Mean => {
                let mean = |span: &[usize]| hidden.narrow(0, span[0], span[1] - span[0])?.mean_keepdim(0);
                Tensor::cat(&offsets.windows(2).map(mean).collect::<Result<Vec<_>>>()?, 0)
            }
        }
    }

    fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor> {
        self.classifier.logits(pooled, head, hooks)
    }
}
