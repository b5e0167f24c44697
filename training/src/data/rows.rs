//! A split's rows, checked for training, labels still as written.

use std::path::Path;

use polyrank::text::rows::Rows;

use super::DataError;

/// A row with its place for messages.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// In the file, from 1.
    pub(super) line: usize,
    /// As written; empty where a test file has none.
    pub(super) label: String,
    pub(super) text: String,
    pub(super) pair: Option<String>,
}

impl Row {
    /// GLUE's test files have no labels, or -1.
    pub(super) fn is_labelled(&self) -> bool {
        !self.label.is_empty() && self.label != "-1"
    }
}

/// All rows of a file, each with a text.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, DataError> {
    // A test file may lack labels; whoever needs them says so by the empty ones.
    let test = path.file_stem().is_some_and(|stem| stem == "test");
    let mut first = true;
    let row = |row: Result<polyrank::text::rows::Row, _>| {
        let row = row?;
        let first = std::mem::take(&mut first);
        let label = match row.label {
            Some(label) if test || !label.is_empty() => label,
            None if test => String::new(),
            Some(_) => return Err(DataError::line(path, row.line, "the label is empty")),
            None if first => return Err(DataError::NoLabels { path: path.to_owned() }),
            // An object among JSON lines.
            None => return Err(DataError::line(path, row.line, "label is missing")),
        };
        match row.text.trim().is_empty() && row.pair.as_ref().is_none_or(|pair| pair.trim().is_empty()) {
            true => Err(DataError::line(path, row.line, "the text is empty")),
            false => Ok(Row { line: row.line, label, text: row.text, pair: row.pair }),
        }
    };
    let rows = Rows::open(path)?.map(row).collect::<Result<Vec<_>, _>>()?;
    match rows.is_empty() {
        true => Err(DataError::Empty { path: path.to_owned() }),
        false => Ok(rows),
    }
}
