//! Reads an adapter without its base, for inspection.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::config::PeftConfig;
use super::files::{Files, Heads, LABELS, OpenFiles, PREFIX, refuse_state_dict};
use super::labels::Labels;
use super::pattern::targets;
use super::read::{parse, refuse_deltas_of_classifier, short, tensors};
use super::{Adapter, AdapterError, ProblemType, Ranks};
use crate::base::architecture::{self, Architecture};
use crate::base::{BaseConfig, MOST_LAYERS};
use crate::params::{Backend, Dim, Layout, Module, Site};

/// Wider than any encoder. It refuses a tensor of a huge width, for which a square of it would be allocated.
const MOST_HIDDEN: usize = 1 << 14;

/// Reads the adapter in the folder `dir` with [`layout_of`] in place of its base's layout. Where the adapter adds a delta to a linear
/// of the head, the head holds only the delta, because the base's weight is not known.
///
/// # Errors
/// As [`super::read`] and [`layout_of`].
pub fn peek(dir: &Path) -> Result<(Layout, Adapter), AdapterError> {
    let files = Files::read(dir)?;
    let layout = guess(&files)?;
    // Zeros stand for the base's weights, so that a linear of the head with a delta has its full size, as when it is served.
    let zeros = |_: &str, shape: &[usize]| Ok(Some(Tensor::zeros(shape, DType::F32, &Device::Cpu)?));
    let adapter = parse(&files, &layout, Some(&zeros), &Backend::cpu())?;
    Ok((layout, adapter))
}

/// What an adapter's files show without their tensors' values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The rank at every site.
    pub ranks: Ranks,
    /// The names of the outputs, in order of id.
    pub labels: Vec<String>,
    /// What the outputs mean, if the files say it.
    pub problem_type: Option<ProblemType>,
    /// The first site that the adapter changes.
    pub first_active_site: Option<Site>,
}

/// Reads the summary of the adapter in the folder `dir`, for a base of `layout`: the two configurations and the header of the weights
/// file. Not all is checked, so that an adapter with a summary may still be refused when it is loaded.
///
/// # Errors
/// A file is missing or malformed, the configuration states what is not served, or the weights file has no head's tensors for this base.
pub fn summary(dir: &Path, layout: &Layout) -> Result<Summary, AdapterError> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        shape: Vec<usize>,
    }
    let Heads { header, size, config, labels } = OpenFiles::open(dir)?.heads()?;
    targets(&config.file, &PeftConfig::parse(&config)?, layout)?;
    let entries: HashMap<String, Entry> =
        serde_json::from_slice(&header.bytes).map_err(|error| AdapterError::malformed(&header.file, error))?;
    refuse_state_dict(&header.file, entries.keys().map(String::as_str))?;
    let shapes: HashMap<String, Vec<usize>> = entries
        .into_iter()
        .filter_map(|(name, entry)| Some((short(name.strip_prefix(PREFIX)?), entry.shape)))
        .collect();
    let rank = |site| shapes.get(&format!("{}.lora_A.weight", layout.name(site))).and_then(|shape| shape.first());
    let rank = |site| rank(site).copied().unwrap_or(0);
    let of = |module| (0..layout.layers).map(|layer| rank(Site { layer, module })).collect();
    let ranks = Ranks(layout.modules.iter().enumerate().map(|(i, module)| (module.label, of(i))).collect());
    let head = layout.head.iter().find_map(|parameter| {
        let dim = parameter.shape.iter().position(|dim| *dim == Dim::Labels)?;
        let shape = shapes.get(&parameter.name)?;
        Some((shape, *shape.get(dim).filter(|outputs| **outputs > 0)?))
    });
    let (shape, outputs) =
        head.ok_or_else(|| AdapterError::malformed(&header.file, "no tensor shows the number of labels"))?;
    // Otherwise the header alone would decide how much memory the names take.
    let elements = shape.iter().try_fold(1u64, |elements, &dim| elements.checked_mul(dim as u64));
    if elements.is_none_or(|elements| elements > size) {
        let reason = format!("a head of shape {shape:?} cannot lie in {size} bytes");
        return Err(AdapterError::malformed(&header.file, reason));
    }
    let file = labels.as_ref().map_or(Path::new(LABELS), |labels| &labels.file).to_owned();
    let parsed = Labels::parse(labels.as_ref())?;
    let first_active_site = layout.first_changed(|site| rank(site) > 0);
    Ok(Summary { ranks, labels: parsed.names(&file, outputs)?, problem_type: parsed.problem_type, first_active_site })
}

/// The layout of an adapter's base, as far as the adapter's own files show it:
///
/// - The names of the tensors give the architecture.
/// - The classifier's columns give `hidden`.
/// - An adapted linear into or out of the feed-forward gives its width. Otherwise the width is taken to be four times `hidden`; only
///   linears without a delta depend on it then.
/// - `config.json` gives the number of layers if polyrank wrote it. Otherwise the last adapted layer counts as the base's last.
///
/// It is good enough for inspection. Writing or running an adapter needs its base's own layout.
///
/// # Errors
/// A file is missing or malformed, or the tensors fit no architecture that is served.
pub fn layout_of(dir: &Path) -> Result<Layout, AdapterError> {
    guess(&Files::read(dir)?)
}

