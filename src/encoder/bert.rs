//! BERT (Devlin et al. 2019), post-norm, absolute positions; its classifier reads the pooled first token.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::layers::{Linear, Loader, Norm, dropped, resolve};
use super::{Dim, DropPoint, Encoder, Head, HeadParameter, Layout, Module, Packed, Seam, Site};
use crate::kernel::{self, Heads};
use crate::model::{Base, BaseConfig, Frozen, ModelError};

const PREFIX: &str = "bert";
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const ATTENTION_OUTPUT: usize = 3;
const INTERMEDIATE: usize = 4;
const OUTPUT: usize = 5;

/// The sites of a BERT and the tensors of its heads.
#[must_use]
pub(super) fn layout(config: &BaseConfig) -> Layout {
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let module =
        |name, label, (out_features, in_features), input| Module { name, label, in_features, out_features, input };
    let head = |name: &str, shape: Vec<Dim>, required| HeadParameter { name: name.to_owned(), shape, required };
    Layout {
        prefix: PREFIX,
        layers: config.num_hidden_layers,
        modules: vec![
            module("attention.self.query", "query", (hidden, hidden), 0),
            module("attention.self.key", "key", (hidden, hidden), 0),
            module("attention.self.value", "value", (hidden, hidden), 0),
            module("attention.output.dense", "attention output", (hidden, hidden), 1),
            module("intermediate.dense", "intermediate", (wide, hidden), 2),
            module("output.dense", "output", (hidden, wide), 3),
        ],
        other_linears: vec![POOLER.to_owned()],
        head: vec![
            head("classifier.weight", vec![Dim::Labels, Dim::Fixed(hidden)], true),
            head("classifier.bias", vec![Dim::Labels], true),
            head("bert.pooler.dense.weight", vec![Dim::Fixed(hidden), Dim::Fixed(hidden)], false),
            head("bert.pooler.dense.bias", vec![Dim::Fixed(hidden)], false),
        ],
        hidden,
    }
}

const POOLER: &str = "bert.pooler.dense";

/// A BERT over a base's mapping.
pub(crate) struct Bert {
    layout: Layout,
    device: Device,
    words: Frozen,
    positions: Frozen,
    types: Frozen,
    norm: Norm,
    layers: Vec<Layer>,
    /// `None` for a base without one, whose adapters must bring their own.
    pooler: Option<Linear>,
    parameters: Vec<Frozen>,
}

struct Layer {
    index: usize,
    heads: usize,
    scale: f64,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

impl Bert {
    /// # Errors
    /// A tensor that is missing or has another shape than the configuration says.
    pub(crate) fn open(base: &Base, device: &Device) -> std::result::Result<Self, ModelError> {
        let (config, weights) = (&base.config, &base.weights);
        let layout = layout(config);
        let hidden = config.hidden_size;
        let mut loader = Loader { weights, taken: Vec::new() };
        let table = |loader: &mut Loader, name: &str, rows| {
            loader.take(&format!("bert.embeddings.{name}_embeddings.weight"), &[rows, hidden])
        };
        let words = table(&mut loader, "word", config.vocab_size)?;
        let positions = table(&mut loader, "position", config.max_position_embeddings)?;
        let types = table(&mut loader, "token_type", config.type_vocab_size)?;
        let norm = Norm::load(&mut loader, "bert.embeddings.LayerNorm", hidden, config.layer_norm_eps)?;
        let layers = (0..layout.layers)
            .map(|i| Layer::load(&mut loader, &layout, config, i))
            .collect::<std::result::Result<_, _>>()?;
        let pooler = match weights.contains(&format!("{POOLER}.weight")) {
            true => Some(Linear::load(&mut loader, POOLER, (hidden, hidden), None)?),
            false => None,
        };
        let parameters = loader.taken;
        Ok(Self { layout, device: device.clone(), words, positions, types, norm, layers, pooler, parameters })
    }
}

impl Layer {
    fn load(
        loader: &mut Loader,
        layout: &Layout,
        config: &BaseConfig,
        layer: usize,
    ) -> std::result::Result<Self, ModelError> {
        let mut site = |module| {
            let site = Site { layer, module };
            let Module { in_features, out_features, .. } = *layout.module(site);
            Linear::load(loader, &layout.name(site), (out_features, in_features), Some(site))
        };
        let [query, key, value] = [site(QUERY)?, site(KEY)?, site(VALUE)?];
        let [attention_output, intermediate, output] = [site(ATTENTION_OUTPUT)?, site(INTERMEDIATE)?, site(OUTPUT)?];
        let mut norm = |name| {
            let name = format!("{PREFIX}.encoder.layer.{layer}.{name}.LayerNorm");
            Norm::load(loader, &name, config.hidden_size, config.layer_norm_eps)
        };
        let (attention_norm, output_norm) = (norm("attention.output")?, norm("output")?);
        let heads = config.num_attention_heads;
        let scale = 1.0 / ((config.hidden_size / heads) as f64).sqrt();
        Ok(Self {
            index: layer,
            heads,
            scale,
            query,
            key,
            value,
            attention_output,
            attention_norm,
            intermediate,
            output,
            output_norm,
        })
    }

