//! An object a line.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Columns, Lines, Row, RowsError};

pub(super) fn rows(mut lines: Lines) -> impl Iterator<Item = Result<Row, RowsError>> + Send {
    let path = lines.path.clone();
    std::iter::from_fn(move || {
        loop {
            return match lines.next_line().transpose()? {
                Ok((_, line)) if line.trim().is_empty() => continue,
                Ok((number, line)) => Some(row(&path, number, line)),
                Err(error) => Some(Err(error)),
            };
        }
    })
}

fn row(path: &Path, number: usize, line: &str) -> Result<Row, RowsError> {
    let object: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| RowsError::line(path, number, error))?;
    let columns = Columns::find(path, object.keys().map(String::as_str)).map_err(|error| match error {
        RowsError::Column { column, found, .. } => {
            RowsError::line(path, number, format!("{column} is missing; found {found}"))
        }
        other => other,
    })?;
    let field = |(i, (key, value)): (usize, (&String, &Value))| match value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Null => Ok(None),
        other if i == columns.text || Some(i) == columns.pair => {
            Err(RowsError::line(path, number, format!("{key} is {other}: expected a string")))
        }
        other => Ok(Some(other.to_string())),
    };
    let fields = object.iter().enumerate().map(field).collect::<Result<Vec<_>, _>>()?;
    columns.row(path, number, fields.iter().map(Option::as_deref))
}
