//! Rows of a data file, one at a time: TSV without quoting, CSV, JSON (an object a line, or an array of objects), Parquet, or plain
//! lines. Training reads its splits by
//! it, `polyrank classify --input` its texts. A file is never held whole, so that memory does not grow with it.

mod array;
mod columns;
mod csv;
mod error;
mod json;
mod lines;
mod parquet;
mod scan;
mod tsv;

use std::path::Path;

pub use columns::ColumnNames;
pub use error::RowsError;

use self::columns::Columns;
use self::lines::{Lines, decoded};

/// What a row has in its column of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// A string, a number or a truth value, as it is spelt, without blanks around it; empty where the cell is empty or null.
    Text(String),
    /// A list (JSON, Parquet), as it is spelt: several labels.
    List(String),
    /// An object, or something that JSON does not know (`NaN`), as it is spelt.
    Other(String),
}

/// A row, its label still as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it begins in the file, from 1; in a Parquet file and in an array of JSON, the number of the row.
    pub line: usize,
    /// `None` where the file has no column of labels.
    pub label: Option<Label>,
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}

/// The names that a file may end in, without the dot.
pub const EXTENSIONS: [&str; 6] = ["tsv", "csv", "jsonl", "json", "parquet", "txt"];

/// The rows of a file, by the end of its name. `.txt` is a text a line, blank ones too; elsewhere blank lines are skipped. Columns
/// are found by name: `label` (optional here), and `sentence`, or `sentence1` and `sentence2`, or `text` and perhaps `text_pair`,
/// or those that [`ColumnNames`] names. The values of other columns are not looked at. Text is UTF-8, or UTF-16 with its
/// byte-order mark.
///
/// ```
/// use polyrank::text::rows::{Label, Rows};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = tempfile::Builder::new().suffix(".tsv").tempfile()?;
/// std::fs::write(&file, "label\tsentence\nbilling\tI was charged twice.\n")?;
/// for row in Rows::open(file.path())? {
///     let row = row?;
///     assert_eq!((row.line, row.text.as_str()), (2, "I was charged twice."));
///     assert_eq!(row.label, Some(Label::Text("billing".into())));
/// }
/// # Ok(())
/// # }
/// ```
pub struct Rows(Box<dyn Iterator<Item = Result<Row, RowsError>> + Send>);

impl Rows {
    /// Opens `path` and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, is of another kind, is empty, or lacks the columns of a text.
    pub fn open(path: &Path) -> Result<Self, RowsError> {
        Self::select(path, &ColumnNames::default(), false)
    }

    /// Opens `path` to read the columns that `names` tells, among them a column of labels if `labelled`.
    ///
    /// # Errors
    /// As [`Self::open`]; a column that is named or needed and not there.
    pub fn select(path: &Path, names: &ColumnNames, labelled: bool) -> Result<Self, RowsError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        Self::read(path, extension, names, labelled)
    }

    /// [`Self::open`] for a file in the format of names that end in `extension`. The path `-` is standard input, except for Parquet.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, extension: &str) -> Result<Self, RowsError> {
        Self::read(path, extension, &ColumnNames::default(), false)
    }

    fn read(path: &Path, extension: &str, names: &ColumnNames, labelled: bool) -> Result<Self, RowsError> {
        Ok(Self(match extension.to_ascii_lowercase().as_str() {
            "tsv" => Box::new(tsv::rows(Lines::open(path)?, names, labelled)?),
            "csv" => Box::new(csv::rows(path, decoded(path)?, names, labelled)?),
            "jsonl" | "json" => json::rows(Lines::open(path)?, names.clone(), labelled)?,
            "parquet" => Box::new(parquet::rows(path, names, labelled)?),
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
