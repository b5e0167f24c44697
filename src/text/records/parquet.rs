//! Reads Parquet, the format in which the hub stores data sets. Only the columns that are needed are read, a page at a time.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;

use super::{ColumnNames, Columns, Label, LabelColumn, Record, RecordsError};
use crate::panics;

/// The key under which the library `datasets` stores the types of a file's columns, as JSON.
const FEATURES: &str = "huggingface";

fn open(path: &Path) -> Result<SerializedFileReader<File>, RecordsError> {
    let file = File::open(path).map_err(RecordsError::io(path))?;
    if file.metadata().map_err(RecordsError::io(path))?.len() == 0 {
        return Err(RecordsError::Empty { path: path.to_owned() });
    }
    SerializedFileReader::new(file).map_err(malformed(path))
}

fn malformed(path: &Path) -> impl Fn(ParquetError) -> RecordsError {
    |error| RecordsError::Malformed { path: path.to_owned(), reason: format!("not a Parquet file: {error}") }
}

/// The names of the classes of the column of labels, as the library `datasets` stores them. `None` if the file states none.
pub(super) fn class_names(path: &Path, names: &ColumnNames) -> Result<Option<Vec<String>>, RecordsError> {
    let reader = open(path)?;
    let file = reader.metadata().file_metadata();
    let entry = file.key_value_metadata().and_then(|all| all.iter().find(|entry| entry.key == FEATURES));
    let Some(json) = entry.and_then(|entry| entry.value.as_deref()) else { return Ok(None) };
    let all = file.schema().get_fields();
    let Some(column) =
        Columns::find(path, None, all.iter().map(|field| field.name()), names, LabelColumn::Optional)?.label
    else {
        return Ok(None);
    };
    let facts: Value = serde_json::from_str(json).map_err(|error| RecordsError::Malformed {
        path: path.to_owned(),
        reason: format!("the metadata {FEATURES} is not JSON: {error}"),
    })?;
    Ok(names_of(&facts["info"]["features"][all[column].name()]))
}

/// The names of a `ClassLabel`, or of a list of them, which `datasets` spells in two ways.
fn names_of(feature: &Value) -> Option<Vec<String>> {
    match (feature, &feature["names"]) {
        (Value::Array(one), _) => names_of(one.first()?),
        (_, Value::Array(names)) if feature["_type"] == "ClassLabel" => {
            names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
        }
        (Value::Object(of), _) => names_of(of.get("feature")?),
        _ => None,
    }
}

pub(super) fn rows(
    path: &Path,
    names: &ColumnNames,
    labels: LabelColumn,
) -> Result<impl Iterator<Item = Result<Record, RecordsError>> + Send + use<>, RecordsError> {
    let path = path.to_owned();
    let malformed = malformed(&path);
    let reader = open(&path)?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let all = schema.get_fields();
    let columns = Columns::find(&path, None, all.iter().map(|field| field.name()), names, labels)?;
    for i in [Some(columns.text), columns.pair].into_iter().flatten() {
        if !all[i].is_primitive() {
            return Err(RecordsError::Malformed {
                reason: format!("column {} is nested", all[i].name()),
                path: path.clone(),
            });
        }
    }
    let mut used: Vec<usize> = [columns.label, Some(columns.text), columns.pair].into_iter().flatten().collect();
    used.sort_unstable();
    used.dedup();
    let fields = used.iter().map(|&i| Arc::clone(&all[i])).collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(&malformed)?;
    let mut records = Some(RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(malformed)?);
    Ok(std::iter::from_fn(move || next(&mut records)).enumerate().map(move |(i, record)| {
        let failed = |reason: String| RecordsError::line(&path, i + 1, reason);
        let panicked =
            |panic: String| RecordsError::Malformed { path: path.clone(), reason: format!("row {}: {panic}", i + 1) };
        let record = record.map_err(panicked)?.map_err(|error| failed(error.to_string()))?;
        let fields: Vec<(&String, &Field)> = record.get_column_iter().collect();
        let field = |column: usize| used.binary_search(&column).ok().and_then(|at| fields.get(at)).copied();
        let text = |column: usize| match field(column) {
            None | Some((_, Field::Null)) => Ok(None),
            Some((name, value)) => match string(value) {
                Some(text) => text.map(Some).map_err(|reason| failed(format!("{name} {reason}"))),
                None => Err(failed(format!("{name} is {}: expected a string", shown(value)))),
            },
        };
        Ok(Record {
            line: i + 1,
            label: columns.label.and_then(field).map(|(name, value)| label(name, value)).transpose().map_err(failed)?,
            text: text(columns.text)?.ok_or_else(|| failed("the text is null: expected a string".to_owned()))?,
            pair: columns.pair.map(text).transpose()?.flatten(),
        })
    }))
}

