//! Errors in data files.

use std::path::{Path, PathBuf};

/// A data file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The file's extension is not that of a known format.
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
        /// The system's error.
        source: std::io::Error,
    },
    /// The file has no header.
    #[error("{}: the file is empty: expected a header and rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A column, or a key of a JSON object, is missing.
    #[error("{}{}: column {column} is missing; found {found}; expected {expected}", path.display(), at(*line))]
    Column {
        /// The file.
        path: PathBuf,
        /// The line of the JSON object; `None` for a file with a header.
        line: Option<usize>,
        /// The missing column.
        column: String,
        /// The columns that are there.
        found: String,
        /// The columns that are accepted.
        expected: &'static str,
    },
    /// A column that is read is there twice.
    #[error("{}: the column {column} is there twice", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// A line, a row of a Parquet file, or an object of a JSON array is malformed.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, row or object, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A row has more or fewer fields than the header.
    #[error("{}:{line}: expected {expected} fields, found {found}{}", path.display(), hint(*beside_return))]
    Fields {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The number of the header's fields.
        expected: usize,
        /// The number of the row's fields.
        found: usize,
        /// Whether a carriage return without a line feed begins or ends the row. It is mostly part of a text that should have been quoted.
        beside_return: bool,
    },
    /// The file does not have the format that its name says, or has columns of a type that cannot be read.
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

fn hint(beside_return: bool) -> &'static str {
    if beside_return { "; a carriage return outside quotes ends a row" } else { "" }
}

impl RecordsError {
    pub(super) fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        Self::Line { path: path.to_owned(), line, reason: reason.to_string() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
