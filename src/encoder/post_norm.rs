//! The encoder of the original Transformer, norms after the residuals: BERT, and all that differ from it in names, positions,
//! the width of their embeddings, a bias by distance and their heads.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::fork::Texts;
use super::head::{Classifier, Shape};
use super::layers::{Linear, Loader, Norm, Tables, dropped, forward_qkv, resolve};
use super::{DropPoint, Encoder, Head, Hooks, Packed};
use crate::model::{Base, BaseConfig, ModelError};
use crate::ops::{Heads, Ops};
use crate::params::{Backend, Frozen, Layout, Module, Site};

/// The modules of a layer, in the order in which every layout here lists them.
pub(super) const QUERY: usize = 0;
pub(super) const KEY: usize = 1;
pub(super) const VALUE: usize = 2;
const ATTENTION_OUTPUT: usize = 3;
const INTERMEDIATE: usize = 4;
const OUTPUT: usize = 5;

/// What a layer's parameters are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// The six linears: query, key, value, the attention's output, into and out of the feed-forward.
    pub(super) linears: [&'static str; 6],
    /// The norm after attention.
    pub(super) attention_norm: &'static str,
    /// The norm after the feed-forward.
    pub(super) output_norm: &'static str,
    /// Whether the attention's output is dropped in training.
    pub(super) drops_attention: bool,
}

/// BERT's names, which most follow.
pub(super) const BERT: Names = Names {
    linears: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
    attention_norm: "attention.output.LayerNorm",
    output_norm: "output.LayerNorm",
    drops_attention: true,
};

/// What tells one such encoder from another.
pub(super) struct Spec {
    /// What stands before its names, `bert`.
    pub(super) prefix: &'static str,
    /// Where its layers are, `encoder.layer`.
    pub(super) stack: &'static str,
    /// What is in them.
    pub(super) names: Names,
    /// Its tables in `embeddings`: words, positions, and perhaps segments.
    pub(super) tables: &'static [&'static str],
    /// Width of its embeddings, and the linear that brings them to the hidden size where they differ.
    pub(super) embedding: fn(&BaseConfig) -> std::result::Result<usize, ModelError>,
    pub(super) projection: &'static str,
    /// What its layers add to their scores by distance, where they do.
    pub(super) relative: Option<Relative>,
    /// Its classifier.
    pub(super) head: Shape,
}

/// A bias of attention scores by head and distance, one for all layers.
pub(super) struct Relative {
    /// The table `[rows, heads]`, `encoder.relative_attention_bias`.
    pub(super) table: &'static str,
    /// Its rows.
    pub(super) rows: fn(&BaseConfig) -> std::result::Result<usize, ModelError>,
    /// The row of the distance `j - i` of key j from query i.
    pub(super) row: fn(i64) -> usize,
}

impl Relative {
    /// The bias `[heads, 2 n - 1]` of texts of up to `longest` = n tokens, as [`Heads::bias`] takes it.
    fn bias(&self, table: &Frozen, longest: usize, hooks: &dyn Hooks) -> Result<Tensor> {
        let table = resolve(table, hooks)?.tensor()?;
        let farthest = longest.saturating_sub(1) as i64;
        let rows: Vec<u32> = (-farthest..=farthest).map(|distance| (self.row)(distance) as u32).collect();
        table.index_select(&Tensor::new(rows, table.device())?, 0)?.t()?.contiguous()
    }
}

/// The six linears of each layer.
pub(super) fn modules(config: &BaseConfig, names: &Names) -> Vec<Module> {
    const LABELS: [&str; 6] = ["query", "key", "value", "attention output", "intermediate", "output"];
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let square = |input| (hidden, hidden, input);
    let shapes = [square(0), square(0), square(0), square(1), (hidden, wide, 2), (wide, hidden, 3)];
    let module =
        |((name, label), (in_features, out_features, input))| Module { name, label, in_features, out_features, input };
    names.linears.into_iter().zip(LABELS).zip(shapes).map(module).collect()
}

