//! Writes files atomically: a file appears complete or not at all, even after a power cut. It is written to a temporary file in the
//! same folder, synced, and renamed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// The names of temporary files begin with this.
pub const PREFIX: &str = ".writing-";

/// Creates an empty temporary file in the folder of `path`, for [`publish`] to rename. The umask alone decides who may read it, because
/// a server may run as another user. It is locked while it is written, so that [`is_abandoned`] can tell whether its writer lives.
///
/// # Errors
/// The file cannot be created.
pub fn begin(path: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = create_in_folder_of(path)?;
        if hold(&file) {
            return Ok(file);
        }
    }
}

fn create_in_folder_of(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(folder) => builder.tempfile_in(folder),
        None => builder.tempfile_in("."),
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

/// Whether the process that wrote the file at `path`, and held a lock on it meanwhile, has ended. `None` if the file's state is unknown,
/// because it cannot be opened or its file system has no locks.
#[must_use]
pub fn is_abandoned(path: &Path) -> Option<bool> {
    let file = File::open(path).ok()?;
    match file.try_lock() {
        // The file may have been renamed, and another one may have its name.
        Ok(()) => Some(is_at(&file, path)),
        Err(TryLockError::WouldBlock) => Some(false),
        Err(TryLockError::Error(_)) => None,
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
