//! DeBERTa-v2 and v3 (He et al. 2021): contents and relative positions attend to each other.
//!
//! With `share_att_key`, the linears that project the tokens also project the relative positions, so an adapter on these linears
//! changes the positions too. The base's own projections of the positions are computed once and kept. An adapter's deltas on them
//! are computed for each batch, only for the distances that occur in its texts.

mod conv;
mod positions;

use std::sync::OnceLock;

use candle_core::{Result, Tensor};

use self::conv::Conv;
use self::positions::{Positions, Relative, repeated};
use super::fork::Texts;
use super::head::Classifier;
use super::layers::{Linear, Loader, Norm, SharedInput, Tables, dropped, forward_qkv, forward_shared};
use super::post_norm::PostAttention;
use super::{DropPoint, Encoder, Head, HeadJob, Hooks, Packed};
use crate::base::architecture::deberta::{self, EMBED_PROJECTION, HEAD, NAMES, Settings};
use crate::base::architecture::{KEY, QUERY, VALUE};
use crate::base::{Base, BaseConfig, ModelError};
use crate::ops::{Disentangled, Heads, Ops, TextPositions};
use crate::params::{Backend, Frozen, Input, Layout, Point, Site};

/// A DeBERTa that reads a base's mapped weights.
pub(super) struct Deberta {
    ops: &'static dyn Ops,
    layout: Layout,
    tables: Tables,
    projection: Option<Linear>,
    norm: Norm,
    positions: Option<Positions>,
    layers: Vec<Layer>,
    conv: Option<Conv>,
    classifier: Classifier,
    parameters: Vec<Frozen>,
}

/// One layer.
struct Layer {
    index: usize,
    heads: usize,
    scale: f64,
    query: Linear,
    key: Linear,
    value: Linear,
    /// The layer's own linears for position keys and queries, if it does not share the tokens'.
    own: [Option<Linear>; 2],
    shared: bool,
    /// Whether contents attend to positions, and whether positions attend to contents.
    sides: [bool; 2],
    /// The base's position keys and queries, `[2 span, hidden]`, once they have been computed.
    known: OnceLock<[Option<Tensor>; 2]>,
    rest: PostAttention,
}

impl Layer {
    fn load(
        loader: &mut Loader,
        layout: &Layout,
        config: &BaseConfig,
        settings: &Settings,
        index: usize,
    ) -> std::result::Result<Self, ModelError> {
        let sites = [QUERY, KEY, VALUE].map(|module| Site { layer: index, module });
        let [query, key, value] = loader.sites(layout, sites, true)?;
        let kinds = [settings.attends("c2p"), settings.attends("p2c")];
        let sides = kinds.map(|attends| attends && settings.relative_attention);
        let mut site = |module| loader.site(layout, Site { layer: index, module }, true);
        let mut own = |name: &str| match layout.modules.iter().position(|module| module.name.ends_with(name)) {
            Some(module) => site(module).map(Some),
            None => Ok(None),
        };
        let own = [own(".pos_key_proj")?, own(".pos_query_proj")?];
        let heads = config.num_attention_heads;
        // Each kind of score adds to the variance, so the scale counts them.
        let factor = 1 + kinds.into_iter().filter(|kind| *kind).count();
        let scale = 1.0 / ((config.hidden_size / heads * factor) as f64).sqrt();
        Ok(Self {
            index,
            heads,
            scale,
            query,
            key,
            value,
            own,
            shared: settings.share_att_key,
            sides,
            known: OnceLock::new(),
            rest: PostAttention::load(loader, layout, config, &NAMES, index)?,
        })
    }

    /// The linears that project position keys and position queries.
    fn projections(&self) -> [&Linear; 2] {
        let [key, query] = &self.own;
        if self.shared {
            [&self.key, &self.query]
        } else {
            [key.as_ref().unwrap_or(&self.key), query.as_ref().unwrap_or(&self.query)]
        }
    }

