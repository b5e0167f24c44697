//! Writes files atomically: a file appears complete or not at all, even after a power cut. It is written to a temporary file in the
//! same folder, synced, and renamed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// The names of temporary files begin with this.
pub const PREFIX: &str = ".writing-";

/// Creates an empty temporary file in the folder of `path`, for [`publish`] to rename. The umask alone decides who may read it, because
/// a server may run as another user. It is locked while it is written, so that [`writer_of`] can tell whether its writer lives.
///
/// # Errors
/// The file cannot be created.
pub fn begin(path: &Path) -> io::Result<NamedTempFile> {
    create(path.parent().unwrap_or(Path::new("")), PREFIX)
}

/// Creates an empty file in `folder`, of which no other process has the name, which begins with `prefix`. Like that of [`begin`], it is
/// locked, and the umask decides who may read it.
///
/// # Errors
/// The file cannot be created.
pub fn create(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut builder = Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        if hold(&file) {
            return Ok(file);
        }
    }
}

/// Syncs `file` and renames it to `path`.
///
/// # Errors
/// The file cannot be synced or renamed.
pub fn publish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Writes `bytes` to `path` atomically.
///
/// # Errors
/// The file cannot be written; a file that was at `path` before is still there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = begin(path)?;
    file.write_all(bytes)?;
    publish(file, path)
}

/// Replaces files of one folder that belong together, and removes the files `stale`. The last of `files` is one without which no program
/// accepts the folder. All are written to temporary files and synced first, so that a full disk leaves the folder as it was. Then the old
/// last file is removed, and the new one is renamed after all others. So a writer that is killed leaves the old files, the new ones, or a
/// folder that is refused, but never new files beside old ones that do not match them.
///
/// # Errors
/// A file, which the error has, cannot be written, renamed or removed.
pub fn replace(files: &[(PathBuf, Vec<u8>)], stale: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
    let Some((last, _)) = files.last() else { return Ok(()) };
    let of = |path: &Path| {
        let path = path.to_owned();
        |error| (path, error)
    };
    let mut written = Vec::with_capacity(files.len());
    for (path, bytes) in files {
        let temporary = begin(path).and_then(|mut temporary| {
            temporary.write_all(bytes)?;
            temporary.as_file().sync_all()?;
            Ok(temporary)
        });
        written.push((temporary.map_err(of(path))?, path));
    }
    for path in [last].into_iter().chain(stale) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path.clone(), error)),
            _ => {}
        }
    }
    for (temporary, path) in written {
        temporary.persist(path).map_err(|error| (path.clone(), error.error))?;
    }
    last.parent().map_or(Ok(()), |folder| sync_folder(folder).map_err(of(folder)))
}

/// Removes what writers that have ended, such as killed ones, left in the folder `folder`.
///
/// # Errors
/// The folder cannot be read, or a file cannot be removed.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let is_begun = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        let writer = if is_begun { writer_of(&path) } else { Writer::Lives };
        if writer.has_ended(|| false) {
            std::fs::remove_file(&path)?;
        }
        drop(writer);
    }
    Ok(())
}

/// Locks a new file. False if another process has found it without a lock first, and removes it as abandoned.
#[must_use]
pub fn hold(file: &NamedTempFile) -> bool {
    match file.as_file().try_lock() {
        Ok(()) => is_at(file.as_file(), file.path()),
        Err(TryLockError::WouldBlock) => false,
        // Not all file systems have locks.
        Err(TryLockError::Error(_)) => true,
    }
}

/// The process that writes a file, and holds a lock on it meanwhile.
#[derive(Debug)]
pub enum Writer {
    /// It works on the file.
    Lives,
    /// It has ended. The lock on the file is ours until this value is dropped, so that no other process takes it for its own while it is
    /// removed.
    Gone(File),
    /// It is not known, because the file cannot be opened or its file system has no locks.
    Unknown,
}

impl Writer {
    /// Whether it has ended. Where that is not known, `otherwise` decides.
    pub fn has_ended(&self, otherwise: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Lives => false,
            Self::Gone(_) => true,
            Self::Unknown => otherwise(),
        }
    }
}

/// Looks whether the process that writes the file at `path` has ended.
#[must_use]
pub fn writer_of(path: &Path) -> Writer {
    let Ok(file) = File::open(path) else { return Writer::Unknown };
    match file.try_lock() {
        Ok(()) if is_at(&file, path) => Writer::Gone(file),
        // The file has been renamed, and another one may have its name.
        Ok(()) | Err(TryLockError::WouldBlock) => Writer::Lives,
        Err(TryLockError::Error(_)) => Writer::Unknown,
    }
}

/// Whether `path` is still the name of `file`.
#[cfg(unix)]
#[must_use]
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()));
    inode(file.metadata()).is_some_and(|own| inode(fs::metadata(path)) == Some(own))
}

/// Whether `path` is still the name of `file`. On these systems an open file cannot be renamed.
#[cfg(not(unix))]
#[must_use]
pub fn is_at(_: &File, path: &Path) -> bool {
    path.is_file()
}

/// Gives a file that another program wrote at `path` the mode that the umask allows, and syncs it to the disk.
///
/// # Errors
/// The mode cannot be set, or the file cannot be synced.
pub fn restore_mode_and_sync(path: &Path) -> io::Result<()> {
    let permissions = begin(path)?.as_file().metadata()?.permissions();
    fs::set_permissions(path, permissions)?;
    fs::OpenOptions::new().write(true).open(path)?.sync_all()
}

/// Syncs a folder to the disk. Only then does a rename inside it survive a power cut.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Systems other than Unix cannot open folders.
    if cfg!(not(unix)) || folder.as_os_str().is_empty() {
        return Ok(());
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn replaced_files_are_never_beside_old_ones_that_do_not_match() {
        let room = tempfile::tempdir().unwrap();
        let [labels, weights, other] = ["labels", "weights", "other"].map(|name| room.path().join(name));
        let files = |content: &str| [&labels, &weights].map(|path| (path.clone(), content.as_bytes().to_vec()));
        let read = |path: &Path| fs::read_to_string(path).ok();
        replace(&files("old"), &[]).unwrap();
        fs::write(&other, "old").unwrap();
        // A file that cannot be written leaves all as it was.
        let mut unwritable = files("new").to_vec();
        unwritable.insert(1, (room.path().join("absent/file"), Vec::new()));
        assert_eq!(replace(&unwritable, std::slice::from_ref(&other)).unwrap_err().0, room.path().join("absent/file"));
        let old = Some("old".to_owned());
        assert_eq!([&labels, &weights, &other].map(|path| read(path)), [old.clone(), old.clone(), old]);
        // A rename that fails stands for a writer that is killed at this point.
        fs::remove_file(&labels).unwrap();
        fs::create_dir_all(labels.join("in the way")).unwrap();
        assert_eq!(replace(&files("new"), std::slice::from_ref(&other)).unwrap_err().0, labels);
        assert_eq!([&weights, &other].map(|path| read(path)), [None, None]);
        fs::remove_dir_all(&labels).unwrap();
        replace(&files("new"), &[other]).unwrap();
        assert_eq!([&labels, &weights].map(|path| read(path)), [Some("new".to_owned()), Some("new".to_owned())]);
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 2);
    }
}
