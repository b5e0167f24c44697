//! Reads and writes `config.json` beside PEFT's files: the names of the outputs, the problem type, and facts about the base.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::{Raw, whole};
use super::files::Bytes;
use super::{AdapterError, AdapterInfo, ProblemType};

/// What is read from `config.json`: the keys `id2label`, `label2id` and `problem_type` of `transformers`, and our own key `polyrank`.
/// `label2id` is read only if there is no `id2label`.
#[derive(Debug, Default)]
pub(super) struct Labels {
    names: Option<Names>,
    pub(super) problem_type: Option<ProblemType>,
    pub(super) polyrank: Ours,
}

/// The most outputs of a head.
pub const MOST_LABELS: usize = 1 << 16;
/// The most bytes of all names together.
pub const LONGEST_NAMES: usize = 1 << 20;

/// The names by id, and the key that they were read from.
#[derive(Debug)]
struct Names {
    key: &'static str,
    by_id: BTreeMap<usize, String>,
}

/// The key `polyrank`, with facts that neither PEFT nor `transformers` has a key for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Ours {
    #[serde(default)]
    pub(super) base_fingerprint: Option<String>,
    /// The base's number of layers, for inspecting an adapter without its base.
    #[serde(default)]
    pub(super) layers: Option<usize>,
}

impl Labels {
    /// Parses `config.json`. If there is no such file, every field is empty.
    pub(super) fn parse(bytes: Option<&Bytes>) -> Result<Self, AdapterError> {
        let Some(Bytes { file, bytes }) = bytes else { return Ok(Self::default()) };
        let raw = serde_json::from_slice(bytes).map_err(|error| AdapterError::malformed(file, error))?;
        let raw = Raw { file, raw };
        let entry = |key: &str, name: &str, value: &Value| {
            AdapterError::malformed(file, format!("{key}: {name:?}: expected a name and its id, found {value}"))
        };
        let names = match (raw.get::<Map<String, Value>>("id2label")?, raw.raw.get("label2id")) {
            (Some(map), _) => {
                let key = "id2label";
                let names = map.iter().map(|(id, value)| {
                    let pair = id.trim().parse().ok().zip(scalar(value));
                    pair.ok_or_else(|| entry(key, id, value))
                });
                Some(Names { key, by_id: names.collect::<Result<_, _>>()? })
            }
            (None, Some(Value::Object(map))) => {
                let key = "label2id";
                let names = map.iter().map(|(name, value)| {
                    let id = scalar(value).and_then(|id| id.trim().parse().ok());
                    id.map(|id| (id, name.clone())).ok_or_else(|| entry(key, name, value))
                });
                Some(Names { key, by_id: names.collect::<Result<_, _>>()? })
            }
            (None, None | Some(Value::Null)) => None,
            (None, Some(other)) => {
                return Err(AdapterError::malformed(file, format!("label2id: expected a map, found {other}")));
            }
        };
        let (problem_type, polyrank) = (raw.get("problem_type")?, raw.get("polyrank")?.unwrap_or_default());
        Ok(Self { names, problem_type, polyrank })
    }

    /// A name for each of the `outputs` outputs: from `id2label`, else from `label2id`, else `LABEL_0`, ... as in `transformers`.
    pub(super) fn names(&self, file: &Path, outputs: usize) -> Result<Vec<String>, AdapterError> {
        let refused = |expected: &str, found: usize| {
            Err(AdapterError::malformed(file, format!("labels: expected at most {expected}, found {found}")))
        };
        if outputs > MOST_LABELS {
            return refused(&format!("{MOST_LABELS} outputs"), outputs);
        }
        let Some(Names { key, by_id }) = &self.names else {
            return Ok((0..outputs).map(|id| format!("LABEL_{id}")).collect());
        };
        if !by_id.keys().copied().eq(0..outputs) {
            let (found, last) = (by_id.len(), by_id.keys().last());
            let last = last.map_or(String::new(), |last| format!(", the last {last}"));
            let reason = format!("{key}: expected ids 0 to {}, one for each output, found {found}{last}", outputs - 1);
            return Err(AdapterError::malformed(file, reason));
        }
        let bytes = by_id.values().map(String::len).sum();
        if bytes > LONGEST_NAMES {
            return refused(&format!("{LONGEST_NAMES} bytes of names"), bytes);
        }
        // Otherwise an answer would have two scores under one name.
        let mut ids = HashMap::new();
        for (id, name) in by_id {
            if let Some(other) = ids.insert(name, id) {
                let reason =
                    format!("{key}: expected a different name for each id, found {name:?} for both {other} and {id}");
                return Err(AdapterError::malformed(file, reason));
            }
        }
        Ok(by_id.values().cloned().collect())
    }
}

/// Reads the name of each of the `outputs` outputs, and the problem type, from the `config.json` at `file`, which may be that of an
/// adapter or of a fine-tuned `transformers` classifier. Without names, they are `LABEL_0`, ... as in `transformers`.
///
/// # Errors
/// The file cannot be read or is malformed, or its names are not those of `outputs` outputs.
pub fn read_labels(file: &Path, outputs: usize) -> Result<(Vec<String>, Option<ProblemType>), AdapterError> {
    let bytes = std::fs::read(file).map_err(AdapterError::io(file))?;
    let labels = Labels::parse(Some(&Bytes { file: file.to_owned(), bytes }))?;
    Ok((labels.names(file, outputs)?, labels.problem_type))
}

/// A string, number or boolean as a string; whole numbers are written without a point.
fn scalar(value: &Value) -> Option<String> {
    match whole(value.clone()) {
        Value::String(text) => Some(text),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Keys of a base's `config.json` that do not apply to a classifier on the base.
const NOT_OF_CLASSIFIER: [&str; 10] = [
    "_name_or_path",
    "_num_labels",
    "architectures",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "polyrank",
    "problem_type",
    "transformers_version",
];

/// The JSON of `config.json` for a classifier on a base of `layers` layers, including the keys of `base_config` that describe the base.
#[must_use]
pub fn classifier_config(info: &AdapterInfo, layers: usize, base_config: &Map<String, Value>) -> Value {
    let names = || info.labels.iter().enumerate();
    let id2label: Map<_, _> = names().map(|(id, name)| (id.to_string(), json!(name))).collect();
    let label2id: Map<_, _> = names().map(|(id, name)| (name.clone(), json!(id))).collect();
    let of_base = base_config.iter().filter(|(key, _)| !NOT_OF_CLASSIFIER.contains(&key.as_str()));
    let mut config = Value::Object(of_base.map(|(key, value)| (key.clone(), value.clone())).collect());
    config["id2label"] = json!(id2label);
    config["label2id"] = json!(label2id);
    if let Some(problem_type) = info.problem_type {
        config["problem_type"] = json!(problem_type);
    }
    config["polyrank"] = json!({ "base_fingerprint": info.base_fingerprint, "layers": layers });
    config
}
