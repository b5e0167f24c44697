//! The encoder of the original Transformer, with norms after the residuals: BERT and the models that differ from it only in names,
//! positions, the width of the embeddings, a bias by distance, and heads.

use candle_core::{Result, Tensor};

use super::fork::Texts;
use super::head::Classifier;
use super::layers::{Linear, Loader, Norm, Tables, dropped, forward_qkv, resolve};
use super::{DropPoint, Encoder, Head, HeadJob, Hooks, Packed};
use crate::base::architecture::{
    ATTENTION_OUTPUT, INTERMEDIATE, KEY, Names, OUTPUT, PostNormSpec, QUERY, Relative, VALUE,
};
use crate::base::{Base, BaseConfig, ModelError};
use crate::ops::{Heads, Ops};
use crate::params::{Backend, Frozen, Input, Layout, Point, Site};

/// The bias `[heads, 2 n - 1]` for texts of up to `longest` = n tokens, in the form of [`Heads::bias`].
fn bias(relative: &Relative, table: &Frozen, longest: usize, hooks: &dyn Hooks) -> Result<Tensor> {
    let table = resolve(table, hooks)?.tensor()?;
    let farthest = longest.saturating_sub(1) as i64;
    let rows: Vec<u32> = (-farthest..=farthest).map(|distance| (relative.row)(distance) as u32).collect();
    table.index_select(&Tensor::new(rows, table.device())?, 0)?.t()?.contiguous()
}

/// An encoder with norms after the residuals that reads a base's mapped weights.
pub(super) struct PostNorm {
    ops: &'static dyn Ops,
    /// The id of the padding token, if positions are counted from it.
    padding: Option<u32>,
    layout: Layout,
    tables: Tables,
    norm: Norm,
    projection: Option<Linear>,
    /// The bias by distance and its table.
    relative: Option<(&'static Relative, Frozen)>,
    layers: Vec<Layer>,
    classifier: Classifier,
    parameters: Vec<Frozen>,
}

impl PostNorm {
    pub(super) fn open(
        spec: &'static PostNormSpec,
        base: &Base,
        backend: &Backend,
    ) -> std::result::Result<Self, ModelError> {
        let config = &base.config;
        let (mut layout, width, eps) = (spec.layout(config)?, (spec.embedding)(config)?, config.layer_norm_eps);
        let mut loader = Loader::new(&base.weights, backend);
        let rows = [config.vocab_size, config.max_position_embeddings, config.type_vocab_size];
        let mut tables = spec.tables.iter().zip(rows).map(|(table, rows)| {
            loader.take(&format!("{}.embeddings.{table}.weight", spec.prefix), &[rows, width]).map(Some)
        });
        let mut table = || tables.next().unwrap_or(Ok(None));
        let (words, positions, types) = (table()?, table()?, table()?);
        let missing = || ModelError::MissingTensor { path: base.dir.clone(), tensor: "word_embeddings".to_owned() };
        let tables = Tables { words: words.ok_or_else(missing)?, positions, types, backend: backend.clone() };
        let norm = loader.norm(&format!("{}.embeddings.LayerNorm", spec.prefix), width, eps, true)?;
        let projection = if width == config.hidden_size {
            None
        } else {
            Some(loader.linear(spec.projection, (config.hidden_size, width), true)?)
        };
        let relative = match &spec.relative {
            Some(relative) => {
                let name = format!("{}.{}.weight", spec.prefix, relative.table);
                let shape = [(relative.rows)(config)?, config.num_attention_heads];
                Some((relative, loader.take(&name, &shape)?))
            }
            None => None,
        };
        let layer = |index| Layer::load(&mut loader, &layout, config, &spec.names, index);
        let layers = (0..layout.layers).map(layer).collect::<std::result::Result<_, _>>()?;
        let classifier = Classifier::open(spec.head, &mut loader, &mut layout, eps)?;
        let (padding, ops, parameters) = (config.padding(), loader.ops(), loader.taken());
        Ok(Self { ops, padding, layout, tables, norm, projection, relative, layers, classifier, parameters })
    }
}

impl Encoder for PostNorm {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn parameters(&self) -> &[Frozen] {
        &self.parameters
    }