/// The sites of such an encoder.
pub(super) fn layout(spec: &Spec, config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
    let projects = (spec.embedding)(config)? != config.hidden_size;
    let mut other_linears: Vec<String> = projects.then(|| spec.projection.to_owned()).into_iter().collect();
    // What lies under `classifier` is never a target to PEFT.
    if !spec.head.dense.starts_with("classifier.") {
        other_linears.push(spec.head.dense.to_owned());
    }
    Ok(Layout {
        prefix: spec.prefix,
        stack: spec.stack,
        layers: config.num_hidden_layers,
        modules: modules(config, &spec.names),
        other_linears,
        tables: spec
            .tables
            .iter()
            .map(|table| format!("{}.embeddings.{table}", spec.prefix))
            .chain(spec.relative.iter().map(|relative| format!("{}.{}", spec.prefix, relative.table)))
            .collect(),
        head: spec.head.parameters(config.hidden_size),
        hidden: config.hidden_size,
    })
}

/// Such an encoder over a base's mapping.
pub(super) struct PostNorm {
    ops: &'static dyn Ops,
    /// The token from whose id positions are counted, where they are.
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
        spec: &'static Spec,
        base: &Base,
        backend: &Backend,
    ) -> std::result::Result<Arc<dyn Encoder>, ModelError> {
        let config = &base.config;
        let (mut layout, width, eps) = (layout(spec, config)?, (spec.embedding)(config)?, config.layer_norm_eps);
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
        let projection = match width == config.hidden_size {
            true => None,
            false => Some(loader.linear(spec.projection, (config.hidden_size, width), true)?),
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
        Ok(Arc::new(Self { ops, padding, layout, tables, norm, projection, relative, layers, classifier, parameters }))
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
        let mut x = dropped(self.norm.alone(&sum, hooks)?, DropPoint::Embeddings, self.ops, hooks)?;
        if let Some(projection) = &self.projection {
            x = projection.forward(&x, hooks)?;
        }
        let bias = match &self.relative {
            Some((relative, table)) => Some(relative.bias(table, batch.longest(), hooks)?),
            None => None,
        };
        let mut texts = Texts::new(&batch.offsets, hooks);
        for layer in &self.layers {
            x = layer.forward(x, &mut texts, bias.as_ref(), hooks)?;
        }
        Ok(x)
    }

    fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor> {
        self.classifier.logits(pooled, head, hooks)
    }
}

/// A layer.
struct Layer {
    heads: usize,
    scale: f64,
    query: Linear,
    key: Linear,
    value: Linear,
    rest: Rest,
}

impl Layer {
    fn load(
        loader: &mut Loader,
        layout: &Layout,
        config: &BaseConfig,
        names: &Names,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        let mut site = |module| loader.site(layout, Site { layer: index, module }, true);
        let [query, key, value] = [site(QUERY)?, site(KEY)?, site(VALUE)?];
        let heads = config.num_attention_heads;
        let scale = 1.0 / ((config.hidden_size / heads) as f64).sqrt();
        Ok(Self { heads, scale, query, key, value, rest: Rest::load(loader, layout, config, names, index)? })
    }

    fn forward(&self, mut x: Tensor, texts: &mut Texts, bias: Option<&Tensor>, hooks: &dyn Hooks) -> Result<Tensor> {
        texts.fork(self.rest.index, 0, [&mut x])?;
        let [q, k, v] = forward_qkv([&self.query, &self.key, &self.value], &x, hooks)?;
        let dropout = hooks.dropout(DropPoint::Attention(self.rest.index));
        let heads = Heads { offsets: texts.offsets, heads: self.heads, scale: self.scale, window: None, bias, dropout };
        self.rest.forward(x, self.rest.ops.attention([&q, &k, &v], &heads)?, texts, hooks)
    }
}

/// All of a layer that follows its attention, with both norms.
pub(super) struct Rest {
    pub(super) ops: &'static dyn Ops,
    index: usize,
    drops_attention: bool,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

impl Rest {
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

    /// `x [T, hidden]` went into the layer, `attended [T, hidden]` came out of its attention.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        mut attended: Tensor,
        texts: &mut Texts,
        hooks: &dyn Hooks,
    ) -> Result<Tensor> {
        texts.fork(self.index, 1, [&mut x, &mut attended])?;
        let mut h = self.attention_output.forward(&attended, hooks)?;
        if self.drops_attention {
            h = dropped(h, DropPoint::AttentionOutput(self.index), self.ops, hooks)?;
        }
        x = self.attention_norm.forward(&h, &x, hooks)?;
        texts.fork(self.index, 2, [&mut x])?;
        h = self.intermediate.forward_gelu(&x, hooks)?;
        texts.fork(self.index, 3, [&mut x, &mut h])?;
        h = dropped(self.output.forward(&h, hooks)?, DropPoint::Output(self.index), self.ops, hooks)?;
        self.output_norm.forward(&h, &x, hooks)
    }
}
