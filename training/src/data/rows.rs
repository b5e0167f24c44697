//! A split's rows, checked for training, labels still as written.

use std::path::Path;

use polyrank::text::rows::{ColumnNames, Label, Rows};

use super::DataError;
use super::spelling::whole;

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
        !self.label.is_empty() && whole(&self.label) != Some(-1)
    }
}

/// All rows of a file, each with a text. Those of a `test` file may lack labels, which are empty then.
pub(super) fn read(path: &Path, names: &ColumnNames, test: bool) -> Result<Vec<Row>, DataError> {
    let row = |row: Result<polyrank::text::rows::Row, _>| {
        let row = row?;
        let wrong = |reason: String| Err(DataError::line(path, row.line, reason));
        let label = match row.label {
            Some(Label::Text(label)) if test || !label.is_empty() => label,
            None if test => String::new(),
            Some(Label::Text(_)) | None => return wrong("the label is empty".to_owned()),
            Some(Label::List(label)) => {
                return wrong(format!(
                    "label {label}: several labels a row: multi-label training is not there yet; expected one label a row"
                ));
            }
            Some(Label::Other(label)) => {
                return wrong(format!("label {label}: expected a string, a whole number or a number"));
            }
        };
        match row.text.trim().is_empty() && row.pair.as_ref().is_none_or(|pair| pair.trim().is_empty()) {
            true => wrong("the text is empty".to_owned()),
            false => Ok(Row { line: row.line, label, text: row.text, pair: row.pair }),
        }
    };
    let rows = Rows::select(path, names, !test)?.map(row).collect::<Result<Vec<_>, _>>()?;
    match rows.is_empty() {
        true => Err(DataError::Empty { path: path.to_owned() }),
        false => Ok(rows),
    }
}
