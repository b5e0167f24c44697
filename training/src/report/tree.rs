//! Finds runs in a tree of folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::recorded;
use super::stages::Schedule;
use super::trained::TrainedRun;
use crate::error::Error;

/// The name of a sweep's results.
pub(crate) const RESULTS: &str = "results.jsonl";

/// The runs in a tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The runs that have finished, each with its name: the path from the tree's root.
    pub(super) runs: Vec<(String, TrainedRun)>,
    /// The names of the others.
    pub(super) unfinished: Vec<String>,
    /// The names of runs, schedules and files of results that cannot be read, and why. A run that is in a sweep's results is not among
    /// them.
    pub(super) broken: Vec<(String, String)>,
    /// While folders are read: the names of finished runs whose last checkpoints are gone.
    unreadable: Vec<String>,
    /// The names of those finished runs whose folders, or their last checkpoints, are gone or cannot be read. A sweep's results have
    /// them.
    pub(super) gone: Vec<String>,
    /// The names of runs whose settings are neither in folders nor in results. Older versions wrote such results.
    pub(super) unknown: Vec<String>,
    /// The names of runs that were trained again after their test metrics were recorded, which are left out.
    pub(super) retrained: Vec<String>,
    pub(super) schedules: Vec<Schedule>,
    /// The folders that were read so far, without links in their paths, because a link may lead to a run in the tree.
    seen: BTreeSet<PathBuf>,
    /// The metrics on the test split that sweeps have recorded, by the names of the runs.
    pub(super) tests: BTreeMap<String, Map<String, Value>>,
}

impl Tree {
    /// Reads all runs under `root`, in the order of their names.
    pub(super) fn read(root: &Path) -> Result<Self, Error> {
        let (mut tree, mut recorded) = (Self::default(), BTreeMap::new());
        tree.folder(root, root, &mut recorded)?;
        let found: BTreeSet<String> = tree.runs.iter().map(|(name, _)| name).chain(&tree.unfinished).cloned().collect();
        for (name, run) in recorded {
            if found.contains(&name) {
                let of_folder = tree.runs.iter().find(|(other, _)| *other == name);
                let chosen = |run: &TrainedRun| {
                    run.exported.as_ref().map(|found| (found.epoch, found.metrics.clone(), found.parameters))
                };
                if of_folder.zip(run.as_ref()).is_some_and(|((_, now), before)| chosen(now) != chosen(before))
                    && tree.tests.remove(&name).is_some()
                {
                    tree.retrained.push(name);
                }
                continue;
            }
            match run {
                Some(run) => {
                    tree.unreadable.retain(|other| *other != name);
                    tree.broken.retain(|(other, _)| *other != name);
                    tree.gone.push(name.clone());
                    tree.runs.push((name, run));
                }
                None => tree.unknown.push(name),
            }
        }
        tree.unfinished.append(&mut tree.unreadable);
        tree.runs.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(tree)
    }

    /// Reads what is under `folder`. Runs that are in a sweep's results go to `recorded`, by name; `None` stands for one without
    /// settings. Of several lines about one run, the last counts.
    fn folder(
        &mut self,
        root: &Path,
        folder: &Path,
        recorded: &mut BTreeMap<String, Option<TrainedRun>>,
    ) -> Result<(), Error> {
        if !self.seen.insert(folder.canonicalize().map_err(Error::io(folder))?) {
            return Ok(());
        }
        if Schedule::is_at(folder) {
            // Its stages are not runs to compare with others.
            match Schedule::read(folder) {
                Err(error) if folder != root => self.broken.push((name(root, folder), error.to_string())),
                schedule => self.schedules.push(schedule?),
            }
            return Ok(());
        }
        if TrainedRun::is_at(folder) {
            let name = name(root, folder);
            match TrainedRun::read(folder) {
                // One broken run of many is no reason for no report.
                Err(error) if folder != root => self.broken.push((name, error.to_string())),
                Err(error) => return Err(error),
                Ok(run) if run.exported.is_some() => self.runs.push((name, run)),
                Ok(run) if run.has_exported => self.unreadable.push(name),
                Ok(_) => self.unfinished.push(name),
            }
            return Ok(());
        }
        let results = folder.join(RESULTS);
        if results.is_file() {
            let found = recorded::read(&results)?;
            let of_file = name(root, &results);
            self.broken.extend(found.broken.into_iter().map(|reason| (of_file.clone(), reason)));
            for line in found.recorded {
                let name = name(root, &folder.join(&line.name));
                recorded.insert(name.clone(), line.run);
                self.tests.remove(&name);
                self.tests.extend(line.test.map(|test| (name, test)));
            }
        }
        let mut below: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            // Other links may lead anywhere.
            let is_run = || TrainedRun::is_at(&path) || Schedule::is_at(&path);
            if path.is_dir() && (!path.is_symlink() || is_run()) {
                below.push(path);
            }
        }
        // A run in the tree itself has the name of its own folder, and not that of a link to it.
        below.sort_by_key(|path| (path.is_symlink(), path.clone()));
        below.iter().try_for_each(|path| self.folder(root, path, recorded))
    }
}

/// The path from `root` to `folder`, with slashes; the folder's own name if it is the root.
fn name(root: &Path, folder: &Path) -> String {
    let parts = folder.strip_prefix(root).unwrap_or(folder).components();
    let parts: Vec<String> = parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.is_empty() {
        folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    } else {
        parts.join("/")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn broken_run_that_is_in_the_results_is_not_left_out() {
        let room = tempfile::tempdir().unwrap();
        for name in ["mrpc/lora-s0", "mrpc/lora-s1"] {
            let run = room.path().join(name).join("run");
            fs::create_dir_all(&run).unwrap();
            fs::write(run.join("config.toml"), "").unwrap();
            fs::write(run.join("task.json"), "short").unwrap();
        }
        let line = json!({
            "name": "mrpc/lora-s0", "task": "mrpc", "base": "sha256:0", "examples": 10, "settings": {"method": "lora"},
            "validation": {"accuracy": 0.5}, "parameters": 8, "ranks": {}, "epoch": 1, "command": []
        });
        // A file that was joined from two has a run twice. The last line counts, also where it has no test metrics.
        let mut first = line.clone();
        first["test"] = json!({"accuracy": 0.25});
        fs::write(room.path().join(RESULTS), format!("{first}\n{line}\n")).unwrap();
        let tree = Tree::read(room.path()).unwrap();
        let names = |runs: &[(String, TrainedRun)]| runs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!((names(&tree.runs), tree.gone), (vec!["mrpc/lora-s0".to_owned()], vec!["mrpc/lora-s0".to_owned()]));
        let broken: Vec<&str> = tree.broken.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((broken, tree.tests.len()), (vec!["mrpc/lora-s1"], 0));
    }
}
