//! Texts from a file: a table, JSON lines, or plain lines.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Text {
    #[serde(alias = "sentence", alias = "sentence1")]
    pub(super) text: String,
    #[serde(default, alias = "sentence2", skip_serializing_if = "Option::is_none")]
    pub(super) text_pair: Option<String>,
}

/// Why a file has no texts.
#[derive(Debug, Error)]
pub(super) enum InputError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: its name ends in none of .tsv, .jsonl, .txt", file.display())]
    Kind { file: PathBuf },
    #[error("{}: no column named sentence, sentence1 or text; found {found:?}", file.display())]
    Columns { file: PathBuf, found: Vec<String> },
    #[error("{}, line {line}: expected {expected} columns, found {found}", file.display())]
    Cells { file: PathBuf, line: usize, expected: usize, found: usize },
    #[error("{}, line {line}: {source}", file.display())]
    Json { file: PathBuf, line: usize, source: serde_json::Error },
}

/// The texts of `file`: `.tsv` has a header and no quoting, `.jsonl` an object a line, `.txt` a text a line.
pub(super) fn read(file: &Path) -> Result<Vec<Text>, InputError> {
    let content = std::fs::read_to_string(file).map_err(|source| InputError::Io { file: file.into(), source })?;
    let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "tsv" => table(file, content),
        "jsonl" => json_lines(file, content),
        "txt" => Ok(content.lines().map(|line| Text { text: line.into(), text_pair: None }).collect()),
        _ => Err(InputError::Kind { file: file.into() }),
    }
}

fn table(file: &Path, content: &str) -> Result<Vec<Text>, InputError> {
    let mut lines = content.lines().enumerate();
    let header: Vec<&str> = lines.next().map(|(_, header)| header.split('\t').collect()).unwrap_or_default();
    let column = |names: &[&str]| header.iter().position(|name| names.contains(name));
    let Some(text) = column(&["sentence", "sentence1", "text"]) else {
        let found = header.into_iter().map(Into::into).collect();
        return Err(InputError::Columns { file: file.into(), found });
    };
    let pair = column(&["sentence2", "text_pair"]);
    let row = |(index, line): (usize, &str)| {
        let cells: Vec<&str> = line.split('\t').collect();
        let (expected, found) = (header.len(), cells.len());
        if found != expected {
            return Err(InputError::Cells { file: file.into(), line: index + 1, expected, found });
        }
        Ok(Text { text: cells[text].into(), text_pair: pair.map(|pair| cells[pair].into()) })
    };
    lines.map(row).collect()
}

fn json_lines(file: &Path, content: &str) -> Result<Vec<Text>, InputError> {
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let texts = lines.map(|(index, line)| {
        serde_json::from_str(line).map_err(|source| InputError::Json { file: file.into(), line: index + 1, source })
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read_as(name: &str, content: &[u8]) -> Result<Vec<Text>, InputError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        read(&file)
    }

    fn texts(texts: &[(&str, Option<&str>)]) -> Vec<Text> {
        texts.iter().map(|(text, pair)| Text { text: (*text).into(), text_pair: pair.map(Into::into) }).collect()
    }

    #[test]
    fn tables_are_read_by_their_columns() {
        type Case = (&'static str, &'static [(&'static str, Option<&'static str>)]);
        let cases: [Case; 4] = [
            ("label\tsentence\n1\t\"a\n0\tb\n", &[("\"a", None), ("b", None)]),
            ("sentence1\tlabel\tsentence2\r\na\t1\tb\r\n", &[("a", Some("b"))]),
            ("text\ttext_pair\na\t\n", &[("a", Some(""))]),
            ("\u{feff}text\n\n", &[("", None)]),
        ];
        for (content, expected) in cases {
            assert_eq!(read_as("x.tsv", content.as_bytes()).unwrap(), texts(expected), "{content:?}");
        }
    }

    #[test]
    fn json_lines_and_plain_lines_are_read() {
        let json =
            "{\"text\": \"a\", \"label\": 1}\n\n{\"sentence1\": \"b\", \"sentence2\": \"c\"}\n{\"sentence\": \"\\t\"}";
        assert_eq!(read_as("x.jsonl", json.as_bytes()).unwrap(), texts(&[("a", None), ("b", Some("c")), ("\t", None)]));
        assert_eq!(read_as("x.txt", b"a\tb\r\n\nc").unwrap(), texts(&[("a\tb", None), ("", None), ("c", None)]));
        assert_eq!(read_as("x.txt", b"").unwrap(), []);
    }

    #[test]
    fn what_is_malformed_is_named() {
        let file = Path::new("no such folder/x.tsv");
        assert!(matches!(read(file), Err(InputError::Io { file: f, .. }) if f == file));
        assert!(matches!(read_as("x.tsv", b"\xff"), Err(InputError::Io { .. })));
        assert!(matches!(read_as("x.parquet", b"a"), Err(InputError::Kind { .. })));
        assert!(
            matches!(read_as("x.tsv", b"label\tbody\n"), Err(InputError::Columns { found, .. }) if found == ["label", "body"])
        );
        assert!(matches!(read_as("x.tsv", b""), Err(InputError::Columns { .. })));
        assert!(matches!(
            read_as("x.tsv", b"label\ttext\n1\ta\nb\n"),
            Err(InputError::Cells { line: 3, expected: 2, found: 1, .. })
        ));
        for line in ["x", "{\"label\": 1}", "{\"text\": 1}", "[]"] {
            assert!(matches!(read_as("x.jsonl", line.as_bytes()), Err(InputError::Json { line: 1, .. })), "{line}");
        }
    }
}
