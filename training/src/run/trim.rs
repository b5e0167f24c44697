//! Cuts the logs of a run at the checkpoint from which it goes on.

use std::path::Path;

use polyrank::atomic_file;

use super::steps::STEPS;
use super::{LOG, read};
use crate::error::Error;

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
