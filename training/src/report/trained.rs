//! Reads what a run of `train` left in its folder. Only what reports need is read, and entries that are not known are ignored, so that
//! runs of other versions can be read too.

use std::fs;
use std::path::{Path, PathBuf};

use polyrank::adapter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checkpoint;
use crate::data::HoldOut;
use crate::error::Error;
use crate::json_lines;
use crate::run::Folders;

/// A run of `train`.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedRun {
    /// The folder of its adapter.
    pub output: PathBuf,
    /// Name of the task.
    pub task: String,
    /// Fingerprint of the base.
    pub base: String,
    /// The number of training examples.
    pub examples: usize,
    /// What it was trained on; `None` for a run of a version that did not record it.
    pub data: Option<TrainedOn>,
    /// The resolved settings.
    pub settings: toml::Table,
    /// The finished epochs.
    pub epochs: Vec<EpochLine>,
    /// The steps that were logged.
    pub steps: Vec<StepLine>,
    /// Whether it has written its result.
    pub has_exported: bool,
    /// What it wrote; `None` if it has not finished, or if its last checkpoint is gone, so that the exported epoch is not known.
    pub exported: Option<Exported>,
}

/// What identifies the data of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainedOn {
    /// The SHA-256 of the training examples.
    pub train: String,
    /// The SHA-256 of the validation examples.
    pub validation: String,
    /// How the validation examples were held out, if they were.
    pub held_out: Option<HoldOut>,
}

/// What a finished run wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The number of the epoch that was exported, from 1.
    pub epoch: usize,
    /// Its metrics on the validation split, by name; the first one selects the best epoch.
    pub metrics: Map<String, Value>,
    /// The number of trained parameters without the head.
    pub parameters: usize,
    /// The same as the code of the SoRA paper counts them, for low-rank deltas.
    pub paper: Option<usize>,
    /// The rank of each module's linears by layer; empty for methods without ranks.
    pub ranks: Vec<(String, Vec<usize>)>,
}

/// A line of `log.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochLine {
    /// The number of the epoch, from 1.
    pub epoch: usize,
    /// The metrics on the validation split, by name; the first one selects the best epoch. A metric that is not a number is `null`.
    pub metrics: Map<String, Value>,
    /// The number of trained parameters without the head.
    pub parameters: usize,
    /// The duration of the steps.
    pub seconds: f64,
    /// The speed of training.
    pub tokens_per_second: f64,
    /// Whether the run ended here, before all its epochs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended_early: bool,
}

impl EpochLine {
    /// The name and the value of the metric that selects the best epoch.
    #[must_use]
    pub fn metric(&self) -> Option<(&str, f64)> {
        first(&self.metrics)
    }
}

impl Exported {
    /// The name and the value of the metric that selected the epoch.
    #[must_use]
    pub fn metric(&self) -> Option<(&str, f64)> {
        first(&self.metrics)
    }
}

fn first(metrics: &Map<String, Value>) -> Option<(&str, f64)> {
    metrics.iter().next().and_then(|(name, value)| Some((name.as_str(), value.as_f64()?)))
}

/// A line of `steps.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct StepLine {
    /// The number of the step, from 1.
    pub step: usize,
    /// The training loss.
    pub loss: Option<f64>,
    /// SoRA's threshold; `None` for methods without one.
    #[serde(default)]
    pub xi: Option<f64>,
    /// The mean rank over adapted sites.
    pub mean_rank: Option<f64>,
}

/// The parts of `task.json` that reports need.
#[derive(Deserialize)]
struct TaskFile {
    task: String,
    base: String,
    train: Part,
    validation: Option<Part>,
    held_out: Option<HoldOut>,
}

#[derive(Deserialize)]
struct Part {
    examples: usize,
    sha256: Option<String>,
}

impl TaskFile {
    fn data(&self) -> Option<TrainedOn> {
        let (train, validation) = (self.train.sha256.clone()?, self.validation.as_ref()?.sha256.clone()?);
        Some(TrainedOn { train, validation, held_out: self.held_out })
    }
}

/// The parts of a checkpoint's `state.json` that reports need.
#[derive(Deserialize)]
struct State {
    progress: checkpoint::Progress,
}

