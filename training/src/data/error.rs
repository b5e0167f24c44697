//! What can be wrong with a task's data.

use std::path::{Path, PathBuf};

use polyrank::text::rows::RowsError;

/// Data that cannot be trained or evaluated on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder is not there.
    #[error("{0}: no such folder")]
    NoFolder(PathBuf),
    /// There is nothing to train on.
    #[error("{0}: expected train.tsv, train.csv, train.jsonl, train.json or train.parquet")]
    NoTrain(PathBuf),
    /// There is nothing to evaluate on.
    #[error(
        "{0}: expected train, validation, validation_matched, dev or test, with .tsv, .csv, .jsonl, .json or .parquet"
    )]
    NoData(PathBuf),
    /// One split in two files.
    #[error("{first} and {second}: expected one file for a split")]
    TwoFiles {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A data file could not be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A file without a row.
    #[error("{path}: the file is empty: expected a header and rows")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The column of labels is needed.
    #[error("{path}: column label is missing")]
    NoLabels {
        /// The file.
        path: PathBuf,
    },
    /// A line that cannot be read.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A label that training does not know.
    #[error("{path}:{line}: unknown label {label:?}; expected {expected}")]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What it says.
        label: String,
        /// What is known.
        expected: String,
    },
    /// Nothing to tell apart.
    #[error("{path}: {rows} has the label {label:?}: expected two classes or more")]
    OneClass {
        /// The training file.
        path: PathBuf,
        /// Which of its rows.
        rows: &'static str,
        /// The label.
        label: String,
    },
    /// A split that is not there.
    #[error("{folder}: no labelled split {split:?}{}", hint(split))]
    NoSplit {
        /// The task's folder.
        folder: PathBuf,
        /// What was asked for.
        split: String,
    },
    /// What is no share, whether one is needed or not.
    #[error("--validation-split: expected above 0 and below 1, found {share}")]
    Share {
        /// The share asked for.
        share: f64,
    },
    /// A share that leaves a side without rows.
    #[error("{path}: a validation split of {share} of {rows} rows leaves one side empty")]
    Split {
        /// The training file.
        path: PathBuf,
        /// The share asked for.
        share: f64,
        /// Rows there are.
        rows: usize,
    },
}

/// What else may be meant where there is no file.
fn hint(split: &str) -> &'static str {
    match split {
        "validation" => "; where training held out a share of train, --validation-split and --seed say which",
        _ => "",
    }
}

impl DataError {
    pub(super) fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        Self::Line { path: path.to_owned(), line, reason: reason.to_string() }
    }
}
