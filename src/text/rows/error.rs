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
    /// A column that is needed.
    #[error("{}: column {column} is missing; found {found}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// Which.
        column: &'static str,
        /// The columns that are there.
        found: String,
    },
    /// A line, or a row of a Parquet file, that cannot be read.
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

impl RowsError {
    pub(super) fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        Self::Line { path: path.to_owned(), line, reason: reason.to_string() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
