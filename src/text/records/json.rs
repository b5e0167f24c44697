//! Reads JSON: one object on each line, or one array of objects.

use std::path::Path;

use serde_json::Value;

use super::array::Elements;
use super::scan::{members, shortened};
use super::{ColumnNames, Columns, Label, LabelColumn, Lines, Record, RecordsError};

type Objects = Box<dyn Iterator<Item = Result<Record, RecordsError>> + Send>;

pub(super) fn rows(mut lines: Lines, names: ColumnNames, labels: LabelColumn) -> Result<Objects, RecordsError> {
    let path = lines.path.clone();
    let row = move |number, object: &[u8]| row(&path, number, object, &names, labels);
    if lines.first_byte()? == Some(b'[') {
        let mut elements = Elements::new(&lines.path.clone(), lines.into_reader());
        return Ok(Box::new(std::iter::from_fn(move || {
            let element = elements.next().transpose()?;
            Some(element.and_then(|(number, object)| row(number, object)))
        })));
    }
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            return match lines.next_bytes().transpose()? {
                Ok((_, line)) if line.trim_ascii().is_empty() => continue,
                Ok((number, line)) => Some(row(number, line)),
                Err(error) => Some(Err(error)),
            };
        }
    })))
}

fn row(
    path: &Path,
    number: usize,
    object: &[u8],
    names: &ColumnNames,
    labels: LabelColumn,
) -> Result<Record, RecordsError> {
    let members = members(object).map_err(|reason| RecordsError::line(path, number, reason))?;
    let keys = members.iter().map(|(key, _)| key.as_str());
    let columns = Columns::find(path, Some(number), keys, names, labels)?;
    // If a key occurs several times, its last value counts, as in most JSON parsers.
    let last = |i: usize| members.iter().rfind(|(key, _)| *key == members[i].0).unwrap_or(&members[i]);
    let text = |i: usize| -> Result<Option<String>, RecordsError> {
        let (key, spelt) = last(i);
        match serde_json::from_slice(spelt) {
            Ok(Value::String(text)) => Ok(Some(text)),
            Ok(Value::Null) => Ok(None),
            _ if std::str::from_utf8(spelt).is_err() => Err(RecordsError::line(path, number, "not UTF-8")),
            _ => {
                let reason = format!("{key} is {}: expected a string", shortened(spelt));
                Err(RecordsError::line(path, number, reason))
            }
        }
    };
    Ok(Record {
        line: number,
        label: columns.label.map(|i| label(last(i).1)),
        text: text(columns.text)?
            .ok_or_else(|| RecordsError::line(path, number, "the text is null: expected a string"))?,
        pair: columns.pair.map(text).transpose()?.flatten(),
    })
}

fn label(spelt: &[u8]) -> Label {
    match serde_json::from_slice(spelt) {
        Ok(Value::String(text)) => Label::Text(text.trim().to_owned()),
        Ok(Value::Null) => Label::Text(String::new()),
        // The number is kept as it is spelt, because it may have more digits than a float.
        Ok(Value::Bool(_) | Value::Number(_)) => Label::Text(String::from_utf8_lossy(spelt).into_owned()),
        Ok(Value::Array(labels)) => labels
            .iter()
            .map(element)
            .collect::<Option<_>>()
            .map_or_else(|| Label::Other(shortened(spelt)), Label::List),
        // `Err` includes numbers beyond the range of floats.
        Ok(Value::Object(_)) | Err(_) => Label::Other(shortened(spelt)),
    }
}

/// A label in a list; `None` for lists and objects.
fn element(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Null => Some(String::new()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}
