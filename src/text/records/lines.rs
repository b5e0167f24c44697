//! Decodes a text file and reads its lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};

use encoding_rs_io::DecodeReaderBytes;

use super::RecordsError;

/// The maximum length of a line in bytes, so that a file without line ends is not read into memory.
pub(super) const LONGEST_LINE: u64 = 16 << 20;

/// The text of a file: UTF-8 without its byte-order mark, or UTF-16 (known by its byte-order mark) converted to UTF-8.
pub(super) type Decoded = Box<dyn Read + Send>;

/// Opens a text file; `-` is standard input. Other encodings than UTF-8 and UTF-16 with a byte-order mark are passed on unchanged, and
/// the caller refuses them.
pub(super) fn decoded(path: &Path) -> Result<Decoded, RecordsError> {
    let mut file: Decoded = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path).map_err(RecordsError::io(path))?),
    };
    let mut mark = Vec::with_capacity(3);
    file.by_ref().take(3).read_to_end(&mut mark).map_err(RecordsError::io(path))?;
    let whole = |mark: Vec<u8>| -> Chain<Cursor<Vec<u8>>, Decoded> { Cursor::new(mark).chain(file) };
    Ok(match mark[..] {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Box::new(DecodeReaderBytes::new(whole(mark))),
        [0xef, 0xbb, 0xbf] => Box::new(whole(Vec::new())),
        _ => Box::new(whole(mark)),
    })
}

/// The lines of a file, without their ends (`\n` or `\r\n`).
pub(super) struct Lines {
    pub(super) path: PathBuf,
    reader: BufReader<Decoded>,
    number: usize,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self, RecordsError> {
        let reader = BufReader::new(decoded(path)?);
        Ok(Self { path: path.to_owned(), reader, number: 0, line: Vec::new() })
    }

    /// Skips blanks and blank lines, and returns the first byte after them without consuming it.
    pub(super) fn first_byte(&mut self) -> Result<Option<u8>, RecordsError> {
        loop {
            let buffer = self.reader.fill_buf().map_err(RecordsError::io(&self.path))?;
            let blanks = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (first, ended) = (buffer.get(blanks).copied(), buffer.is_empty());
            self.number += buffer[..blanks].iter().filter(|byte| **byte == b'\n').count();
            self.reader.consume(blanks);
            if first.is_some() || ended {
                return Ok(first);
            }
        }
    }

    /// The rest of the file, for reading it other than by lines.
    pub(super) fn into_reader(self) -> BufReader<Decoded> {
        self.reader
    }

    /// The next line and its number, from 1. The line need not be UTF-8.
    pub(super) fn next_bytes(&mut self) -> Result<Option<(usize, &[u8])>, RecordsError> {
        self.line.clear();
        let read = Read::by_ref(&mut self.reader).take(LONGEST_LINE + 1).read_until(b'\n', &mut self.line);
        if read.map_err(RecordsError::io(&self.path))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.len() as u64 > LONGEST_LINE {
            let reason = format!("expected a line of at most {LONGEST_LINE} bytes");
            return Err(RecordsError::line(&self.path, self.number, reason));
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        Ok(Some((self.number, line.strip_suffix(b"\r").unwrap_or(line))))
    }

    /// The next line, which must be UTF-8, and its number, from 1.
    pub(super) fn next_line(&mut self) -> Result<Option<(usize, &str)>, RecordsError> {
        let path = self.path.clone();
        let Some((number, line)) = self.next_bytes()? else { return Ok(None) };
        let line = std::str::from_utf8(line).map_err(|_| RecordsError::line(&path, number, "not UTF-8"))?;
        Ok(Some((number, line)))
    }
}
