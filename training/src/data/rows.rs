//! Rows of a TSV, CSV or JSON-lines file, labels still as written.

use std::path::Path;

use serde_json::{Map, Value};

use super::DataError;

/// A row with its place for messages.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// In the file, from 1.
    pub(super) line: usize,
    /// As written; empty where the file has no label column.
    pub(super) label: String,
    pub(super) text: String,
    pub(super) pair: Option<String>,
}

/// Where the fields of a row lie.
struct Columns {
    label: Option<usize>,
    text: usize,
    pair: Option<usize>,
    count: usize,
}

impl Columns {
    fn find(path: &Path, header: &[&str]) -> Result<Self, DataError> {
        let at = |names: &[&str]| header.iter().position(|column| names.contains(&column.trim()));
        let missing = |column| DataError::Column { path: path.to_owned(), column, found: header.join(", ") };
        let text = at(&["sentence1", "sentence", "text"]).ok_or_else(|| missing("sentence"))?;
        let pair = at(&["sentence2", "text_pair"]);
        if at(&["sentence1"]).is_some() && pair.is_none() {
            return Err(missing("sentence2"));
        }
        // A test file may lack it; whoever needs the labels says so by the empty ones.
        let label = at(&["label"]);
        if label.is_none() && path.file_stem().is_none_or(|stem| stem != "test") {
            return Err(missing("label"));
        }
        Ok(Self { label, text, pair, count: header.len() })
    }

    fn row(&self, path: &Path, line: usize, fields: &[&str]) -> Result<Row, DataError> {
        if fields.len() != self.count {
            return Err(DataError::line(path, line, format!("expected {} fields, found {}", self.count, fields.len())));
        }
        let row = Row {
            line,
            label: self.label.map_or_else(String::new, |label| fields[label].trim().to_owned()),
            text: fields[self.text].to_owned(),
            pair: self.pair.map(|pair| fields[pair].to_owned()),
        };
        row.check(path)
    }
}

impl Row {
    fn check(self, path: &Path) -> Result<Self, DataError> {
        match self.text.trim().is_empty() && self.pair.as_ref().is_none_or(|pair| pair.trim().is_empty()) {
            true => Err(DataError::line(path, self.line, "the text is empty")),
            false => Ok(self),
        }
    }
}

/// All rows of a file, by its extension.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        DataError::line(path, line, "not UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rows = match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => csv_rows(path, text)?,
        Some("tsv") => tsv_rows(path, text)?,
        _ => json_rows(path, text)?,
    };
    if rows.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok(rows)
}

/// Split on tabs only: a quote is text.
fn tsv_rows(path: &Path, text: &str) -> Result<Vec<Row>, DataError> {
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
    let header: Vec<&str> = match lines.next() {
        Some((_, header)) if !header.is_empty() => header.split('\t').collect(),
        _ => return Err(DataError::Empty { path: path.to_owned() }),
    };
    let columns = Columns::find(path, &header)?;
    let rows = lines.filter(|(_, line)| !line.is_empty());
    rows.map(|(i, line)| columns.row(path, i + 1, &line.split('\t').collect::<Vec<_>>())).collect()
}

fn csv_rows(path: &Path, text: &str) -> Result<Vec<Row>, DataError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut records = reader.records();
    let failed = |error: csv::Error| {
        let line = error.position().map_or(1, |position| position.line() as usize);
        DataError::line(path, line, &error)
    };
    let Some(header) = records.next() else { return Err(DataError::Empty { path: path.to_owned() }) };
    let header = header.map_err(failed)?;
    let columns = Columns::find(path, &header.iter().collect::<Vec<_>>())?;
    records
        .map(|record| {
            let record = record.map_err(failed)?;
            let line = record.position().map_or(0, |position| position.line() as usize);
            columns.row(path, line, &record.iter().collect::<Vec<_>>())
        })
        .collect()
}

fn json_rows(path: &Path, text: &str) -> Result<Vec<Row>, DataError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let row = |(i, line): (usize, &str)| {
        let object: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| DataError::line(path, i + 1, error))?;
        let columns = Columns::find(path, &object.keys().map(String::as_str).collect::<Vec<_>>())?;
        let fields: Vec<String> = object
            .values()
            .map(|value| match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            })
            .collect();
        columns.row(path, i + 1, &fields.iter().map(String::as_str).collect::<Vec<_>>())
    };
    lines.map(row).collect()
}
