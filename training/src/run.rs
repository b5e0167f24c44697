//! A run's folder (`DIR/run` by default): the settings (`config.toml`), facts about the data and the base (`task.json`), the logs of
//! epochs (`log.jsonl`) and steps (`steps.jsonl`), and the checkpoints.
//!
//! | file | idea |
//! | --- | --- |
//! | `folders` | where a run and its result are |
//! | `check` | whether a run may begin or continue in its folders |
//! | `begin` | prepares the folders, and removes another run from them |
//! | `lock`, `locked_output` | one process at a time trains in a folder, or writes its result there |
//! | `config` | the settings on disk, and which of them may change |
//! | `facts` | what else determines a run: its data and its base |
//! | `output` | where a run in a folder of its own writes its result |
//! | `epoch`, `steps`, `trim` | the logs, and how they are cut where a run goes on |

mod begin;
mod check;
mod config;
mod epoch;
mod facts;
mod folders;
mod lock;
mod locked_output;
mod output;
mod steps;
mod trim;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use polyrank::atomic_file;

pub use self::begin::{LockedRun, begin};
pub use self::check::check;
pub(crate) use self::config::settings;
pub use self::config::{Config, extended_from, recorded};
pub(crate) use self::epoch::ranks;
pub use self::epoch::{Epoch, Scores, log};
pub use self::facts::{Facts, Part};
pub use self::folders::Folders;
pub use self::lock::check_idle;
pub(crate) use self::lock::lock;
pub use self::locked_output::LockedOutput;
pub use self::steps::{StepEntry, log_step};
pub use self::trim::trim_logs;
use crate::error::Error;

const CONFIG: &str = "config.toml";
const FACTS: &str = "task.json";
const LOG: &str = "log.jsonl";
/// The process that trains holds a lock on this file.
const LOCK: &str = "lock";
/// While this file exists, the adapter beside the run is that of an earlier run or, if the file says [`SHORTER`], of this one before it
/// was made longer. The run will replace it.
const REPLACING: &str = "replacing";
const SHORTER: &str = "shorter";
/// The folder that the adapter of a run in another folder is written to.
const OUTPUT: &str = "output";

/// What to do with an output folder that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it.
    Refuse,
    /// Continue its run.
    Resume,
    /// Replace its content.
    Overwrite,
}

/// Whether an adapter, or what another method leaves, is in the folder `output`.
fn has_adapter(output: &Path) -> bool {
    output.join("adapter_config.json").exists() || is_export(output)
}

/// Whether `dir` holds what a run has left. Its `config.json` has our own key.
#[must_use]
pub fn is_export(dir: &Path) -> bool {
    let config = read(&dir.join("config.json"), |text| Ok(serde_json::from_str::<serde_json::Value>(text).ok()));
    config.is_ok_and(|config| config.flatten().is_some_and(|config| config.get("polyrank").is_some()))
}

/// Checks that the folder `output` is empty, or does not exist.
///
/// # Errors
/// It is not, or cannot be read.
pub fn check_empty(output: &Path) -> Result<(), Error> {
    if names(output)?.is_empty() { Ok(()) } else { Err(Error::NotEmpty(output.to_owned())) }
}

/// The files and folders in the folder `dir`; none if it does not exist. Files that are being written have no names yet.
///
/// # Errors
/// It cannot be read.
pub fn names(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_written = |path: &PathBuf| {
        !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(atomic_file::PREFIX.as_bytes()))
    };
    match fs::read_dir(dir) {
        Ok(entries) => {
            let paths = entries.map(|entry| Ok(entry.map_err(Error::io(dir))?.path()));
            paths.filter(|path| path.as_ref().map_or(true, is_written)).collect()
        }
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::io(dir)(source)),
    }
}

/// Removes a file, or a folder with all that is in it.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), Error> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(Error::io(path))
}

/// Reads and parses a file; `None` if it does not exist.
fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).map(Some).map_err(|reason| Error::malformed(path, reason)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io(path)(source)),
    }
}

fn absent_or(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
