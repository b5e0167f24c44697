//! The lock on the folder to which a command writes its result.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use polyrank::atomic_file;

use crate::error::Error;

/// An output folder, locked for this process until the value is dropped, so that two commands do not mix their files in it.
#[must_use]
#[derive(Debug)]
pub struct LockedOutput {
    /// The folder itself: no file for the lock is left in it.
    _folder: Option<File>,
    /// Its path, if it was created.
    created: Option<PathBuf>,
}

impl LockedOutput {
    /// Locks the folder `output`, which is created if it does not exist, and removes what killed writers have left in it.
    ///
    /// # Errors
    /// Another process writes there, or the folder cannot be created or read.
    pub fn new(output: &Path) -> Result<Self, Error> {
        let created = (!output.exists()).then(|| output.to_owned());
        fs::create_dir_all(output).map_err(Error::io(output))?;
        let locked = Self { _folder: lock(output)?, created };
        atomic_file::sweep(output).map_err(Error::io(output))?;
        Ok(locked)
    }
}

impl Drop for LockedOutput {
    /// A command that failed does not leave its folder behind, unless the folder holds files. Parents that were created with it stay.
    fn drop(&mut self) {
        let _ = self.created.as_ref().map(fs::remove_dir);
    }
}

/// `None` where folders have no locks: systems other than Unix cannot open them, and not all file systems lock them.
fn lock(output: &Path) -> Result<Option<File>, Error> {
    if cfg!(not(unix)) {
        return Ok(None);
    }
    let folder = File::open(output).map_err(Error::io(output))?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(output.to_owned())),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    #[cfg(unix)]
    fn one_command_at_a_time_writes_to_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("output");
        let first = LockedOutput::new(&output).unwrap();
        assert!(matches!(LockedOutput::new(&output).unwrap_err(), Error::Busy(path) if path == output));
        let written = atomic_file::begin(&output.join("file")).unwrap();
        let killed = output.join(".writing-abc");
        fs::write(&killed, "x").unwrap();
        drop(first);
        assert!(output.exists(), "a file is in it");
        let _second = LockedOutput::new(&output).unwrap();
        assert!(!killed.exists(), "its writer has ended");
        assert!(written.path().exists(), "its writer lives");
        assert_eq!(fs::read_dir(&output).unwrap().count(), 1);
    }
}
