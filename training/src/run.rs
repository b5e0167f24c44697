//! A run's folder (`DIR/run` by default): the settings (`config.toml`), facts about the data and the base (`task.json`), the logs of
//! epochs (`log.jsonl`) and steps (`steps.jsonl`), and the checkpoints.

mod config;
mod epoch;
mod facts;
mod locked_output;
mod output;
mod steps;

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use polyrank::atomic_file;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::config::{Config, extended_from, recorded};
pub(crate) use self::epoch::ranks;
pub use self::epoch::{Epoch, Scores, log};
pub use self::facts::{Facts, Part};
pub use self::locked_output::LockedOutput;
use self::steps::STEPS;
pub use self::steps::{StepEntry, log_step};
use crate::checkpoint;
use crate::error::Error;
use crate::settings::Settings;

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
}

/// Checks that a run may start or continue in these folders. Changes no files.
///
/// # Errors
/// A folder is not empty; the run to continue has other settings or facts (the error names them) or does not exist; or a file to
/// overwrite belongs to neither a run nor an adapter.
pub fn check(folders: &Folders, existing: Existing, settings: &Settings, facts: &Facts) -> Result<(), Error> {
    let Folders { output, run } = folders;
    let (in_output, in_run) = (names(output)?, names(run)?);
    match existing {
        Existing::Refuse if !in_output.is_empty() => Err(Error::OutputExists(output.clone())),
        Existing::Refuse if !in_run.is_empty() => Err(Error::OutputExists(run.clone())),
        Existing::Resume if run.join(CONFIG).exists() || checkpoint::last(run)?.is_some() => {
            output::check(folders)?;
            let (begun_with, begun_on) = recorded(run)?;
            begun_on.check_base(run, &facts.base)?;
            // The base is the same, whatever it is called now: a folder may have moved, or be named from another directory.
            let begun_with = Settings { model_id: settings.model_id.clone(), ..begun_with };
            same(&run.join(CONFIG), &config::continued_as(begun_with, settings), settings)?;
            same(&run.join(FACTS), &begun_on, facts)?;
            // Otherwise it would begin again from the first step, and lose its log.
            let lost = checkpoint::last(run)?.is_none() && (epochs(run)? > 1 || has_exported(folders));
            if lost { Err(Error::NoCheckpoint(run.clone())) } else { Ok(()) }
        }
        Existing::Resume if in_output.iter().any(|name| name != run) => Err(Error::NoRun(output.clone())),
        Existing::Overwrite => {
            let (labels, exported) = (output.join("config.json"), has_adapter(output));
            let ours = |path: &PathBuf| [CONFIG, FACTS, LOCK].iter().any(|name| *path == run.join(name));
            if labels.exists() && !exported {
                return Err(Error::Foreign(labels));
            }
            let foreign = !in_run.is_empty() && !in_run.iter().any(ours) && checkpoint::last(run)?.is_none();
            if foreign { Err(Error::Foreign(run.clone())) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// The number of complete lines in the log of the run in the folder `run`. The last epoch may have no checkpoint.
fn epochs(run: &Path) -> Result<usize, Error> {
    Ok(read(&run.join(LOG), |text| Ok(text.matches('\n').count()))?.unwrap_or(0))
}

/// Whether the adapter, or what another method leaves, is this run's own.
fn has_exported(Folders { output, run }: &Folders) -> bool {
    has_adapter(output) && !run.join(REPLACING).exists()
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

/// A run's folder and that of its result, locked for this process.
#[must_use]
pub struct LockedRun {
    run: PathBuf,
    _output: LockedOutput,
    /// Dropping the file releases its lock.
    _lock: File,
}

impl LockedRun {
    /// The run's folder.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Records that the adapter beside the run is now this run's own.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn exported(&self) -> Result<(), Error> {
        let path = self.run.join(REPLACING);
        absent_or(fs::remove_file(&path)).map_err(Error::io(&path))
    }
}

/// Whether a run writes files or folders with this name.
fn is_of_run(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [CONFIG, FACTS, LOG, STEPS, REPLACING, OUTPUT].contains(&&*name) || checkpoint::is_checkpoint(&name)
}

/// Creates the run's folder, or removes another run's files from it. Call [`check`] first. An adapter that is to be replaced stays, and
/// can be served, until the new one is written.
///
/// # Errors
/// Another process trains there, or a file cannot be written or removed.
pub fn begin(folders: &Folders, existing: Existing, config: &Config, facts: &Facts) -> Result<LockedRun, Error> {
    let Folders { output, run } = folders;
    // This comes first, because it leaves no file behind where it fails.
    let locked_output = LockedOutput::new(output)?;
    fs::create_dir_all(run).map_err(Error::io(run))?;
    let locked = LockedRun { run: run.to_owned(), _output: locked_output, _lock: lock(run)? };
    if existing == Existing::Refuse && has_adapter(output) {
        // Another command has written it in the meantime.
        return Err(Error::OutputExists(output.clone()));
    }
    if existing == Existing::Overwrite {
        remove_run(run)?;
        // The adapter's usual place for its run would tell of a run that is not its own.
        let usual = Folders::new(output, None).run;
        let place = |folder: &Path| folder.canonicalize().ok();
        if place(&usual).is_some_and(|usual| place(run) != Some(usual)) {
            let _locked = lock(&usual)?;
            remove_run(&usual)?;
        }
    }
    let (overwrites, path) = (existing == Existing::Overwrite, run.join(REPLACING));
    let longer = !overwrites && !path.exists() && config::is_longer(run, config.settings)?;
    if (overwrites || longer) && has_adapter(output) {
        let of: &str = if longer { SHORTER } else { "" };
        atomic_file::write(&path, of.as_bytes()).map_err(Error::io(&path))?;
    }
    output::write(folders)?;
    checkpoint::sweep(run)?;
    atomic_file::sweep(run).map_err(Error::io(run))?;
    // A continued run keeps its facts. The configuration, which marks the folder as a run, is written last.
    if !run.join(CONFIG).exists() {
        let path = run.join(FACTS);
        let json = serde_json::to_vec_pretty(facts).map_err(|error| Error::malformed(&path, error))?;
        atomic_file::write(&path, &json).map_err(Error::io(&path))?;
    }
    config.write(run)?;
    Ok(locked)
}

/// Removes what a run wrote into the folder `run`.
fn remove_run(run: &Path) -> Result<(), Error> {
    parts_to_remove(run)?.iter().try_for_each(|path| remove(path))
}

/// What a run wrote into the folder `run`, in the order in which it is removed. [`REPLACING`] comes last: without it, a run that a call
/// killed in between leaves behind would count as that of the adapter.
fn parts_to_remove(run: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut parts: Vec<PathBuf> = names(run)?.into_iter().filter(|path| is_of_run(path)).collect();
    parts.sort_by_key(|path| path.ends_with(REPLACING));
    Ok(parts)
}

/// Removes a file, or a folder with all that is in it.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), Error> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(Error::io(path))
}

/// Checks that no process trains in the folder `run`.
///
/// # Errors
/// One does.
pub fn check_idle(run: &Path) -> Result<(), Error> {
    let file = fs::OpenOptions::new().write(true).open(run.join(LOCK));
    if file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock))) {
        return Err(Error::Busy(run.to_owned()));
    }
    Ok(())
}

