//! An adapter's folder: finds it by a plain name, checks that it lies inside the root, and detects changes of its files.

use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::RegistryError;
use crate::adapter::AdapterError;

/// The files of an adapter. A folder is an adapter if it has the first one.
const FILES: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "config.json"];

/// A folder that holds an adapter. Two values are equal if the folder holds the same version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    /// The canonical path, inside the root.
    pub(super) path: PathBuf,
    /// The size and modification time of each of [`FILES`]; `None` if the file is absent. The inode number and the change time are
    /// not compared: they also change with the owner or on some file systems, although the adapter is the same.
    files: [Option<(u64, Option<SystemTime>)>; FILES.len()],
}

impl Folder {
    /// The adapter `name` under the canonical folder `root`.
    pub(super) fn find(root: &Path, name: &str) -> Result<Self, RegistryError> {
        let missing = || RegistryError::NotFound { name: name.into() };
        if !is_name(name) {
            return Err(missing());
        }
        let inside = |path: &Path, file: &str| match path.canonicalize() {
            Ok(path) if path.starts_with(root) && path != root => Ok(Some(path)),
            Ok(_) => Err(RegistryError::OutsideRoot { name: name.into(), file: file.into() }),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(unreadable(name, file, error)),
        };
        let path = inside(&root.join(name), name)?.ok_or_else(missing)?;
        let mut files = [None; FILES.len()];
        for (state, file) in files.iter_mut().zip(FILES) {
            let told = format!("{name}/{file}");
            *state = match inside(&path.join(file), &told)?.map(|target| target.metadata()) {
                Some(Ok(metadata)) if metadata.is_file() => Some((metadata.len(), metadata.modified().ok())),
                Some(Err(error)) if !is_absent(&error) => return Err(unreadable(name, &told, error)),
                _ => None,
            };
        }
        files[0].ok_or_else(missing)?;
        Ok(Self { path, files })
    }
}

/// Whether nothing exists at the path, as opposed to something that cannot be read at the moment.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// The error for a file that cannot be read. `file` is relative to the root, so that clients do not see the root.
fn unreadable(name: &str, file: &str, error: io::Error) -> RegistryError {
    let source = AdapterError::io(Path::new(file))(error);
    RegistryError::Invalid { name: name.into(), reason: source.to_string(), source: Arc::new(source.into()) }
}

/// Whether `name` is a folder's name, or two joined by `/`: PEFT saves further adapters of one model into subfolders of the first
/// one's.
fn is_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((folder, adapter)) => is_plain(folder) && is_plain(adapter),
        None => is_plain(name),
    }
}

/// Whether `name` is exactly one component of a path, other than `.` and `..`.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(only)) if only == name)
        && components.next().is_none()
        && !name.contains(['\\', '\0'])
}

/// The names of all adapters under the canonical folder `root`, sorted: its subfolders that are adapters, and one level deeper
/// those that PEFT saved inside another (`folder/adapter`).
pub(super) fn names(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in subfolders(root)? {
        let folder = root.join(&name);
        // A link may point back to the root. A subfolder that cannot be read holds no adapter that can be served.
        let inner = if folder.is_symlink() { Vec::new() } else { subfolders(&folder).unwrap_or_default() };
        for inner in inner {
            let inner = format!("{name}/{inner}");
            if Folder::find(root, &inner).is_ok() {
                names.push(inner);
            }
        }
        if Folder::find(root, &name).is_ok() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The names of the folders in `dir`, including links to folders, that are valid UTF-8.
fn subfolders(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_dir()
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_plain_names() {
        for name in ["a", "a b", "sst-2", "..a", "a..", ".hidden", "日本"] {
            assert!(is_plain(name), "{name:?}");
        }
        for name in ["", ".", "..", "/", "a/", "/a", "a/b", "a/..", "../a", "./a", "a\\b", "a\0"] {
            assert!(!is_plain(name), "{name:?}");
        }
        for (name, expected) in
            [("a", true), ("a/b", true), ("a/b/c", false), ("a/..", false), ("./a", false), ("a/", false)]
        {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
    }
}
