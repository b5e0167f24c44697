//! Reads comma-separated values with quotes (RFC 4180).

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ByteRecordsIntoIter};

use super::lines::{Decoded, LONGEST_LINE};
use super::{ColumnNames, Header, LabelColumn, Record, RecordsError};

/// This line is appended to the file. If a field contains it, the field's quote was never closed. The csv crate does not report that: it
/// would read all rows after a stray quote as one field.
const END: &str = "\u{1}end of file\u{1}";

/// The file that the csv crate reads. It counts lines itself, because the csv crate miscounts them after `\r\n` and after a bare `\r`. It
/// also limits a record to [`LONGEST_LINE`] bytes. Otherwise a record with an unclosed quote would be read up to the file's end.
struct Followed<R> {
    inner: R,
    /// How many more bytes the current record may take.
    left: u64,
    /// The bytes that were read last. The current record ends in them.
    chunk: Vec<u8>,
    /// The offset of the chunk in the file.
    offset: u64,
    /// The number of bytes of the chunk that belong to finished records and blank lines.
    at: usize,
    /// The byte that ends a line: `\n`, or `\r` if the header ends in a bare `\r`.
    line_end: u8,
    /// The number of lines that end before `at`.
    lines: usize,
    /// The line at which the next record begins, once its first byte has been read.
    begins: Option<usize>,
    /// Whether that record follows a bare `\r`.
    bare: bool,
}

impl<R: Read> Followed<R> {
    fn new(inner: R) -> Self {
        let (chunk, begins) = (Vec::new(), None);
        Self { inner, left: LONGEST_LINE, chunk, offset: 0, at: 0, line_end: b'\n', lines: 0, begins, bare: false }
    }

    /// Records that a record ended before the file's byte `to`.
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

    /// Skips line ends before a record, as the csv crate does.
    fn skip_line_ends(&mut self) {
        while self.begins.is_none() && self.at < self.chunk.len() {
            match self.chunk[self.at] {
                b'\r' | b'\n' => self.pass(self.at + 1),
                _ => self.begins = Some(self.lines + 1),
            }
        }
    }

    /// The line at which the next record begins.
    fn line(&self) -> usize {
        self.begins.unwrap_or(self.lines + 1)
    }
}

/// A record has more than [`LONGEST_LINE`] bytes. The csv crate passes it on as an error of the file.
#[derive(Debug, thiserror::Error)]
#[error("expected a record of at most {LONGEST_LINE} bytes; is a quote never closed?")]
struct TooLong;

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
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(TooLong))?;
        Ok(read)
    }
}

pub(super) fn rows(
    path: &Path,
    file: Decoded,
    names: &ColumnNames,
    labels: LabelColumn,
) -> Result<impl Iterator<Item = Result<Record, RecordsError>> + Send + use<>, RecordsError> {
    let file = Followed::new(file.chain(Cursor::new(format!("\n{END}"))));
    let inner = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file).into_byte_records();
    let mut records = Records { path: path.to_owned(), inner };
    let Some(header) = records.next() else { return Err(RecordsError::Empty { path: path.to_owned() }) };
    let header: Vec<String> = header?.1.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let columns = Header::find(path, header.iter().map(String::as_str), names, labels)?;
    records.header_ended();
    Ok(std::iter::from_fn(move || {
        let bare = records.file().bare;
        let (line, record) = match records.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let bare = (bare || records.file().bare) && records.file().line_end == b'\n';
        let mut row = columns.row(&records.path, line, record.iter());
        if let Err(RecordsError::Fields { beside_return, .. }) = &mut row {
            *beside_return = bare;
        }
        Some(row)
    }))
}

/// The records, each with the line at which it begins.
struct Records<R> {
    path: PathBuf,
    inner: ByteRecordsIntoIter<Followed<R>>,
}

impl<R: Read> Records<R> {
    fn next(&mut self) -> Option<Result<(usize, ByteRecord), RecordsError>> {
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
                Some(Err(RecordsError::line(&self.path, line, reason)))
            }
            _ => Some(Ok((line, record))),
        }
    }

    fn file(&self) -> &Followed<R> {
        self.inner.reader().get_ref()
    }

    /// Sets the byte that ends lines to the one that ended the header.
    fn header_ended(&mut self) {
        let file = self.inner.reader_mut().get_mut();
        if file.bare {
            (file.line_end, file.lines) = (b'\r', 1);
            file.begins = file.begins.map(|_| 2);
        }
    }
}

/// An error in the record that begins at line `start`.
fn failed(path: &Path, start: usize, error: csv::Error) -> RecordsError {
    match error.into_kind() {
        csv::ErrorKind::Io(source) if source.get_ref().is_some_and(|inner| inner.is::<TooLong>()) => {
            RecordsError::line(path, start, source.to_string())
        }
        csv::ErrorKind::Io(source) => RecordsError::Io { path: path.to_owned(), source },
        other => RecordsError::line(path, start, format!("{other:?}")),
    }
}
