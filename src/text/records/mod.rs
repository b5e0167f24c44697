//! Reads the rows of a data file, one at a time: TSV without quoting, CSV, JSON (one object on each line, or an array of objects),
//! Parquet, or plain lines. Training reads its splits and `polyrank classify --input` reads its texts this way. Memory does not grow
//! with the file, because it is never read into memory as a whole.

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

pub use columns::{ColumnNames, LabelColumn};
pub use error::RecordsError;

use self::columns::{Columns, Header};
use self::lines::{Lines, decoded};

/// The value in a row's column of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// A string, a number or a boolean as it is spelt, without blanks around it. It is empty if the cell is empty or null.
    Text(String),
    /// A list of labels (JSON, Parquet), each as it is spelt, without blanks around it. An element is empty if it is null.
    List(Vec<String>),
    /// An object, or something that is not JSON (`NaN`), as it is spelt.
    Other(String),
}

/// A row, with its label as it is spelt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The line at which it begins, from 1. In a Parquet file or a JSON array, the number of the row.
    pub line: usize,
    /// `None` if the file has no column of labels, or it is not read.
    pub label: Option<Label>,
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}

/// The extensions of the known formats.
pub const EXTENSIONS: [&str; 6] = ["tsv", "csv", "jsonl", "json", "parquet", "txt"];

/// The rows of a file, whose extension gives its format. In a `.txt` file, each line is a text, even a blank line; other formats skip
/// blank lines. Columns are found by name: `label` (optional), and `sentence`, or `sentence1` and `sentence2`, or `text` and optionally
/// `text_pair`, or those that [`ColumnNames`] gives. The values of other columns are not read. Text is UTF-8, or UTF-16 with a
/// byte-order mark.
///
/// ```
/// use polyrank::text::records::{Label, Records};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = tempfile::Builder::new().suffix(".tsv").tempfile()?;
/// std::fs::write(&file, "label\tsentence\nbilling\tI was charged twice.\n")?;
/// for row in Records::open(file.path())? {
///     let row = row?;
///     assert_eq!((row.line, row.text.as_str()), (2, "I was charged twice."));
///     assert_eq!(row.label, Some(Label::Text("billing".into())));
/// }
/// # Ok(())
/// # }
/// ```
pub struct Records(Box<dyn Iterator<Item = Result<Record, RecordsError>> + Send>);

impl Records {
    /// Opens `path` and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown format, is empty, or lacks the columns of a text.
    pub fn open(path: &Path) -> Result<Self, RecordsError> {
        Self::select(path, &ColumnNames::default(), LabelColumn::Optional)
    }

    /// Opens `path` to read the columns that `names` gives, and the column of labels as `labels` says.
    ///
    /// # Errors
    /// As [`Self::open`]; or a column that is given or required is missing.
    pub fn select(path: &Path, names: &ColumnNames, labels: LabelColumn) -> Result<Self, RecordsError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        Self::read(path, extension, names, labels)
    }

    /// The names of the classes in the column of labels, in order of id, where a Parquet file states them: the `ClassLabel` features of
    /// the library `datasets`, which every Parquet file of the hub has. `None` for files that state no names.
    ///
    /// # Errors
    /// The file cannot be read, or a column that `names` gives is missing.
    pub fn class_names(path: &Path, names: &ColumnNames) -> Result<Option<Vec<String>>, RecordsError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension) if extension.eq_ignore_ascii_case("parquet") => parquet::class_names(path, names),
            _ => Ok(None),
        }
    }

    /// As [`Self::select`], in the format of `extension`, whatever the file's name is. The path `-` is standard input, except for Parquet.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub fn open_as(
        path: &Path,
        extension: &str,
        names: &ColumnNames,
        labels: LabelColumn,
    ) -> Result<Self, RecordsError> {
        Self::read(path, extension, names, labels)
    }

    fn read(path: &Path, extension: &str, names: &ColumnNames, labels: LabelColumn) -> Result<Self, RecordsError> {
        Ok(Self(match extension.to_ascii_lowercase().as_str() {
            "tsv" => Box::new(tsv::rows(Lines::open(path)?, names, labels)?),
            "csv" => Box::new(csv::rows(path, decoded(path)?, names, labels)?),
            "jsonl" | "json" => json::rows(Lines::open(path)?, names.clone(), labels)?,
            "parquet" => Box::new(parquet::rows(path, names, labels)?),
            "txt" => Box::new(plain(path, names, labels)?),
            _ => return Err(RecordsError::Format { path: path.to_owned() }),
        }))
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// Reads one text from each line. There are no columns.
fn plain(
    path: &Path,
    names: &ColumnNames,
    labels: LabelColumn,
) -> Result<impl Iterator<Item = Result<Record, RecordsError>> + Send + use<>, RecordsError> {
    let label = names.label.as_ref().filter(|_| labels != LabelColumn::Ignored);
    let named = names.text.as_ref().or(names.pair.as_ref()).or(label).map(String::as_str);
    if let Some(column) = named.or((labels == LabelColumn::Required).then_some("label")) {
        return Err(RecordsError::Column {
            path: path.to_owned(),
            line: None,
            column: column.to_owned(),
            found: "one text on each line".to_owned(),
            expected: "a format with columns",
        });
    }
    let mut lines = Lines::open(path)?;
    Ok(std::iter::from_fn(move || {
        let line = lines.next_line().transpose()?;
        Some(line.map(|(line, text)| Record { line, label: None, text: text.to_owned(), pair: None }))
    }))
}

#[cfg(test)]
mod tests;
