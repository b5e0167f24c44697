//! Parquet, the form that the hub keeps data sets in: only the columns that count are read, a page at a time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::{Columns, Row, RowsError};

pub(super) fn rows(path: &Path) -> Result<impl Iterator<Item = Result<Row, RowsError>> + Send + use<>, RowsError> {
    let path = path.to_owned();
    let malformed = |error: ParquetError| RowsError::Malformed {
        path: path.clone(),
        reason: format!("not a Parquet file: {error}"),
    };
    let file = File::open(&path).map_err(RowsError::io(&path))?;
    if file.metadata().map_err(RowsError::io(&path))?.len() == 0 {
        return Err(RowsError::Empty { path });
    }
    let reader = SerializedFileReader::new(file).map_err(malformed)?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let all = Columns::find(&path, schema.get_fields().iter().map(|field| field.name()))?;
    let mut used: Vec<usize> = [all.label, Some(all.text), all.pair].into_iter().flatten().collect();
    used.sort_unstable();
    let fields: Vec<_> = used.into_iter().map(|i| Arc::clone(&schema.get_fields()[i])).collect();
    for field in &fields {
        if !field.is_primitive() {
            return Err(RowsError::Malformed { reason: format!("column {} is nested", field.name()), path });
        }
    }
    let columns = Columns::find(&path, fields.iter().map(|field| field.name()))?;
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(malformed)?;
    let records = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(malformed)?;
    Ok(records.enumerate().map(move |(i, record)| {
        let failed = |reason: String| RowsError::line(&path, i + 1, reason);
        let record = record.map_err(|error| failed(error.to_string()))?;
        let field = |(name, field): (&String, &Field)| {
            Ok(Some(match field {
                Field::Str(text) => text.clone(),
                Field::Bytes(bytes) => bytes.as_utf8().map_err(|_| failed(format!("{name} is not UTF-8")))?.to_owned(),
                Field::Null => return Ok(None),
                // By Rust's rules, whole numbers in floats would lose their fraction, which means regression.
                Field::Float(value) => format!("{value:?}"),
                Field::Double(value) => format!("{value:?}"),
                other if name == "label" => other.to_string(),
                other => return Err(failed(format!("{name} is {other}: expected a string"))),
            }))
        };
        let fields = record.get_column_iter().map(field).collect::<Result<Vec<_>, _>>()?;
        columns.row(&path, i + 1, fields.iter().map(Option::as_deref))
    }))
}