    fn forward(&self, batch: &Packed, hooks: &dyn Hooks) -> Result<Tensor> {
        let positions = match self.padding {
            Some(padding) => batch.positions_after(padding),
            None => batch.positions(),
        };
        let sum = self.tables.sum(batch, &positions, hooks)?;
        let mut x = dropped(self.norm.without_residual(&sum, hooks)?, DropPoint::Embeddings, self.ops, hooks)?;
        if let Some(projection) = &self.projection {
            x = projection.forward(&x, hooks)?;
        }
        let bias = match &self.relative {
            Some((relative, table)) => Some(bias(relative, table, batch.longest(), hooks)?),
            None => None,
        };
        let mut texts = Texts::new(&batch.offsets, self.ops, hooks);
        for layer in &self.layers {
            x = layer.forward(x, &mut texts, bias.as_ref(), hooks)?;
        }
        Ok(x)
    }

    fn first_tokens_from(&self) -> Option<Point> {
        self.layers.len().checked_sub(1).map(|layer| Point { layer, input: Input::AttentionOutput })
    }

    fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor> {
        self.classifier.logits(pooled, head, hooks)
    }

    fn heads(&self, pooled: &Tensor, jobs: &[HeadJob<'_>], hooks: &dyn Hooks) -> Result<Vec<Tensor>> {
        self.classifier.heads(pooled, jobs, hooks)
    }
}

/// A layer.
struct Layer {
    heads: usize,
    scale: f64,
    query: Linear,
    key: Linear,
    value: Linear,
    rest: PostAttention,
}

impl Layer {
    fn load(
        loader: &mut Loader,
        layout: &Layout,
        config: &BaseConfig,
        names: &Names,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        let sites = [QUERY, KEY, VALUE].map(|module| Site { layer: index, module });
        let [query, key, value] = loader.sites(layout, sites, true)?;
        let heads = config.num_attention_heads;
        let scale = 1.0 / ((config.hidden_size / heads) as f64).sqrt();
        Ok(Self { heads, scale, query, key, value, rest: PostAttention::load(loader, layout, config, names, index)? })
    }

    fn forward(&self, mut x: Tensor, texts: &mut Texts, bias: Option<&Tensor>, hooks: &dyn Hooks) -> Result<Tensor> {
        texts.fork(self.rest.index, Input::Attention, [&mut x])?;
        let [q, k, v] = forward_qkv([&self.query, &self.key, &self.value], &x, hooks)?;
        let dropout = hooks.dropout(DropPoint::Attention(self.rest.index));
        let heads = Heads { offsets: texts.offsets, heads: self.heads, scale: self.scale, window: None, bias, dropout };
        self.rest.forward(x, self.rest.ops.attention([&q, &k, &v], &heads)?, texts, hooks)
    }
}

/// The part of a layer after its attention, with both norms.
pub(super) struct PostAttention {
    pub(super) ops: &'static dyn Ops,
    index: usize,
    drops_attention: bool,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

impl PostAttention {
    pub(super) fn load(
        loader: &mut Loader,
        layout: &Layout,
        config: &BaseConfig,
        names: &Names,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        let mut site = |module| loader.site(layout, Site { layer: index, module }, true);
        let [attention_output, intermediate, output] = [site(ATTENTION_OUTPUT)?, site(INTERMEDIATE)?, site(OUTPUT)?];
        let stem = format!("{}.{}.{index}", layout.prefix, layout.stack);
        let mut norm = |name| loader.norm(&format!("{stem}.{name}"), config.hidden_size, config.layer_norm_eps, true);
        let (attention_norm, output_norm) = (norm(names.attention_norm)?, norm(names.output_norm)?);
        let drops_attention = names.drops_attention;
        Ok(Self {
            ops: loader.ops(),
            index,
            drops_attention,
            attention_output,
            attention_norm,
            intermediate,
            output,
            output_norm,
        })
    }

    /// Runs the rest of the layer. `x [T, hidden]` is the layer's input, `attended [T, hidden]` the output of its attention.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        mut attended: Tensor,
        texts: &mut Texts,
        hooks: &dyn Hooks,
    ) -> Result<Tensor> {
        texts.fork(self.index, Input::AttentionOutput, [&mut x, &mut attended])?;
        let mut h = self.attention_output.forward(&attended, hooks)?;
        if self.drops_attention {
            h = dropped(h, DropPoint::AttentionOutput(self.index), self.ops, hooks)?;
        }
        x = self.attention_norm.forward(&h, &x, hooks)?;
        texts.fork(self.index, Input::FeedForward, [&mut x])?;
        h = self.intermediate.forward_gelu(&x, hooks)?;
        texts.fork(self.index, Input::FeedForwardOutput, [&mut x, &mut h])?;
        h = dropped(self.output.forward(&h, hooks)?, DropPoint::Output(self.index), self.ops, hooks)?;
        self.output_norm.forward(&h, &x, hooks)
    }
}
