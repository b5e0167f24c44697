//! A partially downloaded file, kept so that the next attempt can resume it, if the hub states the file's version.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ModelError;
use super::digest::hex;
use super::files::{PARTIAL, SINGLE};
use super::progress::Progress;
use crate::atomic_file::{self, is_at};

/// The downloaded part of one version of one file. It is locked, so that simultaneous pulls do not write to the same file.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    /// Whether the download can be resumed: only with an etag, which shows whether the rest belongs to the same version.
    resumes: bool,
    /// Whether only this call knows the file.
    single: bool,
    /// Its length at the last call of [`Self::grew`].
    known: Cell<u64>,
    published: Cell<bool>,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // There is nothing to resume, or no later call will.
        if !self.published.get() && (self.len() == 0 || self.single) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How a response continues the file.
pub(super) struct Fill {
    /// Whether the response is the rest of the file rather than the whole file.
    pub(super) append: bool,
    /// The response's own length, if it is known.
    pub(super) bytes: Option<u64>,
}

impl Partial {
    /// Opens the partial download of the version `etag` of the file at the address `from`, in the folder `models`.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub(super) fn of(models: &Path, from: &str, etag: Option<&str>) -> Result<Self, ModelError> {
        let name = hex(&Sha256::digest(format!("{from}\n{}", etag.unwrap_or_default())));
        let path = models.join(format!("{PARTIAL}{}", &name[..24]));
        while etag.is_some() {
            let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
            let file = open.map_err(ModelError::io(&path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self::at(path, file, true, false)),
                // Another pull published the file between the two calls, so try again.
                Ok(()) => {}
                // Another pull is downloading this file, or nobody knows, because not all file systems have locks.
                Err(_) => break,
            }
        }
        // A file of its own. Its name is random: pulls in two containers may have one process number.
        let file = atomic_file::create(models, &format!("{SINGLE}{}-", &name[..24])).map_err(ModelError::io(models))?;
        let (file, path) = file.keep().map_err(|error| ModelError::io(models)(error.error))?;
        Ok(Self::at(path, file, etag.is_some(), true))
    }

    fn at(path: PathBuf, file: File, resumes: bool, single: bool) -> Self {
        let partial = Self { path, file, resumes, single, known: Cell::new(0), published: Cell::new(false) };
        partial.known.set(partial.len());
        partial
    }

    /// The number of bytes from which the download can be resumed.
    pub(super) fn len(&self) -> u64 {
        if self.resumes { self.file.metadata().map_or(0, |metadata| metadata.len()) } else { 0 }
    }

    /// Whether the file has grown since the last call.
    pub(super) fn grew(&self) -> bool {
        let before = self.known.replace(self.len());
        self.len() > before
    }

    /// Writes the contents of `reader` to the file.
    ///
    /// # Errors
    /// If the reader fails or gives fewer bytes than it stated. The bytes received stay if the download can be resumed.
    pub(super) fn fill(
        &self,
        from: &str,
        mut reader: impl Read,
        Fill { append, bytes }: Fill,
        progress: &dyn Progress,
    ) -> Result<(), ModelError> {
        let fetch = |reason: String| ModelError::Fetch { from: from.to_owned(), reason };
        let io = || ModelError::io(&self.path);
        let mut file = &self.file;
        if !append {
            file.set_len(0).map_err(io())?;
        }
        let begun = file.seek(SeekFrom::End(0)).map_err(io())?;
        progress.begin(from.rsplit('/').next().unwrap_or(from), bytes.map(|bytes| begun + bytes));
        progress.advance(begun);
        let copied = copy(&mut reader, file, progress);
        progress.end();
        let copied = match copied {
            Ok(copied) => copied,
            Err(Side::Reader(error)) => return Err(fetch(error.to_string())),
            Err(Side::Writer(error)) => return Err(io()(error)),
        };
        let length = file.metadata().map_err(io())?.len();
        match bytes.filter(|&expected| expected != copied) {
            Some(expected) => Err(fetch(format!("expected {expected} bytes, received {copied}"))),
            None if length != begun + copied => {
                Err(fetch(format!("expected a file of {} bytes, found {length}", begun + copied)))
            }
            // Synced before the rename that makes the file visible, so that a crash does not leave an empty file there.
            None => file.sync_all().map_err(io()),
        }
    }

    /// Compares the file's digest with the expected one. If they differ, the contents are discarded.
    pub(super) fn check(&self, from: &str, sha256: Option<&str>) -> Result<(), ModelError> {
        let Some(expected) = sha256 else { return Ok(()) };
        let (mut file, mut hash) = (&self.file, Sha256::new());
        file.rewind().map_err(ModelError::io(&self.path))?;
        std::io::copy(&mut file, &mut hash).map_err(ModelError::io(&self.path))?;
        let found = hex(&hash.finalize());
        if found == expected {
            return Ok(());
        }
        self.file.set_len(0).map_err(ModelError::io(&self.path))?;
        Err(ModelError::Checksum { path: from.to_owned(), expected: expected.to_owned(), found })
    }

    /// Moves the complete file to `path`.
    pub(super) fn publish(&self, path: &Path) -> Result<(), ModelError> {
        fs::rename(&self.path, path).map_err(ModelError::io(path))?;
        self.published.set(true);
        Ok(())
    }
}

/// Which side of a copy failed.
enum Side {
    Reader(std::io::Error),
    Writer(std::io::Error),
}

fn copy(reader: &mut impl Read, mut file: &File, progress: &dyn Progress) -> Result<u64, Side> {
    let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
    loop {
        let read = reader.read(&mut buffer).map_err(Side::Reader)?;
        if read == 0 {
            return Ok(bytes);
        }
        file.write_all(&buffer[..read]).map_err(Side::Writer)?;
        bytes += read as u64;
        progress.advance(read as u64);
    }
}
