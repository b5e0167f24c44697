//! An adapter's folder: found by a plain name, inside the root, and read as one version.

use std::ops::ControlFlow;
use std::path::{Component, MAIN_SEPARATOR, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, iter, thread};

use super::stamp::{Stamp, is_absent};
use super::{Fault, RegistryError};
use crate::adapter::{AdapterError, Files, NAMES, OpenFiles};
use crate::engine::Error;

/// The most characters of the reason why an adapter is refused.
const LONGEST_REASON: usize = 1000;

/// An unfinished file that has not changed for this long is no longer being copied.
const COPYING: Duration = Duration::from_secs(2);

/// Where an adapter's files are looked for. The root is resolved anew at each look, because it may be a link that moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The adapters' folder as it was given.
    pub(super) root: &'a Path,
    /// The adapter's name.
    pub(super) name: &'a str,
    /// Its folder, relative to the root.
    pub(super) folder: &'a Path,
}

/// A folder that holds an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    /// The canonical path, inside the root.
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
}

/// The files of one version, read whole.
pub(super) struct ReadVersion {
    /// The folder relative to the root, where it is looked for from now on.
    pub(super) folder: PathBuf,
    pub(super) files: Files,
    pub(super) digest: [u8; 32],
    pub(super) stamp: Stamp,
}

/// Refuses files that are open, before they are read.
pub(super) type Allow<'a> = dyn Fn(&OpenFiles) -> Result<(), RegistryError> + 'a;

impl Place<'_> {
    /// The adapter's folder, after a check that it and its files lie inside the root.
    pub(super) fn find(&self) -> Result<Folder, RegistryError> {
        match self.root.canonicalize() {
            Ok(root) => self.find_in(&root),
            Err(error) if is_absent(&error) => Err(RegistryError::RootGone),
            Err(error) => Err(RegistryError::RootUnreadable { reason: error.to_string() }),
        }
    }

    /// [`Self::find`] in a root without links. Only links are resolved; everything else cannot lead outside.
    fn find_in(&self, root: &Path) -> Result<Folder, RegistryError> {
        let name = self.name;
        let missing = || RegistryError::NotFound { name: name.into() };
        let inside = |path: PathBuf, file: &Path| match path.canonicalize() {
            Ok(path) if path.starts_with(root) && path != root => Ok(Some(path)),
            Ok(_) => Err(RegistryError::OutsideRoot { name: name.into(), file: file.display().to_string() }),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.unreadable(file, error)),
        };
        let path = match plain_path(root, self.folder) {
            Some(path) => path,
            // Whoever asks must not learn what there is outside of the root.
            None if self.folder.components().any(leads_upwards) => match inside(root.join(self.folder), self.folder) {
                Ok(Some(path)) => path,
                _ => {
                    let file = self.folder.display().to_string();
                    return Err(RegistryError::OutsideRoot { name: name.into(), file });
                }
            },
            None => inside(root.join(self.folder), self.folder)?.ok_or_else(missing)?,
        };
        for file in NAMES {
            if is_link(&path.join(file)) {
                inside(path.join(file), &self.folder.join(file))?;
            }
        }
        let stamp = Stamp::of(&path).map_err(|error| self.unreadable(self.folder, error))?;
        if stamp.is_adapter() { Ok(Folder { path, stamp }) } else { Err(missing()) }
    }

    /// Reads the files as one version: once they have stopped changing, and only if none of them changed meanwhile. `before` is the
    /// version in service. `allow` may refuse the files once they are open.
    pub(super) fn read(&self, before: Option<&Stamp>, allow: &Allow<'_>) -> Result<ReadVersion, RegistryError> {
        let folder = self.settled(before)?;
        let result = self.read_folder(&folder, allow);
        // An error may come from files that were replaced under the reader's hands.
        if !matches!(&result, Err(RegistryError::Changing { .. })) && self.find()? != folder {
            return Err(self.changing());
        }
        result
    }

    /// The folder, once its files have not changed for a while. Waits at most for the rest of this while.
    fn settled(&self, before: Option<&Stamp>) -> Result<Folder, RegistryError> {
        let folder = self.find()?;
        let quiet = folder.stamp.quiet(before);
        let left = folder.stamp.age().map_or(quiet, |age| quiet.saturating_sub(age));
        if left == Duration::ZERO {
            return Ok(folder);
        }
        thread::sleep(left);
        if self.find()? == folder { Ok(folder) } else { Err(self.changing()) }
    }

    fn read_folder(&self, folder: &Folder, allow: &Allow<'_>) -> Result<ReadVersion, RegistryError> {
        let invalid = |error| self.invalid(error);
        let open = OpenFiles::open(&folder.path).map_err(Error::Adapter).map_err(invalid)?;
        if Stamp::of_open(&open) != folder.stamp {
            return Err(self.changing());
        }
        allow(&open)?;
        let files = open.read().map_err(Error::Adapter).map_err(invalid)?;
        Ok(ReadVersion { folder: self.lasting(folder), digest: files.digest(), files, stamp: folder.stamp })
    }

    /// The folder as it was given, so that links in it are followed again when they move. One that is absolute or leads upwards is resolved
    /// once: without it, a folder that is gone would look like one outside of the root.
    fn lasting(&self, folder: &Folder) -> PathBuf {
        let given = || self.folder.to_owned();
        if !self.folder.components().any(leads_upwards) {
            return given();
        }
        let root = self.root.canonicalize();
        root.ok().and_then(|root| folder.path.strip_prefix(root).ok().map(Path::to_owned)).unwrap_or_else(given)
    }

    pub(super) fn changing(&self) -> RegistryError {
        RegistryError::Changing { name: self.name.into() }
    }

    /// The error for an adapter that cannot be read or used. The root is taken out of its text, so that clients do not see it.
    pub(super) fn invalid(&self, source: Error) -> RegistryError {
        let mut reason = source.to_string();
        // The resolved root first: a relative one may be a part of it.
        for root in [self.root.canonicalize().ok(), Some(self.root.to_owned())].into_iter().flatten() {
            reason = without(&reason, &format!("{}{MAIN_SEPARATOR}", root.display()));
        }
        // Each request gets the reason, in which names and values of the adapter's files may be long.
        if reason.chars().count() > LONGEST_REASON {
            reason = reason.chars().take(LONGEST_REASON).chain("...".chars()).collect();
        }
        RegistryError::Invalid { name: self.name.into(), reason, error: Arc::new(source) }
    }

    /// The error for a file that cannot be read. `file` is relative to the root.
    fn unreadable(&self, file: &Path, error: io::Error) -> RegistryError {
        self.invalid(AdapterError::Io { file: file.to_owned(), source: error }.into())
    }
}

