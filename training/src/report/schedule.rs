//! Reads what `polyrank-train schedule` left in its folder: a line for each stage of Algorithm 1.

use std::fs;
use std::path::Path;

use super::trained::TrainedRun;
use crate::error::Error;
use crate::json_lines;
use crate::schedule::{SCHEDULE, Stage};

/// A run of Algorithm 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schedule {
    /// Name of the task.
    pub(super) task: String,
    /// Its stages, in order.
    pub(super) stages: Vec<Stage>,
}

impl Schedule {
    pub(super) fn is_at(folder: &Path) -> bool {
        folder.join(SCHEDULE).is_file()
    }

    /// Reads the schedule in `folder`. Its task is that of a stage, else the folder's name.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let stages = json_lines::read(&folder.join(SCHEDULE))?;
        let mut task = None;
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if task.is_none() && TrainedRun::is_at(&path) {
                task = Some(TrainedRun::read(&path)?.task);
            }
        }
        let named = || folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { task: task.unwrap_or_else(named), stages })
    }
}
