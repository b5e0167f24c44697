//! The log of a run: a line for each epoch.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::fs;
use std::io::Write;
use std::path::Path;

use polyrank::atomic_file;
use serde::{Serialize, Serializer};

use super::{LOG, read};
use crate::error::Error;

/// The values of metrics by name. The best epoch is selected by the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(pub Vec<(&'static str, f64)>);

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// A finished epoch, which is a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Epoch {
    /// The number of the epoch, from 1.
    pub epoch: usize,
    /// The number of steps of the run so far.
    pub step: usize,
    /// The mean training loss over the epoch's examples.
    pub loss: f64,
    /// The metrics on the split by which the best epoch is selected.
    pub metrics: Scores,
    /// The mean loss on that split.
    pub validation_loss: f64,
    /// The metrics on other splits, by name (MNLI's `validation_mismatched`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, Scores>,
    /// The mean rank over adapted sites.
    pub mean_rank: f64,
    /// The number of parameters of the deltas, without pruned ones.
    pub parameters: usize,
    /// The share of the deltas' parameters that is left.
    pub kept: f64,
    /// The duration of the steps.
    pub seconds: f64,
    /// The speed of training.
    pub tokens_per_second: f64,
}

impl Display for Epoch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "epoch {}: loss {:.4}", self.epoch, self.loss)?;
        if let Some((name, value)) = self.metrics.0.first() {
            write!(f, ", {name} {value:.4} (loss {:.4})", self.validation_loss)?;
        }
        for (split, scores) in &self.also {
            if let Some((name, value)) = scores.0.first() {
                write!(f, ", {split} {name} {value:.4}")?;
            }
        }
        let (kept, speed) = (100.0 * self.kept, self.tokens_per_second);
        write!(f, ", mean rank {:.2}, {kept:.1} % kept, {speed:.0} tokens/s", self.mean_rank)
    }
}

/// Adds a line to the run's log.
///
/// # Errors
/// The file cannot be written.
pub fn log(run: &Path, epoch: &Epoch) -> Result<(), Error> {
    let path = run.join(LOG);
    let entry = serde_json::to_string(epoch).map_err(|error| Error::malformed(&path, error))?;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
    file.write_all(format!("{entry}\n").as_bytes()).map_err(Error::io(&path))
}

/// Removes the lines of epochs after `epoch`, and incomplete lines, from the log.
///
/// # Errors
/// The file cannot be read or written.
pub fn trim_log(run: &Path, epoch: usize) -> Result<(), Error> {
    let path = run.join(LOG);
    let Some(text) = read(&path, |text| Ok(text.to_owned()))? else { return Ok(()) };
    let done = |line: &&str| {
        let entry = serde_json::from_str::<serde_json::Value>(line).ok();
        entry.and_then(|entry| entry["epoch"].as_u64()).is_some_and(|of| of as usize <= epoch)
    };
    let kept: String = text.lines().filter(done).map(|line| format!("{line}\n")).collect();
    if kept == text { Ok(()) } else { atomic_file::write(&path, kept.as_bytes()).map_err(Error::io(&path)) }
}
