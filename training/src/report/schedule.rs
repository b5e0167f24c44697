//! Reads what `polyrank-train schedule` left in its folder: a line for each stage of Algorithm 1.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::trained::{TrainedRun, lines};
use crate::error::Error;

const STAGES: &str = "schedule.jsonl";

/// A run of Algorithm 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schedule {
    /// Name of the task.
    pub(super) task: String,
    /// Its stages, in order.
    pub(super) stages: Vec<Stage>,
}

/// A line of `schedule.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Stage {
    /// The number of the stage, from 0.
    pub(super) stage: usize,
    /// The number of parameters that are not zero.
    pub(super) parameters: usize,
    /// The stage in percent of stage 0.
    pub(super) percent: Percent,
}

/// The primary metric of a stage in percent of stage 0's; `None` where that is zero.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Percent {
    /// On training data (memorisation).
    pub(super) train: Option<f64>,
    /// On validation data (generalisation).
    pub(super) validation: Option<f64>,
}

impl Schedule {
    pub(super) fn is_at(folder: &Path) -> bool {
        folder.join(STAGES).is_file()
    }

    /// Reads the schedule in `folder`. Its task is that of a stage, else the folder's name.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let stages = lines(&folder.join(STAGES))?;
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