/// Locks the folder `dir`, of a run or of a sweep's runs, until the file is dropped.
///
/// # Errors
/// Another process holds the lock, or the file cannot be written.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(Error::io(&path)(source)),
    }
}

/// Removes the lines of epochs after `epoch` and of steps after `step`, and incomplete lines, from the logs of the run in the folder
/// `run`.
///
/// # Errors
/// A file cannot be read or written.
pub fn trim_logs(run: &Path, epoch: usize, step: usize) -> Result<(), Error> {
    trim(&run.join(LOG), "epoch", epoch)?;
    trim(&run.join(STEPS), "step", step)
}

/// Removes the lines in which the number `key` is greater than `last`, and incomplete lines.
fn trim(path: &Path, key: &str, last: usize) -> Result<(), Error> {
    let Some(text) = read(path, |text| Ok(text.to_owned()))? else { return Ok(()) };
    let done = |line: &&str| {
        let entry = serde_json::from_str::<serde_json::Value>(line).ok();
        entry.and_then(|entry| entry[key].as_u64()).is_some_and(|number| number as usize <= last)
    };
    let kept: String = text.lines().filter(done).map(|line| format!("{line}\n")).collect();
    if kept == text { Ok(()) } else { atomic_file::write(path, kept.as_bytes()).map_err(Error::io(path)) }
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

/// Checks that `now` equals `before`, which the run recorded in the file `path`. The error names the first entry that differs.
fn same<T: Serialize + DeserializeOwned + PartialEq>(path: &Path, before: &T, now: &T) -> Result<(), Error> {
    if before == now {
        return Ok(());
    }
    let entries = |of: &T| match serde_json::to_value(of) {
        Ok(serde_json::Value::Object(entries)) => entries,
        _ => serde_json::Map::new(),
    };
    let (before, now) = (entries(before), entries(now));
    // An entry may be left out on one side.
    let key = now.keys().chain(before.keys()).find(|key| before.get(*key) != now.get(*key)).map_or("", String::as_str);
    let told = |entries: &serde_json::Map<String, serde_json::Value>| {
        entries.get(key).cloned().unwrap_or_default().to_string()
    };
    Err(Error::OtherRun { path: path.to_owned(), entry: key.to_owned(), before: told(&before), now: told(&now) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Otherwise, a run that a killed call leaves in part would count as that of the adapter beside it.
    #[test]
    fn mark_of_another_runs_adapter_is_removed_last() {
        let room = tempfile::tempdir().unwrap();
        let run = room.path();
        for name in [REPLACING, CONFIG, FACTS, LOG, STEPS, OUTPUT, "notes.txt"] {
            fs::write(run.join(name), "").unwrap();
        }
        fs::create_dir(run.join("checkpoint-1")).unwrap();
        let parts = parts_to_remove(run).unwrap();
        assert_eq!((parts.len(), parts.last()), (7, Some(&run.join(REPLACING))));
        remove_run(run).unwrap();
        assert_eq!(names(run).unwrap(), [run.join("notes.txt")]);
    }
}
