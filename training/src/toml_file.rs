//! Reads TOML files that a user wrote.

use std::fs;
use std::path::Path;

use toml::Table;

use crate::error::Error;

/// Reads the file at `path`.
///
/// # Errors
/// The file cannot be read, or is not TOML; then the error names the line.
pub fn read(path: &Path) -> Result<Table, Error> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Error::malformed(path, format!("line {line}: {}", error.message()))
    })
}
