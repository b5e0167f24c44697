//! Writes files atomically: a file appears complete or not at all, even after a power cut. It is written to a temporary file in the
//! same folder, synced, and renamed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// The names of temporary files begin with this.
pub const PREFIX: &str = ".writing-";

/// Creates an empty temporary file in the folder of `path`, for [`publish`] to rename. The umask alone decides who may read it, because
/// a server may run as another user.
///
/// # Errors
/// The file cannot be created.
pub fn begin(path: &Path) -> io::Result<NamedTempFile> {
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
    fs::File::open(folder)?.sync_all()
}
