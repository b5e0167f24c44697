//! ModernBERT (Warner et al. 2024): norms before the sublayers, rotary positions, a gated feed-forward, and layers that see either
//! a window or the whole text.

use candle_core::{Result, Tensor};

use super::fork::Texts;
use super::head::Classifier;
use super::layers::{Linear, Loader, Norm, Tables, dropped};
use super::{DropPoint, Encoder, Head, HeadJob, Hooks, Packed, first_tokens};
use crate::base::architecture::modernbert::{self, ATTENTION_OUTPUT, INTERMEDIATE, OUTPUT, Pooling, QKV, Settings};
use crate::base::{Base, BaseConfig, ModelError};
use crate::ops::{Heads, Ops};
use crate::params::{Backend, Frozen, Input, Layout, Point, Site};

/// A ModernBERT that reads a base's mapped weights.
pub(super) struct ModernBert {
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
    /// `None` for the first layer, whose input the embeddings have normed already.
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
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
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
            window: settings.window(index),
            theta: settings.theta(index),
            attention_norm: if index == 0 { None } else { Some(norm("attn_norm")?) },
            qkv,
            attention_output,
            output_norm: norm("mlp_norm")?,
            intermediate,
            output,
        })
    }

    fn forward(&self, mut x: Tensor, texts: &mut Texts, hooks: &dyn Hooks) -> Result<Tensor> {
        // Rows fork before the norm, because norming a row twice costs no more than copying it twice.
        texts.fork(self.index, Input::Attention, [&mut x])?;
        let normed =
            self.attention_norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.without_residual(&x, hooks))?;
        let qkv = self.qkv.forward(&normed, hooks)?;
        let part = |i: usize| qkv.narrow(1, i * self.hidden, self.hidden);
        let rotary = texts.rotary(self.hidden / self.heads, self.theta)?;
        let (q, k) = (self.ops.rotate(&part(0)?, &rotary)?, self.ops.rotate(&part(1)?, &rotary)?);
        let scale = 1.0 / ((self.hidden / self.heads) as f64).sqrt();
        let dropout = hooks.dropout(DropPoint::Attention(self.index));
        let heads =
            Heads { offsets: texts.offsets, heads: self.heads, scale, window: self.window, bias: None, dropout };
        let mut attended = self.ops.attention([&q, &k, &part(2)?], &heads)?;
        texts.fork(self.index, Input::AttentionOutput, [&mut x, &mut attended])?;
        let h = self.attention_output.forward(&attended, hooks)?;
        x = (x + dropped(h, DropPoint::AttentionOutput(self.index), self.ops, hooks)?)?;
        texts.fork(self.index, Input::FeedForward, [&mut x])?;
        let wide = self.intermediate.forward(&self.output_norm.without_residual(&x, hooks)?, hooks)?;
        let mut gated = self.ops.gated_gelu(&wide)?;
        texts.fork(self.index, Input::FeedForwardOutput, [&mut x, &mut gated])?;
        x + self.output.forward(&dropped(gated, DropPoint::Output(self.index), self.ops, hooks)?, hooks)?
    }
}

impl ModernBert {
    pub(super) fn open(base: &Base, backend: &Backend) -> std::result::Result<Self, ModelError> {
        let config = &base.config;
        let (mut layout, settings) = (modernbert::layout(config)?, Settings::read(config)?);
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
        let mut x = dropped(self.norm.without_residual(&sum, hooks)?, DropPoint::Embeddings, self.ops, hooks)?;
        let mut texts = Texts::new(&batch.offsets, self.ops, hooks);
        for layer in &self.layers {
            x = layer.forward(x, &mut texts, hooks)?;
        }
        self.final_norm.without_residual(&x, hooks)
    }

    fn first_tokens_from(&self) -> Option<Point> {
        match self.pooling {
            Pooling::Cls => {
                self.layers.len().checked_sub(1).map(|layer| Point { layer, input: Input::AttentionOutput })
            }
            Pooling::Mean => None,
        }
    }

    fn pool(&self, hidden: &Tensor, offsets: &[usize]) -> Result<Tensor> {
        match self.pooling {
            Pooling::Cls => first_tokens(hidden, offsets),
            Pooling::Mean => self.ops.mean(hidden, offsets),
        }
    }

    fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor> {
        self.classifier.logits(pooled, head, hooks)
    }

    fn heads(&self, pooled: &Tensor, jobs: &[HeadJob<'_>], hooks: &dyn Hooks) -> Result<Vec<Tensor>> {
        self.classifier.heads(pooled, jobs, hooks)
    }
}
