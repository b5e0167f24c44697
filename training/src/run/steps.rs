//! The log of a run's steps: a line for some of them.

use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::json_lines;

/// The file of this log.
pub(super) const STEPS: &str = "steps.jsonl";

/// A step, which is a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepEntry {
    /// The number of the step in the run, from 1.
    pub step: usize,
    /// The number of the step's epoch, from 1.
    pub epoch: usize,
    /// The mean loss over the step's rows, before the step.
    pub loss: f32,
    /// The learning rate.
    pub rate: f64,
    /// The threshold of the gates; `None` for a method without one.
    pub xi: Option<f64>,
    /// The mean rank over adapted sites, after the step.
    pub mean_rank: f64,
    /// The number of trained parameters without the head and without pruned ones.
    pub parameters: usize,
    /// Their share of the parameters at the start of training.
    pub kept: f64,
}

/// Adds a line to the log of the steps of the run in the folder `run`.
///
/// # Errors
/// The file cannot be written.
pub fn log_step(run: &Path, entry: &StepEntry) -> Result<(), Error> {
    json_lines::append(&run.join(STEPS), entry)
}
