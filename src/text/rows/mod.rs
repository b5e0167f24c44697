//! Rows of a data file, one at a time: TSV without quoting, CSV, JSON lines, Parquet, or plain lines. Training reads its splits by
//! it, `polyrank classify --input` its texts. A file is never held whole, so that memory does not grow with it.

mod columns;
mod csv;
mod error;
mod json;
mod lines;
mod parquet;
mod tsv;

use std::path::Path;

pub use error::RowsError;

use self::columns::Columns;
use self::lines::{Lines, decoded};

/// A row, its label still as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it begins in the file, from 1; of a Parquet file, the number of the row.
    pub line: usize,
    /// `None` where the file has no column `label`; empty where the cell is.
    pub label: Option<String>,
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}

/// The names that a file may end in, without the dot.
pub const EXTENSIONS: [&str; 6] = ["tsv", "csv", "jsonl", "json", "parquet", "txt"];

/// The rows of a file, by the end of its name. `.txt` is a text a line, blank ones too; elsewhere blank lines are skipped. Columns
/// are found by name: `label` (optional here), and `sentence`, or `sentence1` and `sentence2`, or `text` and perhaps `text_pair`.
/// Text is UTF-8, or UTF-16 with its byte-order mark.
pub struct Rows(Box<dyn Iterator<Item = Result<Row, RowsError>> + Send>);

impl Rows {
    /// Opens `path` and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, is of another kind, is empty, or lacks the columns of a text.
    pub fn open(path: &Path) -> Result<Self, RowsError> {
        Self::open_as(path, path.extension().and_then(|extension| extension.to_str()).unwrap_or_default())
    }

    /// [`Self::open`] for a file in the format of names that end in `extension`. The path `-` is standard input, except for Parquet.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, extension: &str) -> Result<Self, RowsError> {
        Ok(Self(match extension.to_ascii_lowercase().as_str() {
            "tsv" => Box::new(tsv::rows(Lines::open(path)?)?),
            "csv" => Box::new(csv::rows(path, decoded(path)?)?),
            "jsonl" | "json" => Box::new(json::rows(Lines::open(path)?)),
            "parquet" => Box::new(parquet::rows(path)?),
            "txt" => Box::new(plain(Lines::open(path)?)),
            _ => return Err(RowsError::Format { path: path.to_owned() }),
        }))
    }
}

impl Iterator for Rows {
    type Item = Result<Row, RowsError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// A text a line.
fn plain(mut lines: Lines) -> impl Iterator<Item = Result<Row, RowsError>> + Send {
    std::iter::from_fn(move || {
        let line = lines.next_line().transpose()?;
        Some(line.map(|(line, text)| Row { line, label: None, text: text.to_owned(), pair: None }))
    })
}

#[cfg(test)]
mod tests;