fn guess(files: &Files) -> Result<Layout, AdapterError> {
    let file = &files.weights.file;
    let tensors = tensors(&files.weights)?;
    refuse_deltas_of_classifier(files, &tensors)?;
    let shapes: Vec<(&str, Vec<usize>)> = tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(PREFIX)?, tensor.shape().to_vec())))
        .collect();
    let unknown = || {
        let known = architecture::ARCHITECTURES.iter().map(|known| known.model_type).collect::<Vec<_>>().join(", ");
        let reason =
            format!("expected a classifier and layers of an architecture that is served ({known}), found neither");
        AdapterError::malformed(file, reason)
    };
    let classifier =
        |name: &str| name.starts_with("classifier.") && name.ends_with(".weight") && !name.contains(".lora_");
    let hidden = shapes.iter().find_map(|(name, shape)| shape.last().filter(|_| classifier(name)));
    let &hidden = hidden.ok_or_else(unknown)?;
    if hidden > MOST_HIDDEN {
        return Err(AdapterError::malformed(
            file,
            format!("expected a classifier of at most {MOST_HIDDEN} columns, found {hidden}"),
        ));
    }
    for architecture in architecture::ARCHITECTURES {
        let sizes = |layers, wide| Sizes { layers, hidden, wide };
        let Some(probe) = sketch(architecture, &shapes, sizes(1, 1)) else { continue };
        let stem = format!("{}.{}.", probe.prefix, probe.stack);
        let mut layers = 0;
        for name in shapes.iter().filter_map(|(name, _)| name.strip_prefix(&*stem)) {
            let layer = name.split('.').next().and_then(|layer| layer.parse().ok());
            let most =
                || AdapterError::malformed(file, format!("tensor {stem}{name}: expected a layer below {MOST_LAYERS}"));
            layers = layers.max(1 + layer.filter(|&layer: &usize| layer < MOST_LAYERS).ok_or_else(most)?);
        }
        if layers == 0 {
            // An adapter with a delta of the head alone does not show any layer.
            let of_head =
                |name: &str| probe.other_linears.iter().any(|linear| name == format!("{linear}.lora_A.weight"));
            if !shapes.iter().any(|(name, _)| of_head(name)) {
                continue;
            }
            layers = 1;
        }
        let known = Labels::parse(files.labels.as_ref())?.polyrank.layers;
        let layers = known.filter(|&known| known > layers && known <= MOST_LAYERS).unwrap_or(layers);
        let wide = width(&probe, &shapes).unwrap_or(hidden.saturating_mul(4));
        return sketch(architecture, &shapes, sizes(layers, wide)).ok_or_else(unknown);
    }
    Err(unknown())
}

/// The width inside the feed-forward, from the tensors of its linears. `probe` is a layout in which this width is 1.
fn width(probe: &Layout, shapes: &[(&str, Vec<usize>)]) -> Option<usize> {
    let find = |module: &Module, end: &str, dim: usize| {
        let end = format!(".{}.{end}.weight", module.name);
        // The name of BERT's `attention.output.dense` also ends in `output.dense`.
        let own = |name: &str| name.ends_with(&end) && !(module.name == "output.dense" && name.contains(".attention."));
        shapes.iter().find(|(name, _)| own(name))?.1.get(dim).copied()
    };
    probe.modules.iter().find_map(|module| match module.label {
        "intermediate" => find(module, "lora_B", 0).map(|rows| rows / module.out_features.max(1)),
        "output" => find(module, "lora_A", 1),
        _ => None,
    })
}

/// Sizes of the base that an adapter's files show.
#[derive(Clone, Copy)]
struct Sizes {
    layers: usize,
    hidden: usize,
    wide: usize,
}

/// The layout of a base of these sizes. It depends on little else.
fn sketch(architecture: &Architecture, shapes: &[(&str, Vec<usize>)], sizes: Sizes) -> Option<Layout> {
    // Some DeBERTa bases have the modules of `sides`, and some ModernBERT bases have biases in their heads.
    let has = |module: &str| shapes.iter().any(|(name, _)| name.contains(module));
    let sides: Vec<&str> = [("c2p", ".pos_key_proj."), ("p2c", ".pos_query_proj.")]
        .iter()
        .filter(|(_, m)| has(m))
        .map(|(s, _)| *s)
        .collect();
    let mut config = json!({
        "model_type": architecture.model_type, "vocab_size": 1, "num_attention_heads": 1, "max_position_embeddings": 512,
        "hidden_size": sizes.hidden, "num_hidden_layers": sizes.layers, "intermediate_size": sizes.wide,
        "embedding_size": sizes.hidden, "relative_attention": !sides.is_empty(), "pos_att_type": sides,
        "classifier_bias": has("head.dense.bias"), "norm_bias": has("head.norm.bias"),
    });
    let keys = config.as_object_mut()?;
    for (own, common) in architecture.aliases {
        let value = keys.remove(*common);
        keys.extend(value.map(|value| ((*own).to_owned(), value)));
    }
    let config = BaseConfig::parse(Path::new("config.json"), config).ok()?;
    architecture::layout(&config).ok()
}
