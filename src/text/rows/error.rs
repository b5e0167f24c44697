//! What can be wrong with a data file.

use std::path::{Path, PathBuf};

/// A data file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// A format that is not read.
    #[error("{}: its name ends in none of .tsv, .csv, .jsonl, .json, .parquet, .txt", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file without even a header.
    #[error("{}: the file is empty: expected a header and rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A column, or a key of an object, that is needed.
    #[error("{}{}: column {column} is missing; found {found}; expected {expected}", path.display(), at(*line))]
    Column {
        /// The file.
        path: PathBuf,
        /// Of the object, where each row has keys of its own.
        line: Option<usize>,
        /// Which.
        column: String,
        /// The columns that are there.
        found: String,
        /// The columns that are accepted.
        expected: &'static str,
    },
    /// A line that cannot be read, or a row of a Parquet file or of an array in JSON.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file that is not what its name says.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

fn at(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}

impl RowsError {
    pub(super) fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        Self::Line { path: path.to_owned(), line, reason: reason.to_string() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
