//! Where a run and its result are.

use std::path::{Path, PathBuf};

use super::{CONFIG, FACTS, output};

/// The folders of a run's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// The folder of the adapter.
    pub output: PathBuf,
    /// The folder of the log and the checkpoints.
    pub run: PathBuf,
}

impl Folders {
    /// The folders for an adapter in `output` and a run in `run`, or in `output/run` by default.
    #[must_use]
    pub fn new(output: &Path, run: Option<&Path>) -> Self {
        Self { output: output.to_owned(), run: run.map_or_else(|| output.join("run"), Path::to_owned) }
    }

    /// The folders of the run in `folder`, which is its output or, if the run has a folder of its own (`--run-dir`), the run's folder.
    /// `None` if there is no run, or if it does not say where its output is.
    #[must_use]
    pub fn find(folder: &Path) -> Option<Self> {
        let is_run = |run: &Path| [CONFIG, FACTS].iter().all(|name| run.join(name).is_file());
        let usual = Self::new(folder, None);
        if is_run(&usual.run) {
            return Some(usual);
        }
        if !is_run(folder) {
            return None;
        }
        let output = output::recorded(folder).ok()??;
        Some(Self { output, run: folder.to_owned() })
    }
}