    fn forward(
        &self,
        mut x: Tensor,
        batch: &mut Texts,
        relative: Option<&Relative>,
        hooks: &dyn Hooks,
    ) -> Result<Tensor> {
        batch.fork(self.index, Input::Attention, [&mut x])?;
        let offsets = batch.offsets;
        let [q, k, v] = forward_qkv([&self.query, &self.key, &self.value], &x, hooks)?;
        let dropout = hooks.dropout(DropPoint::Attention(self.index));
        let attended = match relative {
            Some(relative) if self.sides.contains(&true) => {
                let (positions, texts) = self.positions(relative, offsets, hooks)?;
                let how = Disentangled {
                    offsets: offsets.to_vec(),
                    heads: self.heads,
                    scale: self.scale,
                    texts,
                    distances: relative.slice.distances.clone(),
                    rows: relative.slice.rows,
                };
                self.rest.ops.disentangled_attention([&q, &k, &v], &positions, &how, dropout)?
            }
            _ => {
                let heads = Heads { offsets, heads: self.heads, scale: self.scale, window: None, bias: None, dropout };
                self.rest.ops.attention([&q, &k, &v], &heads)?
            }
        };
        self.rest.forward(x, attended, batch, hooks)
    }

    /// The projections of the batch's distances, one set after the other, and the rows that each text at `offsets` uses.
    fn positions(
        &self,
        relative: &Relative,
        offsets: &[usize],
        hooks: &dyn Hooks,
    ) -> Result<(Tensor, Vec<TextPositions>)> {
        let slice = &relative.slice;
        let groups = Groups::of(offsets, self.index, hooks);
        let point = DropPoint::Positions(self.index);
        let drops = hooks.dropout(point).is_some();
        let x = dropped(relative.rows()?, point, self.rest.ops, hooks)?;
        let known = if drops { [None, None] } else { self.known(relative, hooks)? };
        let (mut linears, mut sides) = (Vec::with_capacity(2), Vec::with_capacity(2));
        for (side, known) in known.into_iter().enumerate().filter(|&(side, _)| self.sides[side]) {
            linears.push((self.projections()[side], known.map(|known| slice.of(&known)).transpose()?));
            sides.push(side);
        }
        let copies =
            |count| if drops { repeated(&x, count, self.rest.ops) } else { relative.copies(count, self.rest.ops) };
        let input = SharedInput { x: &x, copies: &copies, groups: groups.count };
        let (sets, numbers) = forward_shared(&linears, &input, hooks)?;
        let mut of_group = vec![TextPositions { keys: None, queries: None }; groups.count];
        for (side, numbers) in sides.into_iter().zip(numbers) {
            for (rows, number) in of_group.iter_mut().zip(numbers) {
                let first = Some(number * slice.rows);
                if side == 0 { rows.keys = first } else { rows.queries = first }
            }
        }
        let texts = groups.of_text.iter().map(|&group| of_group[group]).collect();
        Ok((sets, texts))
    }

    /// The base's own projections of the whole table; `None` where the hooks replace the table or a linear.
    fn known(&self, relative: &Relative, hooks: &dyn Hooks) -> Result<[Option<Tensor>; 2]> {
        let mut frozen = relative.frozen;
        for (linear, _) in self.projections().into_iter().zip(self.sides).filter(|(_, side)| *side) {
            frozen = frozen && linear.is_frozen(hooks)?;
        }
        if !frozen {
            return Ok([None, None]);
        }
        if let Some(known) = self.known.get() {
            return Ok(known.clone());
        }
        let mut made = [None, None];
        for side in (0..2).filter(|&side| self.sides[side]) {
            // A copy, because it outlives the batch's memory.
            made[side] = Some(self.projections()[side].bare(&relative.whole, hooks)?.force_contiguous()?);
        }
        Ok(self.known.get_or_init(|| made).clone())
    }
}

/// Texts grouped by the deltas that the hooks add to them.
struct Groups {
    count: usize,
    of_text: Vec<usize>,
}

