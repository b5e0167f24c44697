//! Files with one JSON object a line: the logs of a run, the stages of a schedule, the results of a sweep.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use polyrank::atomic_file;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// The lines of the file; none if it does not exist. A last line that was written in part is left out, because its process may have
/// been killed or may still write.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    let text = match fs::read_to_string(path) {
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(Error::io(path))?,
    };
    let parse = |(i, line)| serde_json::from_str(line).map_err(|error| malformed(path, i, error));
    whole(&text).lines().enumerate().map(parse).collect()
}

/// A line's number from 1, and what it holds.
pub(crate) type Numbered<T> = (usize, Result<T, serde_json::Error>);

/// Each line of the file with its number from 1, or why it cannot be read. Blank lines are left out. Unlike in [`read`], a last line that
/// was written in part is a line that cannot be read.
pub(crate) fn each<T: DeserializeOwned>(path: &Path) -> Result<Vec<Numbered<T>>, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    Ok(lines.map(|(i, line)| (i + 1, serde_json::from_slice(line))).collect())
}

/// The text without a last line that was written in part. Of a JSON object, no part is JSON.
fn whole(text: &str) -> &str {
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text[end..]).is_ok();
    if is_json { text } else { &text[..end] }
}

/// The error for the line with this index.
pub(crate) fn malformed(path: &Path, index: usize, reason: impl std::fmt::Display) -> Error {
    Error::malformed(path, format!("line {}: {reason}", index + 1))
}

/// Replaces the file by these lines, at once.
pub(crate) fn write<T: Serialize>(path: &Path, lines: impl IntoIterator<Item = T>) -> Result<(), Error> {
    let text = lines.into_iter().map(|line| encode(path, &line)).collect::<Result<String, Error>>()?;
    atomic_file::write(path, text.as_bytes()).map_err(Error::io(path))
}

/// Adds a line to the file, which is created if it does not exist.
pub(crate) fn append(path: &Path, line: &impl Serialize) -> Result<(), Error> {
    appended(path, line).map(drop)
}

/// As [`append`], and waits until the line is on the disk, where it survives a power cut.
pub(crate) fn append_durably(path: &Path, line: &impl Serialize) -> Result<(), Error> {
    appended(path, line)?.sync_data().map_err(Error::io(path))
}

fn appended(path: &Path, line: &impl Serialize) -> Result<fs::File, Error> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
    file.write_all(encode(path, line)?.as_bytes()).map_err(Error::io(path))?;
    Ok(file)
}

fn encode(path: &Path, line: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(line).map(|line| line + "\n").map_err(|error| Error::malformed(path, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn lines_that_cannot_be_read_are_told_by_number() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("lines.jsonl");
        fs::write(&path, b"{\"a\": 1}\n\nplain\n{\"a\": \"\xff\"}\n{\"a\": 2}\n{\"a\":").unwrap();
        let lines = each::<Value>(&path).unwrap().into_iter();
        let found: Vec<(usize, Option<Value>)> = lines.map(|(number, line)| (number, line.ok())).collect();
        assert_eq!(found, [(1, Some(json!({"a": 1}))), (3, None), (4, None), (5, Some(json!({"a": 2}))), (6, None)]);
    }

    #[test]
    fn lines_are_read_back_without_one_that_was_cut() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("lines.jsonl");
        let read = || read::<Value>(&path);
        assert_eq!(read().unwrap(), Vec::<Value>::new());
        let lines = [json!({"a": 1}), json!({"a": "two\nlines"}), json!({"a": {"b": 3}})];
        write(&path, &lines[..2]).unwrap();
        append(&path, &lines[2]).unwrap();
        assert_eq!(read().unwrap(), lines);
        let text = fs::read_to_string(&path).unwrap();
        // A file that a person edited may lack the last end of line.
        fs::write(&path, text.trim_end()).unwrap();
        assert_eq!(read().unwrap(), lines);
        for cut in 2..10 {
            fs::write(&path, &text[..text.len() - cut]).unwrap();
            assert_eq!(read().unwrap(), lines[..2], "{cut}");
        }
        fs::write(&path, "{\"a\": 1}\n{\"a\": \n{\"a\": 1}\n").unwrap();
        assert!(read().unwrap_err().to_string().contains("lines.jsonl: line 2: "));
    }
}
