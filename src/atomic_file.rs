//! Files that appear whole or not at all, after a power cut too: written beside their place, synced, renamed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Names of files on their way begin so.
pub const PREFIX: &str = ".writing-";

/// An empty file beside `path`, to become it. Readable by whom the umask lets: a server may run as another user.
///
/// # Errors
/// What the system says.
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

/// Lets what was written appear as `path`.
///
/// # Errors
/// What the system says.
pub fn publish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Writes `bytes` to `path`.
///
/// # Errors
/// What the system says; what was at `path` is there still.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = begin(path)?;
    file.write_all(bytes)?;
    publish(file, path)
}

/// Makes what another writer left at `path` as good as ours: on the disk, and readable by whom the umask lets.
///
/// # Errors
/// What the system says.
pub fn restore_mode_and_sync(path: &Path) -> io::Result<()> {
    let permissions = begin(path)?.as_file().metadata()?.permissions();
    fs::set_permissions(path, permissions)?;
    fs::OpenOptions::new().write(true).open(path)?.sync_all()
}

/// Renames last through a power cut only once the folder itself is on the disk.
///
/// # Errors
/// What the system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Other systems do not open folders.
    if cfg!(not(unix)) || folder.as_os_str().is_empty() {
        return Ok(());
    }
    fs::File::open(folder)?.sync_all()
}
