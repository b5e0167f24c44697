//! A model folder of `transformers`, which `AutoModelForSequenceClassification.from_pretrained` loads.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use polyrank::adapter::classifier_config;
use polyrank::atomic_file;
use polyrank::engine::Engine;
use serde_json::{Map, Value, json};

use super::CONFIG;
use crate::error::Error;
use crate::evaluate::Parameters;
use crate::method::Model;

/// The weights.
pub(super) const WEIGHTS: &str = "model.safetensors";

/// The files of a folder: the weights, the configuration, and those of the base's tokenizer that it has.
pub(super) const FILES: [&str; 11] = [
    WEIGHTS,
    CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "sentencepiece.bpe.model",
];

/// The files that a model on the base in the folder `base` has.
pub(super) fn files(base: &Path) -> Vec<&'static str> {
    FILES.into_iter().filter(|name| [WEIGHTS, CONFIG].contains(name) || base.join(name).is_file()).collect()
}

/// Our own key of the numbers of trained parameters.
const PARAMETERS: &str = "parameters";

/// The classifiers of `transformers` by `model_type`.
const CLASSES: [(&str, &str); 8] = [
    ("bert", "BertForSequenceClassification"),
    ("roberta", "RobertaForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForSequenceClassification"),
    ("electra", "ElectraForSequenceClassification"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("deberta-v2", "DebertaV2ForSequenceClassification"),
    ("modernbert", "ModernBertForSequenceClassification"),
    ("mpnet", "MPNetForSequenceClassification"),
];

/// Writes the model with all of its parameters, copies the tokenizer from the base's folder, and removes the files `stale`. The weights
/// come last.
pub(super) fn write(
    dir: &Path,
    engine: &Engine,
    (model, parameters): (&Model, Parameters),
    (base, base_config): (&Path, &Map<String, Value>),
    stale: &[PathBuf],
) -> Result<(), Error> {
    let mut files = Vec::new();
    for name in self::files(base).into_iter().filter(|name| ![WEIGHTS, CONFIG].contains(name)) {
        let from = base.join(name);
        files.push((dir.join(name), fs::read(&from).map_err(Error::io(&from))?));
    }
    let mut config = classifier_config(&model.info, engine.layout().layers, base_config);
    // The type of the tensors below. `transformers` would load them in that of the base's own file.
    config["dtype"] = json!("float32");
    if let Some(entries) = config.as_object_mut() {
        entries.remove("torch_dtype");
    }
    let class = CLASSES.iter().find(|(model_type, _)| *model_type == engine.config().model_type);
    config["architectures"] = json!(class.map(|(_, class)| [class]));
    config["polyrank"][PARAMETERS] = json!(parameters);
    files.push((dir.join(CONFIG), format!("{config:#}\n").into_bytes()));
    let path = dir.join(WEIGHTS);
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors(engine, model)?, Some(metadata));
    files.push((path.clone(), bytes.map_err(|error| Error::malformed(&path, error))?));
    atomic_file::replace(&files, stale).map_err(|(path, source)| Error::Io { path, source })
}

/// The numbers of trained parameters of the model in the folder `dir`: those that its configuration records, else all.
pub(super) fn parameters(dir: &Path, engine: &Engine) -> Result<Parameters, Error> {
    let config = super::base_config(dir)?;
    match config.get("polyrank").and_then(|ours| ours.get(PARAMETERS)) {
        Some(recorded) => serde_json::from_value(recorded.clone())
            .map_err(|error| Error::malformed(&dir.join(CONFIG), format!("polyrank.{PARAMETERS}: {error}"))),
        None => {
            let size = |shape: &[usize]| shape.iter().product::<usize>();
            let all = engine.encoder().parameters().iter().map(|parameter| size(parameter.shape())).sum();
            Ok(Parameters { adapter: all, head: 0 })
        }
    }
}

/// Every parameter by its name, f32 in host memory: the trained ones, the base's own, and the head.
fn tensors(engine: &Engine, model: &Model) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut all = BTreeMap::new();
    let host = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous();
    for frozen in engine.encoder().parameters() {
        let tensor = match model.parameters.get(frozen.name()) {
            Some(trained) => host(trained)?,
            None => host(&frozen.tensor()?)?,
        };
        all.insert(frozen.name().to_owned(), tensor);
    }
    for (name, tensor) in &model.head {
        all.insert(name.clone(), host(tensor)?);
    }
    Ok(all)
}
