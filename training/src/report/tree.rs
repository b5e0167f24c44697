//! Finds runs in a tree of folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::schedule::Schedule;
use super::trained::TrainedRun;
use crate::error::Error;

/// The name of a sweep's results.
const RESULTS: &str = "results.jsonl";

/// The runs in a tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The runs that have finished, each with its name: the path from the tree's root.
    pub(super) runs: Vec<(String, TrainedRun)>,
    /// The names of the others.
    pub(super) unfinished: Vec<String>,
    pub(super) schedules: Vec<Schedule>,
    /// The metrics on the test split that sweeps have recorded, by the names of the runs.
    pub(super) tests: BTreeMap<String, Map<String, Value>>,
}

impl Tree {
    /// Reads all runs under `root`, in the order of their names.
    pub(super) fn read(root: &Path) -> Result<Self, Error> {
        let mut tree = Self::default();
        tree.folder(root, root)?;
        Ok(tree)
    }

    fn folder(&mut self, root: &Path, folder: &Path) -> Result<(), Error> {
        if Schedule::is_at(folder) {
            // Its stages are not runs to compare with others.
            self.schedules.push(Schedule::read(folder)?);
            return Ok(());
        }
        if TrainedRun::is_at(folder) {
            let run = TrainedRun::read(folder)?;
            let name = name(root, folder);
            if run.exported.is_some() {
                self.runs.push((name, run))
            } else {
                self.unfinished.push(name)
            }
            return Ok(());
        }
        let results = folder.join(RESULTS);
        if results.is_file() {
            self.tests(root, &results)?;
        }
        let mut below: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            // A link may lead back up.
            if path.is_dir() && !path.is_symlink() {
                below.push(path);
            }
        }
        below.sort();
        below.iter().try_for_each(|path| self.folder(root, path))
    }

    /// Reads the metrics on the test split in a sweep's results.
    fn tests(&mut self, root: &Path, results: &Path) -> Result<(), Error> {
        let folder = results.parent().unwrap_or(root);
        for line in super::trained::lines::<Map<String, Value>>(results)? {
            if let (Some(run), Some(Value::Object(test))) = (line.get("name").and_then(Value::as_str), line.get("test"))
            {
                self.tests.insert(name(root, &folder.join(run)), test.clone());
            }
        }
        Ok(())
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
