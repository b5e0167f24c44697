//! A file on its way: kept where it broke off, so that the next try goes on from there.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ModelError;
use super::digest::hex;
use super::files::PARTIAL;
use super::progress::Progress;

/// One version of one file, as far as it has come. Its lock is held: pulls at once do not write to one file.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    /// Without an etag nobody can tell whether the rest belongs to what is there: then it begins anew.
    resumes: bool,
    /// Its length at the last look.
    known: Cell<u64>,
    published: Cell<bool>,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing to go on from.
        if !self.published.get() && self.len() == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How a reply continues what is there.
pub(super) struct Fill {
    /// Whether it is the rest, or the whole.
    pub(super) append: bool,
    /// Its own length, where it is told.
    pub(super) bytes: Option<u64>,
}

impl Partial {
    /// What has come of the version `etag` of the file at the address `from`; kept in `models`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(super) fn of(models: &Path, from: &str, etag: Option<&str>) -> Result<Self, ModelError> {
        let name = hex(&Sha256::digest(format!("{from}\n{}", etag.unwrap_or_default())));
        let mut path = models.join(format!("{PARTIAL}{}", &name[..24]));
        let mut alone = false;
        loop {
            // Of a name with this process's number in it another process may have left something.
            let open = OpenOptions::new().create(true).truncate(alone).read(true).write(true).open(&path);
            let file = open.map_err(ModelError::io(&path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => {
                    let partial =
                        Self { path, file, resumes: etag.is_some(), known: Cell::new(0), published: Cell::new(false) };
                    partial.known.set(partial.len());
                    return Ok(partial);
                }
                // Published by another pull between the two calls.
                Ok(()) => {}
                // Another pull is at it: this one goes alone.
                Err(TryLockError::WouldBlock) => {
                    let me = (std::process::id(), std::thread::current().id());
                    path = models.join(format!("{PARTIAL}{}-{}-{:?}", &name[..24], me.0, me.1));
                    alone = true;
                }
                Err(TryLockError::Error(error)) => return Err(ModelError::io(&path)(error)),
            }
        }
    }

    /// Bytes that are there and can be gone on from.
    pub(super) fn len(&self) -> u64 {
        if self.resumes { self.file.metadata().map_or(0, |metadata| metadata.len()) } else { 0 }
    }

    /// Whether more has come since the last look.
    pub(super) fn grew(&self) -> bool {
        let before = self.known.replace(self.len());
        self.len() > before
    }

    /// Writes what `reader` gives.
    ///
    /// # Errors
    /// A reader that breaks, or gives less than was told; what came stays if it can be gone on from.
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
        match bytes.filter(|&expected| expected != copied) {
            Some(expected) => Err(fetch(format!("expected {expected} bytes, {copied} came"))),
            // Before the rename that makes it visible, so that a crash leaves no empty file there.
            None => file.sync_all().map_err(io()),
        }
    }

    /// Compares with the digest that it should have; what has another is thrown away.
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

    /// Moves the whole file to its place.
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

/// Whether `path` is still the name of `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode =
        |metadata: std::io::Result<fs::Metadata>| metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()));
    inode(file.metadata()).is_some_and(|own| inode(fs::metadata(path)) == Some(own))
}

/// A file that is open is not renamed here.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.is_file()
}
