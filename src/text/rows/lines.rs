//! A file of text, decoded and line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};

use encoding_rs_io::DecodeReaderBytes;

use super::RowsError;

/// No line is longer: a file without line ends would be read whole.
pub(super) const LONGEST_LINE: u64 = 16 << 20;

/// The text of a file: UTF-8 as it is, less its byte-order mark; UTF-16 by its mark.
pub(super) type Decoded = Box<dyn Read + Send>;

/// Opens a file of text; `-` is standard input. What is neither UTF-8 nor UTF-16 with its mark comes out as it is, for the reader to refuse.
pub(super) fn decoded(path: &Path) -> Result<Decoded, RowsError> {
    let mut file: Decoded = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path).map_err(RowsError::io(path))?),
    };
    let mut mark = Vec::with_capacity(3);
    file.by_ref().take(3).read_to_end(&mut mark).map_err(RowsError::io(path))?;
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
    pub(super) fn open(path: &Path) -> Result<Self, RowsError> {
        let reader = BufReader::new(decoded(path)?);
        Ok(Self { path: path.to_owned(), reader, number: 0, line: Vec::new() })
    }

    /// Skips blanks and blank lines; the first byte after them, which is not taken.
    pub(super) fn first_byte(&mut self) -> Result<Option<u8>, RowsError> {
        loop {
            let buffer = self.reader.fill_buf().map_err(RowsError::io(&self.path))?;
            let blanks = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (first, ended) = (buffer.get(blanks).copied(), buffer.is_empty());
            self.number += buffer[..blanks].iter().filter(|byte| **byte == b'\n').count();
            self.reader.consume(blanks);
            if first.is_some() || ended {
                return Ok(first);
            }
        }
    }

    /// The file from here on, which is not read by lines.
    pub(super) fn into_reader(self) -> BufReader<Decoded> {
        self.reader
    }

    /// The next line and its number, from 1, whatever its bytes mean.
    pub(super) fn next_bytes(&mut self) -> Result<Option<(usize, &[u8])>, RowsError> {
        self.line.clear();
        let read = Read::by_ref(&mut self.reader).take(LONGEST_LINE + 1).read_until(b'\n', &mut self.line);
        if read.map_err(RowsError::io(&self.path))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.len() as u64 > LONGEST_LINE {
            let reason = format!("expected a line of at most {LONGEST_LINE} bytes");
            return Err(RowsError::line(&self.path, self.number, reason));
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        Ok(Some((self.number, line.strip_suffix(b"\r").unwrap_or(line))))
    }

    /// The next line and its number, from 1.
    pub(super) fn next_line(&mut self) -> Result<Option<(usize, &str)>, RowsError> {
        let path = self.path.clone();
        let Some((number, line)) = self.next_bytes()? else { return Ok(None) };
        let line = std::str::from_utf8(line).map_err(|_| RowsError::line(&path, number, "not UTF-8"))?;
        Ok(Some((number, line)))
    }
}
