//! Reads a split's rows and checks them for training. Labels keep their spelling.

use std::path::Path;

use polyrank::text::records::{ColumnNames, Label, Records};

use super::DataError;
use super::spelling::whole;

/// A row, with its line for messages.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labelled {
    /// The row's line in the file, from 1.
    pub(super) line: usize,
    /// The label as it is spelt; empty if a test file has none.
    pub(super) label: String,
    pub(super) text: String,
    pub(super) pair: Option<String>,
}

impl Labelled {
    /// Whether the row has a label. GLUE's test files have no labels, or -1.
    pub(super) fn is_labelled(&self) -> bool {
        !self.label.is_empty() && whole(&self.label) != Some(-1)
    }
}

/// Reads all rows of a file, each of which must have a text. Records of a `test` file may lack a label, which is empty then.
pub(super) fn read(path: &Path, names: &ColumnNames, test: bool) -> Result<Vec<Labelled>, DataError> {
    let row = |row: Result<polyrank::text::records::Record, _>| {
        let row = row?;
        let wrong = |reason: String| Err(DataError::line(path, row.line, reason));
        let label = match row.label {
            Some(Label::Text(label)) if test || !label.is_empty() => label,
            None if test => String::new(),
            Some(Label::Text(_)) | None => return wrong("the label is empty".to_owned()),
            Some(Label::List(label)) => {
                return wrong(format!(
                    "label {label}: expected one label a row: training with several labels is not supported yet"
                ));
            }
            Some(Label::Other(label)) => {
                return wrong(format!("label {label}: expected a string, a whole number or a number"));
            }
        };
        if row.text.trim().is_empty() && row.pair.as_ref().is_none_or(|pair| pair.trim().is_empty()) {
            return wrong("the text is empty".to_owned());
        }
        Ok(Labelled { line: row.line, label, text: row.text, pair: row.pair })
    };
    let rows = Records::select(path, names, !test)?.map(row).collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(rows) }
}
