//! The lock on the folder of a run, or of a sweep's runs.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use super::LOCK;
use crate::error::Error;

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
