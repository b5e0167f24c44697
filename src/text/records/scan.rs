//! Splits a JSON object into its keys and values without parsing the values. So a value that is not read may be invalid JSON, such as
//! `NaN`.

/// The object's keys, each with its value as it is spelt, in order.
///
/// # Errors
/// A message, if `json` is not one object.
pub(super) fn members(json: &[u8]) -> Result<Vec<(String, &[u8])>, String> {
    let mut scan = Scan { json, at: 0 };
    let mut members: Vec<(String, &[u8])> = Vec::new();
    scan.skip_blanks();
    if scan.peek() != Some(b'{') {
        return Err(format!("expected an object, found {}", shortened(json)));
    }
    scan.at += 1;
    scan.skip_blanks();
    if scan.peek() == Some(b'}') {
        scan.at += 1;
    } else {
        loop {
            members.push(scan.member()?);
            match scan.expect(b",}", "a comma or the end of the object")? {
                b',' => scan.skip_blanks(),
                _ => break,
            }
        }
    }
    scan.skip_blanks();
    if scan.peek().is_some() { Err(scan.wrong("the end of the line after the object")) } else { Ok(members) }
}

/// The beginning of `json`, for error messages.
pub(super) fn shortened(json: &[u8]) -> String {
    const MOST: usize = 60;
    let text = String::from_utf8_lossy(json);
    let text = text.trim();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn wrong(&self, expected: &str) -> String {
        match self.peek() {
            None => {
                "the object does not end here: expected one object on each line, or one array of objects".to_owned()
            }
            Some(_) => format!("expected {expected}, found {}", shortened(&self.json[self.at..])),
        }
    }

    /// Skips blanks and takes one of `bytes`.
    fn expect(&mut self, bytes: &[u8], what: &str) -> Result<u8, String> {
        self.skip_blanks();
        match self.peek() {
            Some(byte) if bytes.contains(&byte) => {
                self.at += 1;
                Ok(byte)
            }
            _ => Err(self.wrong(what)),
        }
    }

    /// Takes a key, its colon and its value.
    fn member(&mut self) -> Result<(String, &'a [u8]), String> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong("a key in quotes"));
        }
        let start = self.at;
        self.string()?;
        let spelt = &self.json[start..self.at];
        // A malformed key is kept as it is spelt; it is the name of no column that is read.
        let key = serde_json::from_slice(spelt).unwrap_or_else(|_| String::from_utf8_lossy(spelt).into_owned());
        self.expect(b":", "a colon")?;
        self.skip_blanks();
        let start = self.at;
        self.value()?;
        if self.at == start { Err(self.wrong("a value")) } else { Ok((key, &self.json[start..self.at])) }
    }

    /// Skips a string.
    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.wrong("a quote")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Skips a value of any type.
    fn value(&mut self) -> Result<(), String> {
        let mut depth = 0;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return Ok(()),
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(self.wrong("a value"))
    }
}
