//! Reads a split's rows and checks them for training. Labels keep their spelling.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use polyrank::text::records::{ColumnNames, Label, LabelColumn, Record, Records};

use super::DataError;
use super::spelling::whole;

/// The label of a row, or its labels, as they are spelt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Spelt {
    /// A cell; empty if the row has no label.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// A row, with its place for messages.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labelled {
    /// The row's file.
    pub(super) path: Arc<Path>,
    /// The row's line in the file, from 1.
    pub(super) line: usize,
    pub(super) label: Spelt,
    pub(super) text: String,
    pub(super) pair: Option<String>,
}

impl Labelled {
    /// Whether the row has a label or a list of labels. GLUE's test files have no labels, or -1.
    pub(super) fn is_labelled(&self) -> bool {
        match &self.label {
            Spelt::One(label) => !label.is_empty() && whole(label) != Some(-1),
            Spelt::Many(_) => true,
        }
    }

    /// Whether nothing is in the place of the row's label.
    pub(super) fn is_blank(&self) -> bool {
        matches!(&self.label, Spelt::One(label) if label.is_empty())
    }

    /// The one label of the row.
    pub(super) fn one(&self) -> Result<&str, DataError> {
        match &self.label {
            Spelt::One(label) if label.is_empty() => Err(self.wrong("the label is empty")),
            Spelt::One(label) => Ok(label),
            Spelt::Many(labels) => Err(self.several_in(labels, "")),
        }
    }

    /// The error of a row that has the list `labels` where one label is expected.
    pub(super) fn several_in(&self, labels: &[String], hint: &str) -> DataError {
        self.wrong(format!("labels [{}]: expected one label a row{hint}", labels.join(", ")))
    }

    /// The labels of a row that may have several: those of its list, or those that its cell joins by `|`.
    pub(super) fn several(&self) -> Result<Vec<&str>, DataError> {
        let labels: Vec<&str> = match &self.label {
            Spelt::One(label) if label.is_empty() => Vec::new(),
            Spelt::One(label) => label.split('|').map(str::trim).collect(),
            Spelt::Many(labels) => labels.iter().map(String::as_str).collect(),
        };
        if labels.contains(&"") {
            return Err(self.wrong(format!("labels [{}]: one of them is empty", labels.join(", "))));
        }
        Ok(labels)
    }

    pub(super) fn wrong(&self, reason: impl ToString) -> DataError {
        DataError::line(&self.path, self.line, reason)
    }
}

/// Reads all rows of a split's files, each of which must have a text. Records of a `test` split may lack the column of labels.
pub(super) fn read(files: &[PathBuf], names: &ColumnNames, test: bool) -> Result<Vec<Labelled>, DataError> {
    let mut rows = Vec::new();
    let labels = if test { LabelColumn::Optional } else { LabelColumn::Required };
    for file in files {
        let path: Arc<Path> = Arc::from(&**file);
        for record in Records::select(file, names, labels)? {
            rows.push(labelled(&path, record?)?);
        }
    }
    if rows.is_empty() { Err(DataError::Empty { path: files[0].clone() }) } else { Ok(rows) }
}

fn labelled(path: &Arc<Path>, record: Record) -> Result<Labelled, DataError> {
    let wrong = |reason: String| Err(DataError::line(path, record.line, reason));
    let label = match record.label {
        Some(Label::Text(label)) => Spelt::One(label),
        None => Spelt::One(String::new()),
        Some(Label::List(labels)) => Spelt::Many(labels),
        Some(Label::Other(label)) => {
            return wrong(format!("label {label}: expected a string, a whole number, a number, or a list of these"));
        }
    };
    if record.text.trim().is_empty() && record.pair.as_ref().is_none_or(|pair| pair.trim().is_empty()) {
        return wrong("the text is empty".to_owned());
    }
    Ok(Labelled { path: Arc::clone(path), line: record.line, label, text: record.text, pair: record.pair })
}
