//! Errors in a task's data.

use std::path::{Path, PathBuf};

use polyrank::text::records::RecordsError;

use super::labelled::Labelled;

/// The reason why data cannot be used for training or evaluation.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder or file does not exist.
    #[error("{0}: no such folder or file")]
    NoFolder(PathBuf),
    /// It is no folder, and no file that can be read several times, such as a pipe.
    #[error("{0}: expected a folder or a regular file")]
    NoRegularFile(PathBuf),
    /// The folder has no training file.
    #[error(
        "{0}: expected train.tsv, train.csv, train.jsonl, train.json or train.parquet; for a file of another name, give --data FILE"
    )]
    NoTrain(PathBuf),
    /// The folder has no file to evaluate on.
    #[error(
        "{0}: expected train, validation, validation_matched, dev or test, with .tsv, .csv, .jsonl, .json or .parquet"
    )]
    NoData(PathBuf),
    /// Two files hold the same split.
    #[error("{first} and {second}: expected one file for a split")]
    TwoFiles {
        /// One of the files.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
    /// A data file could not be read.
    #[error("{error}{hint}", error = .0, hint = column_hint(.0))]
    Records(#[from] RecordsError),
    /// The file has no rows, or no names.
    #[error("{path}: the file is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The rows of a split are pairs, and those of the training split are single texts, or the other way round.
    #[error("{path}: the rows are {}, but those of {train} are {}", kind(*pairs), kind(!pairs))]
    Pairs {
        /// The split's file.
        path: PathBuf,
        /// The training file.
        train: PathBuf,
        /// Whether the split's rows are pairs.
        pairs: bool,
    },
    /// A folder could not be listed.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A part of a split that is cut into several files is missing.
    #[error("{0}: this part of the split is missing")]
    Part(PathBuf),
    /// No row of a task with several labels a row has a label.
    #[error("{path}: no row has a label: expected labels, or their names in labels.txt")]
    NoLabels {
        /// The training file.
        path: PathBuf,
    },
    /// No row of a test file has a label.
    #[error("{path}: no row has a label; --label-column names the column of labels, if its name is not label")]
    Unlabelled {
        /// The file.
        path: PathBuf,
    },
    /// The weights of classes are malformed, or do not fit the labels.
    #[error("--class-weights: expected {expected}, found {found:?}")]
    ClassWeights {
        /// What was expected.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A label is one class as an id and another as a name.
    #[error(
        "{path}:{line}: the label {label} is ambiguous: it is the name of id {named} in {from}, but as an id from 0 to {} it is another \
         class; let all names in {from} be whole numbers that include every label, let them be words, or spell the labels as names",
        count - 1
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The label as it is spelt.
        label: String,
        /// The source of the names.
        from: &'static str,
        /// The label's id, if it is read as a name.
        named: usize,
        /// The number of names.
        count: usize,
    },
    /// A line is malformed.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A label is not one of the known labels.
    #[error("{path}:{line}: unknown label {label:?}; expected {expected}")]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The label as it is spelt.
        label: String,
        /// The known labels.
        expected: String,
    },
    /// There are more labels than an adapter can have.
    #[error("{path}: labels: expected at most {most} {what}, found {found}")]
    Labels {
        /// The training file.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// The largest number.
        most: usize,
        /// The number in the data.
        found: usize,
    },
    /// All rows have the same label, or the same labels.
    #[error("{path}: {rows} has {labels}: expected rows that differ")]
    OneClass {
        /// The training file.
        path: PathBuf,
        /// Which of the file's rows.
        rows: &'static str,
        /// The label or labels, with the word `label`.
        labels: String,
    },
    /// The split does not exist.
    #[error("{folder}: no labelled split {split:?}{}", hint(split))]
    NoSplit {
        /// The task's folder.
        folder: PathBuf,
        /// The requested split.
        split: String,
    },
    /// The share to hold out is not between 0 and 1.
    #[error("--validation-split: expected above 0 and below 1, found {share}")]
    Share {
        /// The requested share.
        share: f64,
    },
    /// Holding out this share leaves no rows for training or for validation.
    #[error("{path}: a validation split of {share} of {rows} rows leaves one side empty")]
    Split {
        /// The training file.
        path: PathBuf,
        /// The requested share.
        share: f64,
        /// The number of rows.
        rows: usize,
    },
}

fn kind(pairs: bool) -> &'static str {
    if pairs { "pairs of texts" } else { "single texts" }
}

/// A hint on how to name columns.
fn column_hint(error: &RecordsError) -> &'static str {
    match error {
        RecordsError::Column { .. } => "; --label-column, --text-column and --text-pair-column name others",
        _ => "",
    }
}

/// A hint for a split that has no file.
fn hint(split: &str) -> &'static str {
    match split {
        "validation" => {
            "; --split test reads a test file; if training held out a share of train, give its --validation-split and --seed"
        }
        _ => "",
    }
}

impl DataError {
    /// The error of a path that is neither a folder nor a regular file.
    pub(super) fn unusable(source: &Path) -> Self {
        if source.exists() { Self::NoRegularFile(source.to_owned()) } else { Self::NoFolder(source.to_owned()) }
    }

    /// The error of a row whose `label` is not one of the `expected` ones.
    pub(super) fn unknown(row: &Labelled, label: &str, expected: &str) -> Self {
        Self::UnknownLabel {
            path: row.path.to_path_buf(),
            line: row.line,
            label: label.to_owned(),
            expected: expected.to_owned(),
        }
    }

    pub(super) fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        Self::Line { path: path.to_owned(), line, reason: reason.to_string() }
    }
}
