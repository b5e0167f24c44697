//! Comma-separated values with quotes (RFC 4180).

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ByteRecordsIntoIter};

use super::lines::{Decoded, LONGEST_LINE};
use super::{ColumnNames, Columns, Row, RowsError};

/// Follows the file as a line of its own. A field that has swallowed it was never closed, of which the csv crate says nothing: it
/// would take all rows after a stray quote for the text of one.
const END: &str = "\u{1}end of file\u{1}";

/// A file as the csv crate reads it. It counts lines itself, because the csv crate counts half of `\r\n` only, and tells no line of
/// what follows a bare `\r`. No record may take more than [`LONGEST_LINE`]: one whose quote is never closed would be read whole.
struct Followed<R> {
    inner: R,
    /// Bytes that the record may still take.
    left: u64,
    /// What was read last; records end in it.
    chunk: Vec<u8>,
    /// Where the chunk lies in the file.
    offset: u64,
    /// Bytes of the chunk that records were given of, and blank lines.
    at: usize,
    /// What ends a line: `\r` in a file whose header ends so.
    line_end: u8,
    /// Lines that ended before `at`.
    lines: usize,
    /// The line at which the next record begins, once its first byte was read.
    begins: Option<usize>,
    /// Whether a bare `\r` stands before that record.
    bare: bool,
}

impl<R: Read> Followed<R> {
    fn new(inner: R) -> Self {
        let (chunk, begins) = (Vec::new(), None);
        Self { inner, left: LONGEST_LINE, chunk, offset: 0, at: 0, line_end: b'\n', lines: 0, begins, bare: false }
    }

    /// A record has ended before the byte `to` of the file.
    fn record_ended(&mut self, to: u64) {
        let to = (to.saturating_sub(self.offset) as usize).min(self.chunk.len());
        self.bare = to > 0 && self.chunk[to - 1] == b'\r' && self.chunk.get(to) != Some(&b'\n');
        self.pass(to);
        self.begins = None;
        self.left = LONGEST_LINE;
        self.skip_line_ends();
    }

    fn pass(&mut self, to: usize) {
        let passed = &self.chunk[self.at.min(to)..to];
        self.lines += passed.iter().filter(|byte| **byte == self.line_end).count();
        self.at = to;
    }

    /// Before a record, the csv crate skips these.
    fn skip_line_ends(&mut self) {
        while self.begins.is_none() && self.at < self.chunk.len() {
            match self.chunk[self.at] {
                b'\r' | b'\n' => self.pass(self.at + 1),
                _ => self.begins = Some(self.lines + 1),
            }
        }
    }

    /// The line at which the record begins that was not given yet.
    fn line(&self) -> usize {
        self.begins.unwrap_or(self.lines + 1)
    }
}

impl<R: Read> Read for Followed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read > 0 {
            self.pass(self.chunk.len());
            self.offset += self.chunk.len() as u64;
            self.chunk.clear();
            self.chunk.extend_from_slice(&buffer[..read]);
            self.at = 0;
            self.skip_line_ends();
        }
        let too_long =
            || io::Error::other(format!("expected a record of at most {LONGEST_LINE} bytes; is a quote never closed?"));
        self.left = self.left.checked_sub(read as u64).ok_or_else(too_long)?;
        Ok(read)
    }
}

pub(super) fn rows(
    path: &Path,
    file: Decoded,
    names: &ColumnNames,
    labelled: bool,
) -> Result<impl Iterator<Item = Result<Row, RowsError>> + Send + use<>, RowsError> {
    let file = Followed::new(file.chain(Cursor::new(format!("\n{END}"))));
    let inner = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file).into_byte_records();
    let mut records = Records { path: path.to_owned(), inner };
    let Some(header) = records.next() else { return Err(RowsError::Empty { path: path.to_owned() }) };
    let header: Vec<String> = header?.1.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let columns = Columns::find(path, None, header.iter().map(String::as_str), names, labelled)?;
    records.header_ended();
    Ok(std::iter::from_fn(move || {
        let bare = records.file().bare;
        let (line, record) = match records.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let bare = (bare || records.file().bare) && records.file().line_end == b'\n';
        let row = columns.row(&records.path, line, record.iter());
        Some(row.map_err(|error| if bare { ended_by_bare(error) } else { error }))
    }))
}

/// A row whose fields are not as many as the columns, beside a bare `\r`, which most programs write without quotes by mistake.
fn ended_by_bare(error: RowsError) -> RowsError {
    match error {
        RowsError::Line { path, line, reason } if reason.contains(" fields, found ") => {
            let reason = format!("{reason}; a carriage return outside quotes ends a row");
            RowsError::Line { path, line, reason }
        }
        other => other,
    }
}

/// Records, each with the line that it begins at.
struct Records<R> {
    path: PathBuf,
    inner: ByteRecordsIntoIter<Followed<R>>,
}

impl<R: Read> Records<R> {
    fn next(&mut self) -> Option<Result<(usize, ByteRecord), RowsError>> {
        let record = match self.inner.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(failed(&self.path, self.file().line(), error))),
        };
        let (line, end) = (self.file().line(), self.inner.reader().position().byte());
        self.inner.reader_mut().get_mut().record_ended(end);
        match record.iter().next_back() {
            Some(last) if record.len() == 1 && last == END.as_bytes() => None,
            Some(last) if last.ends_with(END.as_bytes()) => {
                let reason = "a quote that is opened here is never closed";
                Some(Err(RowsError::line(&self.path, line, reason)))
            }
            _ => Some(Ok((line, record))),
        }
    }

    fn file(&self) -> &Followed<R> {
        self.inner.reader().get_ref()
    }

    /// Takes the end of the header for that of every line.
    fn header_ended(&mut self) {
        let file = self.inner.reader_mut().get_mut();
        if file.bare {
            (file.line_end, file.lines) = (b'\r', 1);
            file.begins = file.begins.map(|_| 2);
        }
    }
}

/// What went wrong in the record that begins at line `start`.
fn failed(path: &Path, start: usize, error: csv::Error) -> RowsError {
    match error.into_kind() {
        csv::ErrorKind::Io(source) if source.kind() == io::ErrorKind::Other => {
            RowsError::line(path, start, source.to_string())
        }
        csv::ErrorKind::Io(source) => RowsError::Io { path: path.to_owned(), source },
        other => RowsError::line(path, start, format!("{other:?}")),
    }
}
