//! Prepares a run's folders, and removes another run from them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use polyrank::atomic_file;

use super::steps::STEPS;
use super::{
    CONFIG, Config, Existing, FACTS, Facts, Folders, LOG, LockedOutput, OUTPUT, REPLACING, SHORTER, absent_or, config,
    has_adapter, lock, names, output, remove,
};
use crate::checkpoint;
use crate::error::Error;

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

/// Creates the run's folder, or removes another run's files from it. Call [`super::check()`] first. An adapter that is to be
/// replaced stays, and can be served, until the new one is written.
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
        // A run that lies in the usual place beside the adapter would be taken for the run of this adapter.
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
    checkpoint::remove_unfinished(run)?;
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
