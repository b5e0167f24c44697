//! `config.json` beside PEFT's files: the names of the outputs, what they mean, and the base.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::files::Bytes;
use super::{Adapter, AdapterError, ProblemType};

/// What is read of it. The first three keys are `transformers`' own, the last is ours.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Labels {
    #[serde(default)]
    id2label: Option<BTreeMap<usize, String>>,
    #[serde(default)]
    label2id: Option<BTreeMap<String, usize>>,
    #[serde(default)]
    pub(super) problem_type: Option<ProblemType>,
    #[serde(default)]
    pub(super) polyrank: Ours,
}

/// What neither PEFT nor `transformers` has a place for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Ours {
    #[serde(default)]
    pub(super) base_fingerprint: Option<String>,
    /// Layers of the base, for a look at an adapter without it.
    #[serde(default)]
    pub(super) layers: Option<usize>,
}

impl Labels {
    /// Nothing at all for a file that is absent.
    pub(super) fn parse(bytes: Option<&Bytes>) -> Result<Self, AdapterError> {
        let Some(Bytes { file, bytes }) = bytes else { return Ok(Self::default()) };
        serde_json::from_slice(bytes).map_err(|error| AdapterError::malformed(file, error))
    }

    /// A name for each of `outputs`: from `id2label`, else `label2id`, else `LABEL_0`, ... as in `transformers`.
    pub(super) fn names(&self, file: &Path, outputs: usize) -> Result<Vec<String>, AdapterError> {
        let (key, by_id) = match (&self.id2label, &self.label2id) {
            (Some(names), _) => ("id2label", names.clone()),
            (None, Some(ids)) => ("label2id", ids.iter().map(|(name, &id)| (id, name.clone())).collect()),
            (None, None) => return Ok((0..outputs).map(|id| format!("LABEL_{id}")).collect()),
        };
        if !by_id.keys().copied().eq(0..outputs) {
            let (found, last) = (by_id.len(), by_id.keys().last());
            let last = last.map_or(String::new(), |last| format!(", the last {last}"));
            let reason = format!("{key}: expected ids 0 to {}, one for each output, found {found}{last}", outputs - 1);
            return Err(AdapterError::malformed(file, reason));
        }
        Ok(by_id.into_values().collect())
    }
}

/// Keys of a base's `config.json` that say nothing of a classifier over it.
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

/// The JSON of `config.json` for an adapter to a base of `layers` layers, with what describes the base.
pub(super) fn json(adapter: &Adapter, layers: usize, base_config: &Map<String, Value>) -> Value {
    let names = || adapter.labels.iter().enumerate();
    let id2label: Map<_, _> = names().map(|(id, name)| (id.to_string(), json!(name))).collect();
    let label2id: Map<_, _> = names().map(|(id, name)| (name.clone(), json!(id))).collect();
    let of_base = base_config.iter().filter(|(key, _)| !NOT_OF_CLASSIFIER.contains(&key.as_str()));
    let mut config = Value::Object(of_base.map(|(key, value)| (key.clone(), value.clone())).collect());
    config["id2label"] = json!(id2label);
    config["label2id"] = json!(label2id);
    if let Some(problem_type) = adapter.problem_type {
        config["problem_type"] = json!(problem_type);
    }
    config["polyrank"] = json!({ "base_fingerprint": adapter.base_fingerprint, "layers": layers });
    config
}