/// How many characters of a panic's text an error shows.
const MOST_OF_PANIC: usize = 200;

/// The next row. The crate panics on columns of some types, such as intervals: the outer error is the text of the panic, and no rows
/// follow it.
fn next(rows: &mut Option<RowIter<'static>>) -> Option<Result<Result<Row, ParquetError>, String>> {
    let reader = rows.as_mut()?;
    match catch_unwind(AssertUnwindSafe(|| reader.next())) {
        Ok(row) => row.map(Ok),
        Err(panic) => {
            *rows = None;
            // It may show a whole value.
            Some(Err(panics::message(&*panic).chars().take(MOST_OF_PANIC).collect()))
        }
    }
}

/// The text of a string; `None` for values of other types.
fn string(value: &Field) -> Option<Result<String, &'static str>> {
    match value {
        Field::Str(text) => Some(Ok(text.clone())),
        Field::Bytes(bytes) => Some(bytes.as_utf8().map(str::to_owned).map_err(|_| "is not UTF-8")),
        _ => None,
    }
}

fn label(name: &str, value: &Field) -> Result<Label, String> {
    Ok(match value {
        Field::Null => Label::Text(String::new()),
        Field::ListInternal(list) => {
            let label = |element| label(name, element);
            let labels = list.elements().iter().map(label).collect::<Result<Vec<_>, _>>()?.into_iter();
            let one = |label| if let Label::Text(text) = label { Some(text) } else { None };
            labels.map(one).collect::<Option<_>>().map_or_else(|| Label::Other(shown(value)), Label::List)
        }
        Field::Float(value) => Label::Text(format!("{value:?}")),
        Field::Double(value) => Label::Text(format!("{value:?}")),
        Field::Group(_) | Field::MapInternal(_) => Label::Other(shown(value)),
        value => match string(value) {
            Some(text) => Label::Text(text.map_err(|reason| format!("{name} {reason}"))?.trim().to_owned()),
            None => Label::Text(shown(value)),
        },
    })
}

/// Days from 1970 that a date can be printed for; the crate panics on dates far beyond them.
const MOST_DAYS: u64 = 90_000_000;

/// A value as text. Dates that no calendar has are shown as numbers.
fn shown(value: &Field) -> String {
    let beyond = |days: u64| days > MOST_DAYS;
    match value {
        Field::Date(days) if beyond(days.unsigned_abs().into()) => format!("day {days}"),
        Field::TimestampMillis(time) if beyond(time.unsigned_abs() / 86_400_000) => format!("millisecond {time}"),
        Field::TimestampMicros(time) if beyond(time.unsigned_abs() / 86_400_000_000) => format!("microsecond {time}"),
        Field::ListInternal(list) => {
            format!("[{}]", list.elements().iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        Field::Group(_) | Field::MapInternal(_) => "an object".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_out_of_range_are_shown_as_numbers() {
        for (value, expected) in [
            (Field::Date(0), "1970-01-01"),
            (Field::Date(i32::MAX), "day 2147483647"),
            (Field::Date(i32::MIN), "day -2147483648"),
            (Field::TimestampMillis(i64::MAX), "millisecond 9223372036854775807"),
            (Field::TimestampMicros(i64::MIN), "microsecond -9223372036854775808"),
        ] {
            assert!(shown(&value).starts_with(expected), "{}", shown(&value));
        }
        // The last days that are printed as dates.
        for days in [-90_000_000, 90_000_000] {
            assert!(shown(&Field::Date(days)).contains('-'));
        }
        assert!(matches!(label("label", &Field::Date(i32::MAX)), Ok(Label::Text(text)) if text == "day 2147483647"));
    }
}
