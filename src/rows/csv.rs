//! Comma-separated values with quotes (RFC 4180).

use std::io::{Cursor, Read};
use std::path::Path;

use csv::{StringRecord, StringRecordsIntoIter};

use super::lines::Decoded;
use super::{Columns, Row, RowsError};

/// Follows the file as a line of its own. A field that has swallowed it was never closed, of which the csv crate says nothing: it
/// would take all rows after a stray quote for the text of one.
const END: &str = "\u{1}end of file\u{1}";

pub(super) fn rows(
    path: &Path,
    file: Decoded,
) -> Result<impl Iterator<Item = Result<Row, RowsError>> + Send + use<>, RowsError> {
    let path = path.to_owned();
    let file = file.chain(Cursor::new(format!("\n{END}")));
    let mut records = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file).into_records();
    let Some(header) = next(&path, &mut records) else { return Err(RowsError::Empty { path }) };
    let columns = Columns::find(&path, header?.iter())?;
    Ok(std::iter::from_fn(move || {
        let record = next(&path, &mut records)?;
        Some(record.and_then(|record| columns.row(&path, line(&record), record.iter())))
    }))
}

fn next<R: Read>(path: &Path, records: &mut StringRecordsIntoIter<R>) -> Option<Result<StringRecord, RowsError>> {
    let record = match records.next()? {
        Ok(record) => record,
        Err(error) => return Some(Err(failed(path, error))),
    };
    match record.iter().next_back() {
        Some(END) if record.len() == 1 => None,
        Some(last) if last.ends_with(END) => {
            Some(Err(RowsError::line(path, line(&record), "a quote that is opened here is never closed")))
        }
        _ => Some(Ok(record)),
    }
}

fn line(record: &StringRecord) -> usize {
    record.position().map_or(0, |position| position.line() as usize)
}

fn failed(path: &Path, error: csv::Error) -> RowsError {
    let line = error.position().map_or(1, |position| position.line() as usize);
    match error.into_kind() {
        csv::ErrorKind::Io(source) => RowsError::Io { path: path.to_owned(), source },
        csv::ErrorKind::Utf8 { .. } => RowsError::line(path, line, "not UTF-8"),
        other => RowsError::line(path, line, format!("{other:?}")),
    }
}
