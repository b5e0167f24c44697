//! The API key: where it is read, and how it is kept. No message and no log shows it.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};
use sha2::{Digest, Sha256};

/// The API key that requests must send. Only its SHA-256 is kept: the key cannot appear in a log, and the time of a comparison does
/// not tell where two keys differ.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey([u8; 32]);

impl ApiKey {
    /// The key `key`.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether `key` is this key.
    #[must_use]
    pub fn is(&self, key: &[u8]) -> bool {
        self.0 == <[u8; 32]>::from(Sha256::digest(key))
    }
}

impl FromStr for ApiKey {
    type Err = &'static str;

    /// Refuses a key that no client could send in a header.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            Err("must not be empty")
        } else if text.trim() != text {
            Err("must have no blanks and no line breaks around it")
        } else if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            Err("must consist of printable ASCII characters, because it is sent in a header")
        } else {
            Ok(Self::new(text))
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Reads `--api-key`. The errors of clap's own parsers would show the value.
#[derive(Clone)]
pub(super) struct KeyParser;

impl TypedValueParser for KeyParser {
    type Value = ApiKey;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<ApiKey, Error> {
        let key = value.to_str().ok_or("must be UTF-8").and_then(str::parse);
        key.map_err(|reason| {
            let message = format!("invalid value for '--api-key <K>', which is not shown here: it {reason}\n");
            Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

/// Reads `--api-key-file`. The line break that editors put at the end of a file is not a part of the key.
pub(super) fn key_file(path: &str) -> Result<ApiKey, String> {
    let text = std::fs::read_to_string(Path::new(path)).map_err(|error| error.to_string())?;
    let key = text.strip_suffix('\n').unwrap_or(&text);
    let key = key.strip_suffix('\r').unwrap_or(key);
    key.parse().map_err(|reason| format!("the key in it {reason}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn matches_only_itself_and_is_never_printed() {
        let key: ApiKey = "secret".parse().unwrap();
        assert!(key.is(b"secret"));
        for other in [&b""[..], b"secre", b"secret ", b"Secret"] {
            assert!(!key.is(other), "{other:?}");
        }
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
        assert_eq!("a b".parse(), Ok(ApiKey::new("a b")));
    }

    #[test]
    fn refuses_keys_that_no_header_can_carry() {
        for text in ["", " ", "k ", "\tk", "k\n", "a\nb", "a\rb", "a\tb", "a\0b", "schl\u{fc}ssel"] {
            assert!(text.parse::<ApiKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_file_may_end_with_a_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            key_file(file.path().to_str().unwrap())
        };
        for text in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            assert_eq!(read(text), Ok(ApiKey::new("s3cret")), "{text:?}");
        }
        for text in ["", "\n", "s3cret\n\n", "s3cret\nother\n", " s3cret"] {
            let reason = read(text).unwrap_err();
            assert!(reason.contains("must") && !reason.contains("s3cret"), "{reason}");
        }
        assert!(key_file("/no/such/file").unwrap_err().contains("No such file"));
    }
}
