//! Reads a sweep's `results.jsonl`: the metrics on the test split, and what reports need of runs whose folders are gone.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::trained::{EpochLine, Exported, TrainedOn, TrainedRun};
use crate::error::Error;
use crate::json_lines;

/// Keys of all lines that sweeps write.
const OF_SWEEPS: [&str; 3] = ["name", "validation", "command"];

/// At most so many of the lines that cannot be read are reported one by one.
const MOST_TOLD: usize = 5;

/// A run as its line has it.
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

/// The lines of a sweep's results.
pub(super) struct Lines {
    pub(super) recorded: Vec<Recorded>,
    /// The lines that cannot be read, by number, and why.
    pub(super) broken: Vec<String>,
}

/// Reads the lines of the results at `path`. Lines that no sweep wrote are left out: other programs use the file's name, too.
pub(super) fn read(path: &Path) -> Result<Lines, Error> {
    let folder = path.parent().unwrap_or(path);
    let (mut recorded, mut broken) = (Vec::new(), Vec::new());
    for (number, line) in json_lines::each::<Map<String, Value>>(path)? {
        let line = match line {
            Ok(line) if !OF_SWEEPS.iter().all(|key| line.contains_key(*key)) => continue,
            Ok(line) => parsed(folder, line),
            Err(error) => Err(error.to_string()),
        };
        match line {
            Ok(line) => recorded.push(line),
            Err(reason) => broken.push(format!("line {number}: {reason}")),
        }
    }
    let more = broken.len().saturating_sub(MOST_TOLD);
    broken.truncate(MOST_TOLD);
    broken.extend((more > 0).then(|| format!("{more} more lines")));
    Ok(Lines { recorded, broken })
}

/// The run of a line. `folder` is that of the sweep.
fn parsed(folder: &Path, line: Map<String, Value>) -> Result<Recorded, String> {
    let line: Line = serde_json::from_value(Value::Object(line)).map_err(|error| error.to_string())?;
    let of_module = |(module, ranks): (String, Value)| match serde_json::from_value(ranks) {
        Ok(ranks) => Ok((module, ranks)),
        Err(error) => Err(format!("{}: ranks of {module}: {error}", line.name)),
    };
    let exported = Exported {
        epoch: line.epoch,
        metrics: line.validation,
        parameters: line.parameters,
        paper: line.paper_parameters,
        ranks: line.ranks.into_iter().map(of_module).collect::<Result<_, String>>()?,
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
            has_exported: true,
            exported: Some(exported),
        }),
        _ => None,
    };
    Ok(Recorded { name: line.name, test: line.test, run })
}