impl Groups {
    /// The groups in the attention of `layer`, for texts at `offsets`.
    fn of(offsets: &[usize], layer: usize, hooks: &dyn Hooks) -> Self {
        let ranges = hooks.groups(layer, offsets.last().copied().unwrap_or(0));
        let of = |span: &[usize]| ranges.iter().position(|range| range.contains(&span[0])).unwrap_or(0);
        Self { count: ranges.len().max(1), of_text: offsets.windows(2).map(of).collect() }
    }
}

impl Deberta {
    pub(super) fn open(base: &Base, backend: &Backend) -> std::result::Result<Self, ModelError> {
        let config = &base.config;
        let (mut layout, settings) = (deberta::layout(config)?, Settings::read(config)?);
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
        let width = settings.embedding_size.unwrap_or(hidden);
        let mut loader = Loader::new(&base.weights, backend);
        let mut table = |name: &str, rows: usize, there: bool| {
            if there {
                loader.take(&format!("deberta.embeddings.{name}_embeddings.weight"), &[rows, width]).map(Some)
            } else {
                Ok(None)
            }
        };
        let positions = table("position", config.max_position_embeddings, settings.position_biased_input)?;
        let types = table("token_type", config.type_vocab_size, config.type_vocab_size > 0)?;
        let words = loader.take("deberta.embeddings.word_embeddings.weight", &[config.vocab_size, width])?;
        let tables = Tables { words, positions, types, backend: backend.clone() };
        let projection =
            if width == hidden { None } else { Some(loader.linear(EMBED_PROJECTION, (hidden, width), false)?) };
        let norm = loader.norm("deberta.embeddings.LayerNorm", hidden, eps, true)?;
        let positions =
            if settings.relative_attention { Some(Positions::load(&mut loader, config, &settings)?) } else { None };
        let layers = (0..layout.layers).map(|index| Layer::load(&mut loader, &layout, config, &settings, index));
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        let convolves = settings.conv_kernel_size > 0;
        let conv = convolves.then(|| Conv::load(&mut loader, config, &settings)).transpose()?;
        let classifier = Classifier::open(HEAD, &mut loader, &mut layout, eps)?;
        let (ops, parameters) = (loader.ops(), loader.taken());
        Ok(Self { ops, layout, tables, projection, norm, positions, layers, conv, classifier, parameters })
    }
}

impl Encoder for Deberta {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn parameters(&self) -> &[Frozen] {
        &self.parameters
    }

    fn forward(&self, batch: &Packed, hooks: &dyn Hooks) -> Result<Tensor> {
        let mut x = self.tables.sum(batch, &batch.positions(), hooks)?;
        if let Some(projection) = &self.projection {
            x = projection.forward(&x, hooks)?;
        }
        x = dropped(self.norm.without_residual(&x, hooks)?, DropPoint::Embeddings, self.ops, hooks)?;
        let relative = self.positions.as_ref();
        let relative = relative.map(|positions| positions.relative(batch.longest(), hooks)).transpose()?;
        let mut texts = Texts::new(&batch.offsets, self.ops, hooks);
        texts.kept = self.conv.as_ref().map(|_| x.clone());
        for layer in &self.layers {
            x = layer.forward(x, &mut texts, relative.as_ref(), hooks)?;
            if let (Some(conv), Some(embedded)) = (&self.conv, texts.kept.take()) {
                x = conv.forward(&embedded, &x, texts.offsets, hooks)?;
            }
        }
        Ok(x)
    }

    fn first_tokens_from(&self) -> Option<Point> {
        let last = self.layers.len().checked_sub(1)?;
        // The convolution reads all rows of the first layer's output.
        (last > 0 || self.conv.is_none()).then_some(Point { layer: last, input: Input::AttentionOutput })
    }

    fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor> {
        self.classifier.logits(pooled, head, hooks)
    }

    fn heads(&self, pooled: &Tensor, jobs: &[HeadJob<'_>], hooks: &dyn Hooks) -> Result<Vec<Tensor>> {
        self.classifier.heads(pooled, jobs, hooks)
    }
}