/// `text` without `root` where a path begins with it.
fn without(text: &str, root: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut left = text;
    while let Some((before, after)) = left.split_once(root) {
        kept += before;
        if kept.ends_with(|last: char| !last.is_whitespace() && !"\"'(:=".contains(last)) {
            kept += root;
        }
        left = after;
    }
    kept + left
}

impl Place<'_> {
    /// Whether the folder has no weights, and has changed so recently that they may still be copied.
    pub(super) fn lacks_weights_yet(&self) -> bool {
        self.find().is_ok_and(|folder| !folder.stamp.has_weights() && is_recent(&folder.stamp))
    }
}

impl ReadVersion {
    /// Whether a file ends too early, and has changed so recently that the rest may still be copied.
    pub(super) fn is_cut_short_yet(&self) -> bool {
        is_recent(&self.stamp) && self.files.is_cut_short()
    }
}

/// Whether the files have changed so recently that they may still be copied.
pub(super) fn is_recent(stamp: &Stamp) -> bool {
    stamp.age().is_none_or(|age| age < COPYING)
}

/// Whether a part of a path may lead out of the folder that the path begins in.
fn leads_upwards(part: Component<'_>) -> bool {
    !matches!(part, Component::Normal(_) | Component::CurDir)
}

/// The path of `folder` in `root`, if none of its parts is a link or leads upwards.
fn plain_path(root: &Path, folder: &Path) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for part in folder.components() {
        let Component::Normal(part) = part else { return None };
        path.push(part);
        if is_link(&path) {
            return None;
        }
    }
    (path != root).then_some(path)
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

/// Whether `name` is a folder's name, or two joined by `/`: PEFT saves further adapters of one model into subfolders of the first
/// one's.
pub(super) fn is_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((folder, adapter)) => is_plain(folder) && is_plain(adapter),
        None => is_plain(name),
    }
}

/// The longest name of a folder that file systems have, in bytes. A client may ask for any name.
const LONGEST_NAME: usize = 255;

/// Whether `name` is exactly one component of a path, not hidden, and without characters that break lines of logs and lists. Volumes of
/// Kubernetes' ConfigMaps have hidden folders beside the adapters (`..data`, `..2026_01_01`), as do version control and interrupted pulls.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(only)) if only == name)
        && components.next().is_none()
        && name.len() <= LONGEST_NAME
        && !name.starts_with('.')
        && !name.contains(|c: char| c == '\\' || c.is_control())
}

