//! What can be wrong with a task's data.

use std::path::{Path, PathBuf};

use polyrank::text::rows::RowsError;

/// Data that cannot be trained or evaluated on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder, or file, is not there.
    #[error("{0}: no such folder or file")]
    NoFolder(PathBuf),
    /// There is nothing to train on.
    #[error(
        "{0}: expected train.tsv, train.csv, train.jsonl, train.json or train.parquet; a file of another name is given as a whole: --data FILE"
    )]
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
    #[error("{error}{hint}", error = .0, hint = column_hint(.0))]
    Rows(#[from] RowsError),
    /// A file without a row.
    #[error("{path}: the file is empty: expected a header and rows")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Labels of a kind that nothing is trained on yet.
    #[error("--problem-type multi_label_classification: several labels a row: multi-label training is not there yet")]
    MultiLabel,
    /// A label with two meanings.
    #[error(
        "{path}:{line}: the label {label} is ambiguous: it is the name of id {named} in {from}, and as an id from 0 to {} it is another;          let the names in {from} be whole numbers that hold every label, or words, or spell the labels as names", count - 1
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What it says.
        label: String,
        /// Where the names come from.
        from: &'static str,
        /// Its id as a name.
        named: usize,
        /// Names there are.
        count: usize,
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

/// How to name columns.
fn column_hint(error: &RowsError) -> &'static str {
    match error {
        RowsError::Column { .. } => "; --label-column, --text-column and --text-pair-column name others",
        _ => "",
    }
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
