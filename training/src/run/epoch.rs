//! The log of a run's epochs: a line for each.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::path::Path;

use serde::{Serialize, Serializer};

use super::LOG;
use crate::error::Error;
use crate::json_lines;

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
    /// The number of trained parameters without the head and without pruned ones.
    pub parameters: usize,
    /// Their share of the parameters at the start of training.
    pub kept: f64,
    /// The duration of the steps.
    pub seconds: f64,
    /// The speed of training.
    pub tokens_per_second: f64,
    /// Whether the run ended here, before all its epochs, because too many epochs in a row were not better than the best.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended_early: bool,
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
        write!(f, "{}, {:.0} tokens/s", ranks(self.mean_rank, self.kept), self.tokens_per_second)
    }
}

/// The mean rank and the share of the parameters that are kept, after a comma; empty for a method without ranks, which keeps everything.
pub(crate) fn ranks(mean_rank: f64, kept: f64) -> String {
    if mean_rank == 0.0 && kept == 1.0 {
        String::new()
    } else {
        format!(", mean rank {mean_rank:.2}, {:.1} % kept", 100.0 * kept)
    }
}

/// Adds a line to the log of the epochs of the run in the folder `run`.
///
/// # Errors
/// The file cannot be written.
pub fn log(run: &Path, epoch: &Epoch) -> Result<(), Error> {
    // The checkpoint that follows is on the disk for certain. Without its line, the run could not count as finished.
    json_lines::append_durably(&run.join(LOG), epoch)
}
