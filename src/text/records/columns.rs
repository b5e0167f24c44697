//! Finds the columns of a row's fields by their names.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Label, Record, RecordsError};

/// The names of the columns to read, if they are not the usual ones ([`super::Records`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnNames {
    /// The column of labels, instead of `label`.
    pub label: Option<String>,
    /// The column of texts. If it is given, a second text is read only if [`Self::pair`] names its column.
    pub text: Option<String>,
    /// The column of second texts.
    pub pair: Option<String>,
}

/// What becomes of the column of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelColumn {
    /// It is not read, so that nothing in it matters. [`ColumnNames::label`] is not used.
    Ignored,
    /// It is read if it is there, and must be there if [`ColumnNames::label`] gives it.
    Optional,
    /// It is read, and must be there.
    Required,
}

/// The columns of texts that are read by default.
const USUAL: &str = "sentence, or sentence1 and sentence2, or text and optionally text_pair";

/// The indices of the columns that are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) label: Option<usize>,
    pub(super) text: usize,
    pub(super) pair: Option<usize>,
    /// The number of all columns.
    count: usize,
}

impl Columns {
    /// Finds the columns in a header, or in the keys of the object at `line`.
    pub(super) fn find<'a>(
        path: &Path,
        line: Option<usize>,
        header: impl Iterator<Item = &'a str> + Clone,
        names: &ColumnNames,
        labels: LabelColumn,
    ) -> Result<Self, RecordsError> {
        // The first of `names` that is a column, in whichever order the columns are.
        let at =
            |names: &[&str]| names.iter().find_map(|name| header.clone().position(|column| column.trim() == *name));
        let missing = |column: &str, expected: &'static str| RecordsError::Column {
            path: path.to_owned(),
            line,
            column: column.to_owned(),
            found: header.clone().collect::<Vec<_>>().join(", "),
            expected,
        };
        let named = |name: &Option<String>| match name {
            Some(name) => at(&[name.trim()]).map(Some).ok_or_else(|| missing(name, "the column that was asked for")),
            None => Ok(None),
        };
        let (text, mut pair) = (named(&names.text)?, named(&names.pair)?);
        let ignored = labels == LabelColumn::Ignored;
        let mut label = if ignored { None } else { named(&names.label)? };
        if text.is_none() && pair.is_none() {
            pair = at(&["sentence2", "text_pair"]);
            if pair.is_none() && at(&["sentence1"]).is_some() {
                return Err(missing("sentence2", USUAL));
            }
        }
        let text = text.or_else(|| at(&["sentence1", "sentence", "text"])).ok_or_else(|| missing("sentence", USUAL))?;
        if !ignored {
            label = label.or_else(|| at(&["label"]));
        }
        if labels == LabelColumn::Required && label.is_none() {
            return Err(missing("label", "label"));
        }
        Ok(Self { label, text, pair, count: header.count() })
    }
}

/// The columns of a file that has a header.
#[derive(Debug)]
pub(super) struct Header {
    columns: Columns,
    /// The names of the columns that are read.
    label: Option<String>,
    text: String,
    pair: Option<String>,
}

impl Header {
    /// Finds the columns in a header, as [`Columns::find`]. A column that is read must be there once.
    pub(super) fn find<'a>(
        path: &Path,
        header: impl Iterator<Item = &'a str> + Clone,
        names: &ColumnNames,
        labels: LabelColumn,
    ) -> Result<Self, RecordsError> {
        let columns = Columns::find(path, None, header.clone(), names, labels)?;
        let name = |i: usize| {
            let name = header.clone().nth(i).unwrap_or_default().trim();
            match header.clone().filter(|other| other.trim() == name).count() {
                1 => Ok(name.to_owned()),
                _ => Err(RecordsError::Twice { path: path.to_owned(), column: name.to_owned() }),
            }
        };
        Ok(Self {
            label: columns.label.map(name).transpose()?,
            text: name(columns.text)?,
            pair: columns.pair.map(name).transpose()?,
            columns,
        })
    }

    /// Whether a row is the header of another file that was joined with this one. Its label would become a class. A text alone may be
    /// the same word as its column's name.
    fn repeats(&self, Record { label, text, pair, .. }: &Record) -> bool {
        let same = |cell: &Option<String>, name: &Option<String>| cell.as_deref().map(str::trim) == name.as_deref();
        let label = if let Some(Label::Text(label)) = label { Some(label) } else { None };
        label.is_some() && label == self.label.as_ref() && text.trim() == self.text && same(pair, &self.pair)
    }

    /// The row of `fields`, one for each column. Only the fields that are read must be UTF-8.
    pub(super) fn row<'a>(
        &self,
        path: &Path,
        line: usize,
        fields: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Record, RecordsError> {
        let decode =
            |field: &'a [u8]| std::str::from_utf8(field).map_err(|_| RecordsError::line(path, line, "not UTF-8"));
        let (mut text, mut pair, mut label) = ("", None, None);
        let mut found = 0;
        for (i, field) in fields.enumerate() {
            if i == self.columns.text {
                text = decode(field)?;
            }
            if Some(i) == self.columns.pair {
                pair = Some(decode(field)?.to_owned());
            }
            if Some(i) == self.columns.label {
                label = Some(Label::Text(decode(field)?.trim().to_owned()));
            }
            found += 1;
        }
        let expected = self.columns.count;
        if found != expected {
            return Err(RecordsError::Fields { path: path.to_owned(), line, expected, found, beside_return: false });
        }
        let row = Record { line, label, text: text.to_owned(), pair };
        if self.repeats(&row) {
            return Err(RecordsError::line(path, line, "the row repeats the header, as where files were joined"));
        }
        Ok(row)
    }
}