impl TrainedRun {
    /// Whether a run, finished or not, is in `folder`: its output, or the folder of `--run-dir`.
    #[must_use]
    pub fn is_at(folder: &Path) -> bool {
        Folders::find(folder).is_some()
    }

    /// Reads the run in `folder`: its output, or the folder of `--run-dir`.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let folders = Folders::find(folder).unwrap_or_else(|| Folders::new(folder, None));
        let Folders { output, run } = &folders;
        let path = run.join("config.toml");
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let settings: toml::Table =
            text.parse().map_err(|error: toml::de::Error| Error::malformed(&path, error.message()))?;
        let facts: TaskFile = json(&run.join("task.json"))?;
        let data = facts.data();
        let epochs = json_lines::read::<EpochLine>(&run.join("log.jsonl"))?;
        let planned = settings.get("epochs").and_then(toml::Value::as_integer);
        let ended = |last: &EpochLine| last.ended_early || planned.is_none_or(|planned| last.epoch as i64 >= planned);
        let ended = epochs.last().is_some_and(ended);
        let has_exported = is_exported(&folders, ended)?;
        let exported = if has_exported { exported(output, run, &epochs)? } else { None };
        Ok(Self {
            output: output.clone(),
            task: facts.task,
            base: facts.base,
            examples: facts.train.examples,
            data,
            settings,
            epochs,
            steps: json_lines::read(&run.join("steps.jsonl"))?,
            has_exported,
            exported,
        })
    }

    /// A setting as text; empty if it has no value.
    #[must_use]
    pub fn setting(&self, name: &str) -> String {
        self.settings.get(name).map(text).unwrap_or_default()
    }

    /// The mean duration of an epoch's steps.
    #[must_use]
    pub fn seconds_per_epoch(&self) -> Option<f64> {
        let seconds: f64 = self.epochs.iter().map(|epoch| epoch.seconds).sum();
        (!self.epochs.is_empty()).then(|| seconds / self.epochs.len() as f64)
    }
}

/// A setting's value as text, without quotes and brackets.
pub(crate) fn text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join("+"),
        toml::Value::Float(value) => value.to_string(),
        other => other.to_string(),
    }
}

/// Whether the run has written its result: weights are in its output folder, and they are not known to be another run's. A run that was
/// stopped before it had `ended` may have left no such folder.
fn is_exported(Folders { output, run }: &Folders, ended: bool) -> Result<bool, Error> {
    if run.join("replacing").exists() || (!ended && !output.exists()) {
        return Ok(false);
    }
    for entry in fs::read_dir(output).map_err(Error::io(output))? {
        let path = entry.map_err(Error::io(output))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the finished run wrote; `None` if the exported epoch is not known. An adapter with another number of parameters is an error: a
/// later run, with a `--run-dir` of its own, has replaced this run's.
fn exported(output: &Path, run: &Path, epochs: &[EpochLine]) -> Result<Option<Exported>, Error> {
    let Some(last) = checkpoint::last(run)? else { return Ok(None) };
    let state: State = json(&last.join("state.json"))?;
    let Some(line) = epochs.iter().find(|line| line.epoch == state.progress.best_epoch) else { return Ok(None) };
    let (epoch, metrics) = (line.epoch, line.metrics.clone());
    if !output.join("adapter_config.json").exists() {
        return Ok(Some(Exported { epoch, metrics, parameters: line.parameters, paper: None, ranks: Vec::new() }));
    }
    let (layout, mut adapter) = adapter::peek(output)?;
    if line.parameters == 0 {
        // PEFT's format has no rank 0, so that the files hold a rank that changes nothing.
        adapter.weights.sites.fill(None);
    }
    let found = adapter.delta_parameters();
    if found != line.parameters {
        let reason =
            format!("it has {found} parameters, and this run's had {}: another run has replaced it", line.parameters);
        return Err(Error::malformed(output, reason));
    }
    let ranks = adapter.ranks(&layout).0.into_iter().map(|(module, ranks)| (module.to_owned(), ranks)).collect();
    let paper = Some(adapter.paper_parameters(&layout));
    Ok(Some(Exported { epoch, metrics, parameters: found, paper, ranks }))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::malformed(path, error))
}
