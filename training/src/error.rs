//! Every error of training.

use std::path::{Path, PathBuf};

use polyrank::adapter::AdapterError;
use polyrank::base::ModelError;
use polyrank::text::TokenizeError;

use crate::data::DataError;

/// What training, pruning or evaluating can raise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The base or the forward pass.
    #[error(transparent)]
    Runtime(#[from] polyrank::engine::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that make no sense, or not together.
    #[error("{0}")]
    Settings(String),
    /// The output folder holds something.
    #[error("{0} is not empty: continue its run with --resume, or replace it with --overwrite")]
    OutputExists(PathBuf),
    /// The output folder holds no run that could go on.
    #[error("{0} holds no run to go on with; --overwrite replaces an adapter")]
    NoRun(PathBuf),
    /// What is to be overwritten is no work of ours.
    #[error("{0} is neither an adapter's nor a run's: --overwrite does not replace it")]
    Foreign(PathBuf),
    /// A second process in one run's folder.
    #[error("{0}: another process trains here")]
    Busy(PathBuf),
    /// Rows that were held out once, and are not what the data gives today.
    #[error(
        "{0}: the data has changed since this run held out a share of it: give --validation-split and --seed, or a validation file"
    )]
    HeldOut(PathBuf),
    /// A run that is to go on, but with other settings, data or base.
    #[error("--resume: {path}: the run was begun with {entry} = {before}; this call has {now}")]
    OtherRun {
        /// The run's file.
        path: PathBuf,
        /// What differs.
        entry: String,
        /// As the run was begun.
        before: String,
        /// As it would go on.
        now: String,
    },
    /// Answers that are no numbers: the run, or the one that made the adapter, has diverged.
    #[error("text {text}: the logits are {logits:?}: expected finite numbers; a lower learning rate keeps them so")]
    NotFinite {
        /// Which of the split, from 1.
        text: usize,
        /// What it was answered with.
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
    /// The run was told to stop, in the middle of an epoch.
    #[error("stopped after {done} of {epochs} epochs")]
    Stopped {
        /// Epochs that have ended, and whose state is on disk.
        done: usize,
        /// Epochs of the whole run.
        epochs: usize,
    },
    /// Threads could not be started.
    #[error("threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, reason: impl ToString) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }
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
