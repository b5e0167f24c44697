//! Comma-separated values with quotes (RFC 4180).

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use csv::{StringRecord, StringRecordsIntoIter};

use super::lines::{Decoded, LONGEST_LINE};
use super::{Columns, Row, RowsError};

/// Follows the file as a line of its own. A field that has swallowed it was never closed, of which the csv crate says nothing: it
/// would take all rows after a stray quote for the text of one.
const END: &str = "\u{1}end of file\u{1}";

/// A file, of which no record may take more than [`LONGEST_LINE`]: one whose quote is never closed would be read whole.
struct Bounded<R> {
    inner: R,
    /// Bytes that the record may still take.
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let too_long =
            || io::Error::other(format!("expected a record of at most {LONGEST_LINE} bytes; is a quote never closed?"));
        self.left = self.left.checked_sub(read as u64).ok_or_else(too_long)?;
        Ok(read)
    }
}

pub(super) fn rows(
    path: &Path,
    file: Decoded,
) -> Result<impl Iterator<Item = Result<Row, RowsError>> + Send + use<>, RowsError> {
    let file = Bounded { inner: file.chain(Cursor::new(format!("\n{END}"))), left: LONGEST_LINE };
    let inner = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file).into_records();
    let mut records = Records { path: path.to_owned(), inner, counted: None };
    let Some(header) = records.next() else { return Err(RowsError::Empty { path: path.to_owned() }) };
    let columns = Columns::find(path, header?.1.iter())?;
    Ok(std::iter::from_fn(move || {
        let record = records.next()?;
        Some(record.and_then(|(line, record)| columns.row(&records.path, line, record.iter().map(Some))))
    }))
}

/// Records, each with the line that it begins at.
struct Records<R> {
    path: PathBuf,
    inner: StringRecordsIntoIter<Bounded<R>>,
    /// How many line ends of a record the csv crate has counted when it gives it, beside those inside: of `\r\n` it takes the half
    /// only. Known from the first record on.
    counted: Option<usize>,
}

impl<R: Read> Records<R> {
    fn next(&mut self) -> Option<Result<(usize, StringRecord), RowsError>> {
        let before = self.line();
        self.inner.reader_mut().get_mut().left = LONGEST_LINE;
        let record = match self.inner.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(failed(&self.path, before + 1 - self.counted.unwrap_or(1), error))),
        };
        // Blank lines before a record count for the one before it, so that only its end tells where it is.
        let (after, inside) = (self.line(), record.iter().map(|field| field.matches('\n').count()).sum::<usize>());
        let counted = *self.counted.get_or_insert((after - before - inside).min(1));
        match record.iter().next_back() {
            Some(END) if record.len() == 1 => None,
            Some(last) if last.ends_with(END) => {
                let reason = "a quote that is opened here is never closed";
                Some(Err(RowsError::line(&self.path, after - inside, reason)))
            }
            _ => Some(Ok((after - inside - counted, record))),
        }
    }

    /// Where the csv crate is in the file.
    fn line(&self) -> usize {
        self.inner.reader().position().line() as usize
    }
}

/// What went wrong in the record that begins at line `start`.
fn failed(path: &Path, start: usize, error: csv::Error) -> RowsError {
    match error.into_kind() {
        csv::ErrorKind::Io(source) if source.kind() == io::ErrorKind::Other => {
            RowsError::line(path, start, source.to_string())
        }
        csv::ErrorKind::Io(source) => RowsError::Io { path: path.to_owned(), source },
        csv::ErrorKind::Utf8 { .. } => RowsError::line(path, start, "not UTF-8"),
        other => RowsError::line(path, start, format!("{other:?}")),
    }
}
