//! Reads the objects of a JSON array, one at a time.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::RecordsError;
use super::lines::LONGEST_LINE;
use super::scan::shortened;

/// The elements of the array at the beginning of a file. An element may be at most as long as a line, so that memory does not grow with
/// the file.
pub(super) struct Elements<R> {
    path: PathBuf,
    reader: R,
    /// The number of elements that were begun.
    row: usize,
    element: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Elements<R> {
    /// The elements of the array whose opening bracket comes next in `reader`.
    pub(super) fn new(path: &Path, reader: R) -> Self {
        Self { path: path.to_owned(), reader, row: 0, element: Vec::new(), ended: false }
    }

    /// The next object and its number, from 1.
    pub(super) fn next(&mut self) -> Result<Option<(usize, &[u8])>, RecordsError> {
        if self.ended {
            return Ok(None);
        }
        // The opening bracket, or the byte after an element.
        let before = self.take_after_blanks()?;
        let first = self.row == 0;
        self.row += 1;
        match before {
            Some(b'[') if first => {}
            Some(b',') if !first => {}
            Some(b']') if !first => return self.end(),
            Some(_) => return Err(self.wrong("expected a comma or the end of the array before it")),
            None => return Err(self.wrong("the file ends inside the array")),
        }
        self.skip_blanks()?;
        match self.peek()? {
            Some(b'{') => self.object()?,
            Some(b']') if first => return Err(self.wrong("the array is empty: expected objects")),
            None => return Err(self.wrong("the file ends inside the array")),
            Some(_) => {
                let found = self.rest_of_line()?;
                return Err(self.wrong(&format!("expected an object, found {found}")));
            }
        }
        Ok(Some((self.row, &self.element)))
    }

    /// Ends the array, and checks that only blanks follow it.
    fn end(&mut self) -> Result<Option<(usize, &[u8])>, RecordsError> {
        self.ended = true;
        match self.take_after_blanks()? {
            None => Ok(None),
            Some(_) => Err(self.wrong("something follows the array")),
        }
    }

    /// Reads an object into `element`, up to its closing brace.
    fn object(&mut self) -> Result<(), RecordsError> {
        self.element.clear();
        let (mut depth, mut quoted, mut escaped) = (0, false, false);
        while let Some(byte) = self.peek()? {
            self.reader.consume(1);
            self.element.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
            if self.element.len() as u64 > LONGEST_LINE {
                return Err(self.wrong(&format!("expected an object of at most {LONGEST_LINE} bytes")));
            }
        }
        Err(self.wrong("the file ends inside the array"))
    }

    fn peek(&mut self) -> Result<Option<u8>, RecordsError> {
        Ok(self.reader.fill_buf().map_err(RecordsError::io(&self.path))?.first().copied())
    }

    /// The rest of the line, for an error message.
    fn rest_of_line(&mut self) -> Result<String, RecordsError> {
        const MOST: usize = 100;
        self.element.clear();
        while self.element.len() < MOST
            && let Some(byte) = self.peek()?.filter(|byte| *byte != b'\n')
        {
            self.reader.consume(1);
            self.element.push(byte);
        }
        Ok(shortened(&self.element))
    }

    fn skip_blanks(&mut self) -> Result<(), RecordsError> {
        while self.peek()?.is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.reader.consume(1);
        }
        Ok(())
    }

    fn take_after_blanks(&mut self) -> Result<Option<u8>, RecordsError> {
        self.skip_blanks()?;
        let byte = self.peek()?;
        self.reader.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    /// An error at the current element. No elements follow an error.
    fn wrong(&mut self, reason: &str) -> RecordsError {
        self.ended = true;
        RecordsError::line(&self.path, self.row, reason)
    }
}
