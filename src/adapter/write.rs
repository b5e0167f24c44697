//! Writes a PEFT checkpoint that `PeftModel.from_pretrained` loads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use super::files::{Bytes, CONFIG, Files, LABELS, PREFIX, WEIGHTS};
use super::read::parse;
use super::{Adapter, AdapterError, classifier_config};
use crate::params::{Backend, Delta, Layout};
use crate::{atomic_file, base};

/// Writes `adapter` into the folder `dir`, which is created if it does not exist. `base_config` is the base's own `config.json`, and may
/// be empty. Its keys that describe the model are copied beside the labels, so that `AutoConfig.from_pretrained` reads the folder as the
/// configuration of the classifier.
///
/// PEFT does not allow rank 0. So only sites with a rank above 0 are listed, by their full names, which match no other module. If there
/// is no such site, the file gets a delta of rank 1 with a zero `B` at the last linear of the last layer. Then the file still loads, and
/// the shared prefix stays long.
///
/// All three files are written to temporary files and synced first, so that a full disk leaves the folder as it was. Then the weights of
/// an adapter that is in the folder are removed, and the new ones are renamed last. A writer that is killed leaves the old adapter, the
/// new one, or a folder without weights, which is refused.
///
/// ```
/// use std::path::Path;
///
/// use candle_core::Device;
/// use polyrank::adapter;
/// use polyrank::base::{BaseConfig, layout};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let base = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert"));
/// let layout = layout(&BaseConfig::read(base)?)?;
/// let adapter = adapter::read(&base.join("ragged"), &layout, &Device::Cpu)?;
///
/// let dir = tempfile::tempdir()?;
/// let base_config = serde_json::from_slice(&std::fs::read(base.join("config.json"))?)?;
/// adapter::write(dir.path(), &layout, &adapter, &base_config)?;
/// let same = adapter::read(dir.path(), &layout, &Device::Cpu)?;
/// assert_eq!(same.ranks(&layout), adapter.ranks(&layout));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`super::read`] would refuse the adapter (nothing is written then), or a file cannot be written.
pub fn write(
    dir: &Path,
    layout: &Layout,
    adapter: &Adapter,
    base_config: &Map<String, Value>,
) -> Result<(), AdapterError> {
    replace(dir, layout, adapter, base_config, &[])
}

/// As [`write()`], and removes the files `stale` in the same step, such as those of another kind of model that was in the folder.
///
/// # Errors
/// As [`write()`]; or a file cannot be removed.
pub fn replace(
    dir: &Path,
    layout: &Layout,
    adapter: &Adapter,
    base_config: &Map<String, Value>,
    stale: &[PathBuf],
) -> Result<(), AdapterError> {
    if adapter.weights.sites.len() != layout.len() {
        return Err(AdapterError::Sites { expected: layout.len(), found: adapter.weights.sites.len() });
    }
    let survivors = survivors(layout, adapter)?;
    let labels_json = classifier_config(&adapter.info, layout.layers, base_config);
    let files = Files {
        config: Bytes { file: dir.join(CONFIG), bytes: text(&config(layout, adapter, &survivors)) },
        weights: Bytes { file: dir.join(WEIGHTS), bytes: weights(&dir.join(WEIGHTS), adapter, &survivors)? },
        labels: Some(Bytes { file: dir.join(LABELS), bytes: text(&labels_json) }),
    };
    parse(&files, layout, None, &Backend::cpu())?;
    save(dir, files, stale)
}

/// A site with a delta, under its full name.
struct Survivor {
    name: String,
    delta: Delta,
}

fn survivors(layout: &Layout, adapter: &Adapter) -> Result<Vec<Survivor>, AdapterError> {
    let with_delta = layout.sites().zip(&adapter.weights.sites);
    let with_delta = with_delta.filter_map(|(site, change)| Some((site, change.as_ref()?.delta().clone())));
    let mut survivors: Vec<_> = with_delta.map(|(site, delta)| Survivor { name: layout.name(site), delta }).collect();
    if survivors.is_empty()
        && let Some(site) = layout.last()
    {
        let module = layout.module(site);
        let a = Tensor::full(1.0 / module.in_features as f32, (1, module.in_features), &Device::Cpu)?;
        let b = Tensor::zeros((module.out_features, 1), DType::F32, &Device::Cpu)?;
        survivors.push(Survivor { name: layout.name(site), delta: Delta { a, b, scale: 1.0 } });
    }
    Ok(survivors)
}

