//! Comma-separated values with quotes (RFC 4180).

use std::path::Path;

use super::lines::Decoded;
use super::{Columns, Row, RowsError};

pub(super) fn rows(
    path: &Path,
    file: Decoded,
) -> Result<impl Iterator<Item = Result<Row, RowsError>> + Send + use<>, RowsError> {
    let path = path.to_owned();
    let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
    let mut records = reader.into_records();
    let Some(header) = records.next() else { return Err(RowsError::Empty { path }) };
    let columns = Columns::find(&path, header.map_err(|error| failed(&path, error))?.iter())?;
    Ok(records.map(move |record| {
        let record = record.map_err(|error| failed(&path, error))?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        columns.row(&path, line, record.iter())
    }))
}

fn failed(path: &Path, error: csv::Error) -> RowsError {
    let line = error.position().map_or(1, |position| position.line() as usize);
    match error.into_kind() {
        csv::ErrorKind::Io(source) => RowsError::Io { path: path.to_owned(), source },
        csv::ErrorKind::Utf8 { .. } => RowsError::line(path, line, "not UTF-8"),
        other => RowsError::line(path, line, format!("{other:?}")),
    }
}