/// The names of all adapters under a root.
pub(super) struct Names {
    /// Sorted, with their folders. There is no folder for a name if the disk fails at the moment, so that it is not known whether it is an
    /// adapter: whoever compares lists must not take it for deleted.
    pub(super) found: Vec<(String, Option<Folder>)>,
    /// The names of the folders for which the disk fails, so that adapters inside them are not known.
    pub(super) unreadable: Vec<String>,
}

/// The names of all adapters under `root`.
pub(super) fn names(root: &Path) -> io::Result<Names> {
    let mut found = Vec::new();
    let unreadable = visit(root, |name, folder| {
        match folder {
            Ok(folder) => found.push((name, Some(folder))),
            Err(RegistryError::Invalid { error, .. }) if Fault::of(&error) == Fault::Machine => {
                found.push((name, None));
            }
            Err(_) => {}
        }
        ControlFlow::Continue(())
    })?;
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(Names { found, unreadable })
}

/// Looks at all names under `root` that adapters can have, until `see` breaks off: its subfolders in order of name, and after each of them,
/// one level deeper, those that PEFT saved inside it (`folder/adapter`). `see` gets the name, and the folder if it is that of an adapter.
/// Returns the names of the subfolders for which the disk fails.
pub(super) fn visit(
    root: &Path,
    see: impl FnMut(String, Result<Folder, RegistryError>) -> ControlFlow<()>,
) -> io::Result<Vec<String>> {
    visit_with(root, subfolders, see)
}

/// [`visit`] with the function that reads the names of the folders in a folder.
fn visit_with(
    root: &Path,
    subfolders: impl Fn(&Path) -> io::Result<Vec<String>>,
    mut see: impl FnMut(String, Result<Folder, RegistryError>) -> ControlFlow<()>,
) -> io::Result<Vec<String>> {
    let (root, mut unreadable) = (&root.canonicalize()?, Vec::new());
    for name in subfolders(root)? {
        let folder = root.join(&name);
        // A link may point back to the root. A subfolder that nobody may read holds no adapter that can be served.
        let inner = if folder.is_symlink() { Ok(Vec::new()) } else { subfolders(&folder) };
        let inner = inner.unwrap_or_else(|error| {
            if !is_absent(&error) && error.kind() != io::ErrorKind::PermissionDenied {
                unreadable.push(name.clone());
            }
            Vec::new()
        });
        let inner: Vec<String> = inner.into_iter().map(|inner| format!("{name}/{inner}")).collect();
        for name in iter::once(name).chain(inner) {
            let found = Place { root, name: &name, folder: Path::new(&name) }.find_in(root);
            if see(name, found).is_break() {
                return Ok(unreadable);
            }
        }
    }
    Ok(unreadable)
}

/// The names of the folders in `dir`, including links to folders, that are valid UTF-8 and not hidden, in order.
fn subfolders(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if let Ok(name) = entry.file_name().into_string()
            && is_plain(&name)
            && (kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()))
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_folder_that_fails_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "b", "b/inner", "c"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let read = |dir: &Path| if dir.ends_with("b") { Err(io::Error::other("EIO")) } else { subfolders(dir) };
        let mut seen = Vec::new();
        let unreadable = visit_with(root.path(), read, |name, _| {
            seen.push(name);
            ControlFlow::Continue(())
        });
        assert_eq!((seen, unreadable.unwrap()), (vec!["a".into(), "b".into(), "c".into()], vec!["b".into()]));
        let root_fails = visit_with(root.path(), |_| Err(io::Error::other("EIO")), |_, _| ControlFlow::Continue(()));
        assert!(root_fails.is_err());
    }

    #[test]
    fn accepts_only_plain_names() {
        let (longest, too_long) = ("a".repeat(LONGEST_NAME), "a".repeat(LONGEST_NAME + 1));
        assert!(is_plain(&longest) && !is_plain(&too_long));
        for name in ["a", "a b", "sst-2", "a..", "a.b", "日本"] {
            assert!(is_plain(name), "{name:?}");
        }
        for name in [
            "", ".", "..", "/", "a/", "/a", "a/b", "a/..", "../a", "./a", "a\\b", "a\0", "..a", ".hidden", "..data",
            "a\nb", "\u{7f}",
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
        for (name, expected) in [
            ("a", true),
            ("a/b", true),
            ("a/b/c", false),
            ("a/..", false),
            ("./a", false),
            ("a/", false),
            ("..data/a", false),
            ("a/.b", false),
        ] {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
    }
}
