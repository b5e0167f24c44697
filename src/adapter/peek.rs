//! Looking at an adapter without its base.

use std::path::Path;

use candle_core::Device;

use super::files::Files;
use super::labels::Labels;
use super::read::{PREFIX, parse, tensors};
use super::{Adapter, AdapterError};
use crate::encoder::{self, Layout};
use crate::model::BaseConfig;

/// More layers than any encoder has; what it keeps out is a name that would size a table.
const MOST_LAYERS: usize = 1024;

/// Reads the adapter in the folder `dir` with [`layout_of`] in place of its base's layout.
///
/// # Errors
/// As [`super::read`] and [`layout_of`].
pub fn peek(dir: &Path) -> Result<(Layout, Adapter), AdapterError> {
    let files = Files::read(dir)?;
    let layout = guess(&files)?;
    let adapter = parse(&files, &layout, &Device::Cpu)?;
    Ok((layout, adapter))
}

/// What an adapter's own tensors tell of its base: `hidden` from the classifier's columns, the feed-forward's width from an
/// adapted `intermediate.dense` or `output.dense` (else BERT's four times `hidden`, which then sizes unadapted linears only).
/// The number of layers is what polyrank left in `config.json`, else one more than the last adapted layer: layers after
/// that, which the adapter leaves alone, are not seen. Good for a look; to write or to run an adapter takes its base's layout.
///
/// # Errors
/// Files that are missing or malformed, and tensors of no architecture that is served.
pub fn layout_of(dir: &Path) -> Result<Layout, AdapterError> {
    guess(&Files::read(dir)?)
}

fn guess(files: &Files) -> Result<Layout, AdapterError> {
    let file = &files.weights.file;
    let tensors = tensors(&files.weights)?;
    let (mut hidden, mut wide, mut layers) = (None, None, 0);
    for (name, tensor) in tensors.iter() {
        let Some(name) = name.strip_prefix(PREFIX) else { continue };
        let columns = tensor.shape().last().copied();
        if name.starts_with("classifier.") && name.ends_with(".weight") {
            hidden = columns;
        }
        let Some((layer, rest)) = name.strip_prefix("bert.encoder.layer.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        match rest {
            "intermediate.dense.lora_B.weight" => wide = tensor.shape().first().copied(),
            "output.dense.lora_A.weight" => wide = columns,
            _ => {}
        }
        let most = || AdapterError::malformed(file, format!("tensor {name}: expected a layer below {MOST_LAYERS}"));
        let layer = layer.parse().ok().filter(|&layer: &usize| layer < MOST_LAYERS).ok_or_else(most)?;
        layers = layers.max(layer + 1);
    }
    let known = Labels::parse(files.labels.as_ref())?.polyrank.layers;
    let known = known.filter(|&known| known > layers && known <= MOST_LAYERS);
    let Some(hidden) = hidden.filter(|_| layers > 0) else {
        let reason = "no tensors of an architecture that is served: expected a classifier and bert.encoder.layer.N";
        return Err(AdapterError::malformed(file, reason));
    };
    Ok(encoder::layout(&bert(known.unwrap_or(layers), hidden, wide.unwrap_or(hidden.saturating_mul(4)))))
}

/// A configuration of these sizes; a layout depends on nothing else in it.
fn bert(num_hidden_layers: usize, hidden_size: usize, intermediate_size: usize) -> BaseConfig {
    BaseConfig {
        model_type: "bert".to_owned(),
        vocab_size: 1,
        hidden_size,
        num_hidden_layers,
        num_attention_heads: 1,
        intermediate_size,
        hidden_act: "gelu".to_owned(),
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        classifier_dropout: None,
        layer_norm_eps: 1e-12,
        max_position_embeddings: 1,
        type_vocab_size: 1,
        pad_token_id: None,
    }
}
