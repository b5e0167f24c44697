//! The errors of training.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use polyrank::adapter::AdapterError;
use polyrank::base::ModelError;
use polyrank::text::TokenizeError;

use crate::data::DataError;

/// An error in training, pruning or evaluation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error in the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An error in the base, an adapter or the forward pass.
    #[error(transparent)]
    Runtime(#[from] polyrank::engine::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is malformed.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings are invalid, or contradict each other.
    #[error("{0}")]
    Settings(String),
    /// The data has another number of labels than the adapter.
    #[error(
        "the adapter has {} labels, but the data has {}: {} and {}; a labels.txt in the data's folder names labels that have no row",
        .adapter.len(), .data.len(), some(.adapter), some(.data)
    )]
    LabelCount {
        /// The adapter's labels.
        adapter: Vec<String>,
        /// The data's labels.
        data: Vec<String>,
    },
    /// The data has other labels than the adapter.
    #[error("labels differ: the adapter has {adapter:?}, the data has {data:?}")]
    LabelNames {
        /// The adapter's labels.
        adapter: Vec<String>,
        /// The data's labels.
        data: Vec<String>,
    },
    /// It is not known whether the numbers in the data are ids or the adapter's names of labels, which are given.
    #[error(
        "the labels of the data are whole numbers, which may be ids or the adapter's names {0:?}; labels.txt with these names decides"
    )]
    LabelNumbers(Vec<String>),
    /// A folder has no finished runs to report on.
    #[error("{runs}: expected finished runs, found none{}", after(.notes))]
    NoFinishedRuns {
        /// The folder.
        runs: PathBuf,
        /// Why runs in it are left out.
        notes: Vec<String>,
    },
    /// A file that a report would replace is not of a report.
    #[error("{0} exists, and is not of a report")]
    NotOfReport(PathBuf),
    /// A folder is no checkpoint.
    #[error("{dir} is not a checkpoint: expected the folder checkpoint-N of a run{}", such_as(.last.as_deref()))]
    NotCheckpoint {
        /// The folder.
        dir: PathBuf,
        /// The last checkpoint of the run in the folder, if there is one.
        last: Option<PathBuf>,
    },
    /// A folder holds something else than an adapter.
    #[error("{dir}: {instead}")]
    NotAdapter {
        /// The folder.
        dir: PathBuf,
        /// What it is instead, as a hint for the user.
        instead: String,
    },
    /// A result could not be encoded as JSON.
    #[error("{what}: {source}")]
    Json {
        /// The result in words.
        what: String,
        /// The encoder's error.
        source: serde_json::Error,
    },
    /// A table could not be encoded as CSV.
    #[error("CSV: {0}")]
    Csv(csv::Error),
    /// The output folder of a command that replaces nothing is not empty.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// The output folder is not empty.
    #[error("{0} is not empty: continue its run with --resume, or replace it with --overwrite")]
    OutputExists(PathBuf),
    /// The output folder has no run to continue.
    #[error("{0} has no run to continue; --overwrite replaces an adapter")]
    NoRun(PathBuf),
    /// The run cannot be continued.
    #[error("the checkpoints of the run in {0} are gone, so that it cannot be continued; --overwrite trains anew")]
    NoCheckpoint(PathBuf),
    /// A file to be overwritten belongs to neither an adapter nor a run.
    #[error("{0} belongs to neither an adapter nor a run: --overwrite does not replace it")]
    Foreign(PathBuf),
    /// Another process trains in the same folder, or writes to it.
    #[error("{0}: another process trains here, or writes its result")]
    Busy(PathBuf),
    /// The held-out rows of the data are no longer those of the run.
    #[error(
        "{0}: the data has changed since this run held out a share of it: give --validation-split and --seed, or a validation file"
    )]
    HeldOut(PathBuf),
    /// A run cannot be continued with another output folder that has files.
    #[error("--resume: the run in {run} writes to {before}; this call writes to {now}, which is not empty")]
    OtherOutput {
        /// The run's folder.
        run: PathBuf,
        /// The folder that it began with.
        before: PathBuf,
        /// The folder of this call.
        now: PathBuf,
    },
    /// A run cannot be continued with other settings, another base or other data.
    #[error("--resume: {path}: the run was started with {entry} = {before}; this call has {now}")]
    OtherRun {
        /// The run's file.
        path: PathBuf,
        /// The entry that differs.
        entry: String,
        /// The entry's value in the run.
        before: String,
        /// The entry's value in this call.
        now: String,
    },
    /// Logits are not finite: this run, or the run that made the adapter, has diverged.
    #[error("text {text}: the logits are {logits:?}: expected finite numbers; lower the learning rate")]
    NotFinite {
        /// The number of the text in its split, from 1.
        text: usize,
        /// The text's logits.
        logits: Vec<f32>,
    },
    /// The loss is NaN or infinite.
    #[error("the loss is {loss} at step {step}: lower the learning rate")]
    Diverged {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f32,
    },
    /// A value is NaN or infinite although the loss is not.
    #[error("{tensor} is NaN or infinite at step {step}: lower the learning rate")]
    NotFiniteTensor {
        /// The step, from 1.
        step: usize,
        /// The tensor in words: the gradient of a variable, or a variable.
        tensor: String,
    },
    /// A signal stopped the run after a step. The state is on disk.
    #[error("stopped after step {step} of {steps}, in epoch {epoch} of {epochs}")]
    Stopped {
        /// The number of steps that were made.
        step: usize,
        /// The number of steps of the whole run.
        steps: usize,
        /// The epoch of the next step, from 1.
        epoch: usize,
        /// The number of epochs of the whole run.
        epochs: usize,
    },
    /// A run cannot be continued with fewer epochs.
    #[error(
        "--resume: {path}: the run was started with {planned} epochs and has finished {done}; expected --epochs {planned} or more, found {now}"
    )]
    FewerEpochs {
        /// The run's file.
        path: PathBuf,
        /// The run's epochs.
        planned: usize,
        /// The number of finished epochs.
        done: usize,
        /// The epochs in this call.
        now: usize,
    },
    /// A schedule cannot be continued with fewer stages.
    #[error("--resume: {output}: the schedule has begun {begun} stages; the thresholds of this call give {now}")]
    FewerStages {
        /// The schedule's folder.
        output: PathBuf,
        /// The number of stages that have begun.
        begun: usize,
        /// The number of stages in this call.
        now: usize,
    },
    /// A finished stage of a schedule was deleted, and so was the checkpoint that it started from.
    #[error(
        "{stage} was deleted, and cannot be made again without the checkpoint of {before}; --overwrite trains all stages anew"
    )]
    LostStage {
        /// The folder of the deleted stage.
        stage: PathBuf,
        /// The folder of the stage before it.
        before: PathBuf,
    },
    /// A sweep does not make a run longer.
    #[error(
        "{path}: the run was started with epochs = {before}; the sweep has {now}, but makes no run longer, because a longer run is not \
         trained as a new one is: give another --output, or remove the run's folder"
    )]
    LongerRun {
        /// The run's file.
        path: PathBuf,
        /// The run's epochs.
        before: usize,
        /// The epochs in the sweep.
        now: usize,
    },
    /// Some runs of a sweep failed. Their reasons have been printed.
    #[error("{failed} of {all} runs failed")]
    FailedRuns {
        /// The number of failed runs.
        failed: usize,
        /// The number of all runs.
        all: usize,
    },
    /// A signal stopped a sweep.
    #[error("stopped after {finished} of {all} runs")]
    SweepStopped {
        /// The number of finished runs.
        finished: usize,
        /// The number of all runs.
        all: usize,
    },
    /// A folder has no fine-tuned text classifier.
    #[error("{path}: expected a fine-tuned text classifier, found {found}")]
    NotClassifier {
        /// The file.
        path: PathBuf,
        /// What the file has instead.
        found: String,
    },
    /// A fine-tuned model was not fine-tuned from the base.
    #[error(
        "{path}: it was not fine-tuned from this base: {what}: expected {expected}, as the base has, found {found}"
    )]
    OtherBase {
        /// The fine-tuned model's file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// The base's value.
        expected: String,
        /// The fine-tuned model's value.
        found: String,
    },
    /// Fine-tuning changed no linear of the base.
    #[error("{0}: expected linears that differ from the base's, found that all are equal: there is nothing to extract")]
    Unchanged(PathBuf),
    /// Threads could not be started.
    #[error("threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Makes the error of a file that could not be read or written from the system's error.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    /// Makes the error of a result that could not be encoded as JSON from the encoder's error.
    pub fn json(what: &str) -> impl FnOnce(serde_json::Error) -> Self + '_ {
        move |source| Self::Json { what: what.to_owned(), source }
    }

    /// The error of a malformed file.
    pub fn malformed(path: &Path, reason: impl ToString) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// The first of these names.
fn some(names: &[String]) -> String {
    const MOST: usize = 5;
    let more = if names.len() > MOST { ", ..." } else { "" };
    format!("{}{more}", names.iter().take(MOST).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "))
}

/// Notes after a sentence.
fn after(notes: &[String]) -> String {
    notes.iter().map(|note| format!("; {note}")).collect()
}

/// A hint at a checkpoint.
fn such_as(last: Option<&Path>) -> String {
    last.map(|last| format!(", such as {}", last.display())).unwrap_or_default()
}

/// The error of a flag, or of a setting that the flag stands for, with another value than one that is `expected`.
///
/// # Errors
/// Always.
pub fn wrong<T>(flag: &str, expected: impl Display, found: impl Display) -> Result<T, Error> {
    Err(Error::Settings(format!("{flag}: expected {expected}, found {found}")))
}

impl From<AdapterError> for Error {
    fn from(error: AdapterError) -> Self {
        Self::Runtime(error.into())
    }
}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        Self::Runtime(error.into())
    }
}

impl From<TokenizeError> for Error {
    fn from(error: TokenizeError) -> Self {
        Self::Runtime(error.into())
    }
}
