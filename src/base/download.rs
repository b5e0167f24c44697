//! One file on its way from a reader to the disk: hashed and checked.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ModelError;
use super::digest::hex;
use super::progress::Progress;

/// Where a file comes from, and what it must be.
pub(super) struct Download<'a> {
    /// An address, or a place in a package.
    pub(super) from: &'a str,
    /// SHA-256, where it is known.
    pub(super) sha256: Option<&'a str>,
    /// Its size, where it is known.
    pub(super) bytes: Option<u64>,
}

impl Download<'_> {
    /// Writes what `reader` gives to `path`, and checks it.
    pub(super) fn save(&self, reader: impl Read, path: &Path, progress: &dyn Progress) -> Result<(), ModelError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        progress.begin(&name, self.bytes);
        let found = self.copy(reader, path, progress);
        progress.end();
        let found = found?;
        match self.sha256 {
            Some(expected) if expected != found => {
                Err(ModelError::Checksum { path: self.from.to_owned(), expected: expected.to_owned(), found })
            }
            _ => Ok(()),
        }
    }

    /// The SHA-256 of what was written.
    fn copy(&self, mut reader: impl Read, path: &Path, progress: &dyn Progress) -> Result<String, ModelError> {
        let fetch = |reason: String| ModelError::Fetch { from: self.from.to_owned(), reason };
        let mut file = File::create_new(path).map_err(ModelError::io(path))?;
        let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 16], 0);
        loop {
            let read = reader.read(&mut buffer).map_err(|error| fetch(error.to_string()))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(ModelError::io(path))?;
            hash.update(&buffer[..read]);
            bytes += read as u64;
            progress.advance(read as u64);
        }
        if let Some(expected) = self.bytes.filter(|&expected| expected != bytes) {
            return Err(fetch(format!("expected {expected} bytes, {bytes} came")));
        }
        // Before the rename that makes it visible, so that a crash leaves no empty file there.
        file.sync_all().map_err(ModelError::io(path))?;
        Ok(hex(&hash.finalize()))
    }
}