/// The JSON of `adapter_config.json`, with the keys in PEFT's order.
fn config(layout: &Layout, adapter: &Adapter, survivors: &[Survivor]) -> Value {
    let map = |value: fn(&Delta) -> Value| -> Map<String, Value> {
        survivors.iter().map(|survivor| (survivor.name.clone(), value(&survivor.delta))).collect()
    };
    let largest = survivors.iter().max_by_key(|survivor| survivor.delta.rank());
    let (base, revision) = base_name(adapter.info.base_model.as_deref());
    json!({
        "alpha_pattern": map(alpha),
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": largest.map(|survivor| alpha(&survivor.delta)),
        "lora_dropout": 0.0,
        "modules_to_save": modules_to_save(layout, adapter),
        "peft_type": "LORA",
        "r": largest.map(|survivor| survivor.delta.rank()),
        "rank_pattern": map(|delta| json!(delta.rank())),
        "revision": revision,
        "target_modules": survivors.iter().map(|survivor| &survivor.name).collect::<Vec<_>>(),
        "task_type": "SEQ_CLS",
        "use_rslora": false,
    })
}

/// The base as PEFT finds it: a folder, or a hub id and its revision. The revision is `None` if it is `main`.
fn base_name(model: Option<&str>) -> (Option<String>, Option<String>) {
    match model.and_then(base::repository) {
        Some((id, revision)) => (Some(id), Some(revision).filter(|revision| revision != "main")),
        None => (model.map(str::to_owned), None),
    }
}

/// The alpha that PEFT divides by the rank to get the scale. It is written as an integer if that gives exactly the same scale.
fn alpha(delta: &Delta) -> Value {
    let rank = delta.rank() as f64;
    let alpha = delta.scale * rank;
    if alpha.round() / rank == delta.scale && alpha.abs() < 1e15 { json!(alpha.round() as i64) } else { json!(alpha) }
}

/// The modules that hold the head's tensors: `classifier`, and `pooler` for `bert.pooler.dense.weight`.
fn modules_to_save(layout: &Layout, adapter: &Adapter) -> Vec<String> {
    let mut modules: Vec<String> = Vec::new();
    for name in adapter.weights.head.keys() {
        let name = name.strip_prefix(layout.prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        let module = name.split('.').next().unwrap_or(name);
        if !modules.iter().any(|known| known == module) {
            modules.push(module.to_owned());
        }
    }
    modules
}

/// The bytes of the weights file, in f32.
fn weights(file: &Path, adapter: &Adapter, survivors: &[Survivor]) -> Result<Vec<u8>, AdapterError> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut push = |name: String, tensor: &Tensor| -> Result<(), AdapterError> {
        let floats = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((format!("{PREFIX}{name}"), tensor.dims().to_vec(), bytes));
        Ok(())
    };
    for Survivor { name, delta } in survivors {
        push(format!("{name}.lora_A.weight"), &delta.a)?;
        push(format!("{name}.lora_B.weight"), &delta.b)?;
    }
    for (name, tensor) in &adapter.weights.head {
        push(name.clone(), tensor)?;
    }
    let malformed = |error| AdapterError::malformed(file, error);
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(malformed)?)));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views.collect::<Result<Vec<_>, AdapterError>>()?, Some(metadata)).map_err(malformed)
}

fn text(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn save(dir: &Path, Files { config, weights, labels }: Files, stale: &[PathBuf]) -> Result<(), AdapterError> {
    std::fs::create_dir_all(dir).map_err(AdapterError::io(dir))?;
    // A server goes on with the version in memory where the weights are missing. Without the configuration, it would take it out of
    // service.
    let files = [labels, Some(config), Some(weights)].into_iter().flatten();
    let files: Vec<(PathBuf, Vec<u8>)> = files.map(|Bytes { file, bytes }| (file, bytes)).collect();
    atomic_file::replace(&files, stale).map_err(|(file, source)| AdapterError::Io { file, source })
}