    fn forward(&self, x: &Tensor, offsets: &[usize], seam: &dyn Seam) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(x, seam)?, self.key.forward(x, seam)?, self.value.forward(x, seam)?);
        let dropout = seam.dropout(DropPoint::Attention(self.index));
        let h = kernel::attention(&q, &k, &v, &Heads { offsets, heads: self.heads, scale: self.scale, dropout })?;
        let h = dropped(self.attention_output.forward(&h, seam)?, DropPoint::AttentionOutput(self.index), seam)?;
        let x = self.attention_norm.forward(&h, x, seam)?;
        let h = kernel::gelu(&self.intermediate.forward(&x, seam)?)?;
        let h = dropped(self.output.forward(&h, seam)?, DropPoint::Output(self.index), seam)?;
        self.output_norm.forward(&h, &x, seam)
    }
}

impl Encoder for Bert {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn parameters(&self) -> &[Frozen] {
        &self.parameters
    }

    fn forward(&self, batch: &Packed, seam: &dyn Seam) -> Result<Tensor> {
        let positions = batch.positions();
        let tables = [resolve(&self.words, seam)?, resolve(&self.positions, seam)?, resolve(&self.types, seam)?];
        let lookups = [(&tables[0], &batch.ids[..]), (&tables[1], &positions[..]), (&tables[2], &batch.type_ids[..])];
        let sum = kernel::embed(&lookups, &self.device)?;
        let nothing = Tensor::zeros(sum.dims(), DType::F32, &self.device)?;
        let mut x = dropped(self.norm.forward(&sum, &nothing, seam)?, DropPoint::Embeddings, seam)?;
        for layer in &self.layers {
            x = layer.forward(&x, &batch.offsets, seam)?;
        }
        Ok(x)
    }

    fn logits(&self, first: &Tensor, head: &Head, seam: &dyn Seam) -> Result<Tensor> {
        let pooled = match (head.get("bert.pooler.dense.weight"), head.get("bert.pooler.dense.bias"), &self.pooler) {
            (Some(w), Some(b), _) => first.matmul(&w.t()?)?.broadcast_add(b)?,
            (_, _, Some(pooler)) => pooler.forward(first, seam)?,
            _ => bail!("the base has no pooler and the adapter brings none"),
        };
        let pooled = dropped(pooled.tanh()?, DropPoint::Head, seam)?;
        match (head.get("classifier.weight"), head.get("classifier.bias")) {
            (Some(w), Some(b)) => pooled.matmul(&w.t()?)?.broadcast_add(b),
            _ => bail!("the head has no classifier"),
        }
    }
}
