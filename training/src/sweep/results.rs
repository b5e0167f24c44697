//! `results.jsonl` in the folder of the runs: a line for each finished run, in the order of the sweep.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use polyrank::atomic_file;
use serde_json::{Map, Value, json};

use super::Job;
use crate::checkpoint;
use crate::error::Error;
use crate::json_lines;
use crate::report::{Exported, RESULTS, TrainedRun};
use crate::run;

/// The results of a sweep, locked for this process.
pub(super) struct Results {
    path: PathBuf,
    lines: BTreeMap<String, Map<String, Value>>,
    /// Dropping the file releases its lock.
    _lock: File,
}

impl Results {
    /// Opens the results in the folder `runs`, which is created if it does not exist.
    ///
    /// # Errors
    /// Another sweep runs there, or a file cannot be read or is malformed.
    pub(super) fn open(runs: &Path) -> Result<Self, Error> {
        fs::create_dir_all(runs).map_err(Error::io(runs))?;
        let file = run::lock(runs)?;
        atomic_file::sweep(runs).map_err(Error::io(runs))?;
        let path = runs.join(RESULTS);
        Ok(Self { lines: read(&path)?, path, _lock: file })
    }

    /// Whether the run has finished with this very command, and its result is still there.
    pub(super) fn has(&self, job: &Job) -> bool {
        let same = |line: &Map<String, Value>| line.get("command") == Some(&json!(job.command));
        self.lines.get(&job.name).is_some_and(same) && TrainedRun::is_at(&job.output) && is_finished(&job.output)
    }

    /// Whether the run has finished, with whatever command and data, and its folder is still there. Without it, the run is trained anew.
    pub(super) fn knows(&self, job: &Job) -> bool {
        self.lines.contains_key(&job.name) && TrainedRun::is_at(&job.output)
    }

    /// Writes the line of a run that has finished, with its metrics on the test split, if the task has one. Runs that are no longer in
    /// the sweep keep their lines, after the others.
    pub(super) fn put(&mut self, jobs: &[Job], job: &Job, test: Option<Value>) -> Result<(), Error> {
        let run = TrainedRun::read(&job.output)?;
        let exported = run.exported.as_ref().ok_or_else(|| {
            Error::malformed(&job.output.join("run"), "expected the exported epoch in the log and the last checkpoint")
        })?;
        self.lines.insert(job.name.clone(), line(job, &run, exported, test));
        let known = jobs.iter().filter_map(|job| self.lines.get(&job.name));
        let others = self.lines.iter().filter(|(name, _)| !jobs.iter().any(|job| job.name == **name));
        let all = known.chain(others.map(|(_, line)| line));
        json_lines::write(&self.path, all)
    }
}

/// Whether the run has written its result. Its checkpoints may be gone: they take most of its space.
fn is_finished(output: &Path) -> bool {
    let without_checkpoints = || checkpoint::last(&output.join("run")).is_ok_and(|last| last.is_none());
    match TrainedRun::read(output) {
        Ok(run) => run.exported.is_some() || (without_checkpoints() && run.has_exported),
        Err(_) => false,
    }
}

/// The lines of results by the names of their runs; none if the file does not exist.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Map<String, Value>>, Error> {
    let mut lines = BTreeMap::new();
    for (i, line) in json_lines::read::<Map<String, Value>>(path)?.into_iter().enumerate() {
        let name = line.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| json_lines::malformed(path, i, "name is missing"))?;
        lines.insert(name.to_owned(), line);
    }
    Ok(lines)
}

fn line(job: &Job, run: &TrainedRun, exported: &Exported, test: Option<Value>) -> Map<String, Value> {
    let seconds: f64 = run.epochs.iter().map(|epoch| epoch.seconds).sum();
    let tokens: f64 = run.epochs.iter().map(|epoch| epoch.seconds * epoch.tokens_per_second).sum();
    let ranks: Map<String, Value> =
        exported.ranks.iter().map(|(module, ranks)| (module.clone(), json!(ranks))).collect();
    let facts = &job.facts;
    let entries = [
        ("name", json!(job.name)),
        ("task", json!(run.task)),
        ("method", json!(facts.method)),
        ("rank", json!(facts.rank)),
        ("seed", json!(facts.seed)),
        ("varying", json!(facts.varying)),
        ("validation", Value::Object(exported.metrics.clone())),
        ("test", test.unwrap_or_default()),
        ("parameters", json!(exported.parameters)),
        ("paper_parameters", json!(exported.paper)),
        ("ranks", Value::Object(ranks)),
        ("epoch", json!(exported.epoch)),
        ("epochs", json!(run.epochs.len())),
        ("seconds", json!(seconds)),
        ("tokens_per_second", json!(if seconds > 0.0 { tokens / seconds } else { 0.0 })),
        ("base", json!(run.base)),
        ("examples", json!(run.examples)),
        ("data", json!(run.data)),
        ("settings", json!(run.settings)),
        ("log", json!(run.epochs)),
        ("output", json!(job.output)),
        ("command", json!(job.command)),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sweep::{Spec, expand};

    #[test]
    fn files_of_killed_sweeps_are_removed() {
        let runs = tempfile::tempdir().unwrap();
        fs::write(runs.path().join(".writing-abc"), "x").unwrap();
        let _results = Results::open(runs.path()).unwrap();
        assert!(!runs.path().join(".writing-abc").exists());
    }

    #[test]
    fn run_whose_folder_was_deleted_is_not_known() {
        let runs = tempfile::tempdir().unwrap();
        let file = runs.path().join("sweep.toml");
        fs::write(&file, "data_root = \"data\"\ntasks = [\"a\"]\nmethods = [\"lora\"]\n").unwrap();
        let jobs = expand(&Spec::read(&file).unwrap(), runs.path(), None).unwrap();
        fs::write(runs.path().join(RESULTS), "{\"name\": \"a/lora-r8-s0\"}\n").unwrap();
        let results = Results::open(runs.path()).unwrap();
        assert!(!results.knows(&jobs[0]));
        let run = jobs[0].output.join("run");
        fs::create_dir_all(&run).unwrap();
        ["config.toml", "task.json"].iter().for_each(|name| fs::write(run.join(name), "").unwrap());
        assert!(results.knows(&jobs[0]));
    }
}
