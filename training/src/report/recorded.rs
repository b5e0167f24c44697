//! Reads a sweep's `results.jsonl`: the metrics on the test split, and what reports need of runs whose folders are gone.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::trained::{EpochLine, Exported, TrainedOn, TrainedRun};
use crate::error::Error;
use crate::json_lines;

/// Keys of all lines that sweeps write.
const OF_SWEEPS: [&str; 3] = ["name", "validation", "command"];

/// A run as its line tells it.
pub(super) struct Recorded {
    /// The path of its folder from that of the sweep, with slashes.
    pub(super) name: String,
    /// The metrics on the test split, if the task has one.
    pub(super) test: Option<Map<String, Value>>,
    /// The run, without its steps. `None` if the line is of a version that wrote no settings: it cannot be compared with others.
    pub(super) run: Option<TrainedRun>,
}

/// A line of `results.jsonl`. Entries that reports do not need are ignored.
#[derive(Deserialize)]
struct Line {
    name: String,
    task: String,
    base: Option<String>,
    examples: Option<usize>,
    data: Option<TrainedOn>,
    settings: Option<toml::Table>,
    validation: Map<String, Value>,
    test: Option<Map<String, Value>>,
    parameters: usize,
    paper_parameters: Option<usize>,
    ranks: Map<String, Value>,
    epoch: usize,
    #[serde(default)]
    log: Vec<EpochLine>,
}

/// Reads the lines of the results at `path`. Lines that no sweep wrote are left out: other programs use the file's name, too.
pub(super) fn read(path: &Path) -> Result<Vec<Recorded>, Error> {
    let folder = path.parent().unwrap_or(path);
    let lines = json_lines::read::<Map<String, Value>>(path)?.into_iter().enumerate();
    let of_sweeps = lines.filter(|(_, line)| OF_SWEEPS.iter().all(|key| line.contains_key(*key)));
    let parsed = |(i, line)| {
        let line = serde_json::from_value(Value::Object(line));
        recorded(path, folder, line.map_err(|error| json_lines::malformed(path, i, error))?)
    };
    of_sweeps.map(parsed).collect()
}

fn recorded(path: &Path, folder: &Path, line: Line) -> Result<Recorded, Error> {
    let of_module = |(module, ranks): (String, Value)| match serde_json::from_value(ranks) {
        Ok(ranks) => Ok((module, ranks)),
        Err(error) => Err(Error::malformed(path, format!("{}: ranks of {module}: {error}", line.name))),
    };
    let exported = Exported {
        epoch: line.epoch,
        metrics: line.validation,
        parameters: line.parameters,
        paper: line.paper_parameters,
        ranks: line.ranks.into_iter().map(of_module).collect::<Result<_, _>>()?,
    };
    let run = match (line.base, line.examples, line.settings) {
        (Some(base), Some(examples), Some(settings)) => Some(TrainedRun {
            output: folder.join(&line.name),
            task: line.task,
            base,
            examples,
            data: line.data,
            settings,
            epochs: line.log,
            steps: Vec::new(),
            exported: Some(exported),
        }),
        _ => None,
    };
    Ok(Recorded { name: line.name, test: line.test, run })
}
