//! Where the fields of a row lie, by the names of the columns.

use std::path::Path;

use super::{Row, RowsError};

/// Places of the columns that are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) label: Option<usize>,
    pub(super) text: usize,
    pub(super) pair: Option<usize>,
    /// How many there are in all.
    count: usize,
}

impl Columns {
    pub(super) fn find<'a>(path: &Path, header: impl Iterator<Item = &'a str> + Clone) -> Result<Self, RowsError> {
        // By preference, wherever they stand.
        let at =
            |names: &[&str]| names.iter().find_map(|name| header.clone().position(|column| column.trim() == *name));
        let missing = |column| {
            let found = header.clone().collect::<Vec<_>>().join(", ");
            RowsError::Column { path: path.to_owned(), column, found }
        };
        let text = at(&["sentence1", "sentence", "text"]).ok_or_else(|| missing("sentence"))?;
        let pair = at(&["sentence2", "text_pair"]);
        if at(&["sentence1"]).is_some() && pair.is_none() {
            return Err(missing("sentence2"));
        }
        Ok(Self { label: at(&["label"]), text, pair, count: header.count() })
    }

    /// The row of these `fields`, one a column; null where a format has that: no label, no second text, but never no text.
    pub(super) fn row<'a>(
        &self,
        path: &Path,
        line: usize,
        fields: impl Iterator<Item = Option<&'a str>>,
    ) -> Result<Row, RowsError> {
        let mut row = Row { line, label: self.label.map(|_| String::new()), text: String::new(), pair: None };
        let mut found = 0;
        for (i, field) in fields.enumerate() {
            if i == self.text {
                let text = field.ok_or_else(|| RowsError::line(path, line, "the text is null: expected a string"))?;
                text.clone_into(&mut row.text);
            } else if Some(i) == self.pair {
                row.pair = field.map(str::to_owned);
            } else if Some(i) == self.label {
                row.label = Some(field.unwrap_or_default().trim().to_owned());
            }
            found += 1;
        }
        match found == self.count {
            true => Ok(row),
            false => Err(RowsError::line(path, line, format!("expected {} fields, found {found}", self.count))),
        }
    }
}
