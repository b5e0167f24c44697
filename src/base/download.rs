//! Copies one file from a reader to the disk, and checks its digest and its size.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ModelError;
use super::digest::hex;
use super::progress::Progress;

/// The source of a file, and what its contents must be.
pub(super) struct Download<'a> {
    /// An address, or a path in a package.
    pub(super) from: &'a str,
    /// The expected SHA-256, if it is known.
    pub(super) sha256: Option<&'a str>,
    /// The expected size, if it is known.
    pub(super) bytes: Option<u64>,
}

impl Download<'_> {
    /// Writes the contents of `reader` to `path`, and checks them.
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

    /// Copies the contents and returns their SHA-256.
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
            return Err(fetch(format!("expected {expected} bytes, received {bytes}")));
        }
        // Synced before the rename that makes the file visible, so that a crash does not leave an empty file there.
        file.sync_all().map_err(ModelError::io(path))?;
        Ok(hex(&hash.finalize()))
    }
}
