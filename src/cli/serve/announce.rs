//! What a server says about itself once, when it is ready.

use std::io;
use std::path::Path;

use polyrank::logging::printable;
use polyrank::registry::Registry;
use polyrank::server::App;

/// The file that makes a folder an adapter.
const ADAPTER: &str = "adapter_config.json";

/// The number of adapters that are named. Only as many are looked for, because a folder may have thousands.
const NAMED: usize = 5;

/// Logs what is served, and what looks wrong with the folder of adapters.
pub(super) fn announce(app: &App) {
    let (config, engine) = (app.config(), app.engine());
    let root = &config.adapters;
    let found = match Found::in_folder(root) {
        Ok(found) => found,
        Err(error) => return tracing::warn!("{}: {error}", root.display()),
    };
    let preloaded = if config.preload.is_empty() { "none".to_owned() } else { config.preload.join(", ") };
    tracing::info!(
        base = config.model_id,
        dtype = engine.precision().name(),
        device = engine.backend().name(),
        adapters = found.told(),
        preloaded,
        "ready"
    );
    if root.join(ADAPTER).is_file() {
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (root, parent) = (root.display(), parent.display());
        tracing::warn!("{root} is itself an adapter: to serve it, pass the folder around it: --adapters {parent}");
    } else if found.adapters.is_empty() {
        tracing::warn!("{}: no adapter yet: no subfolder has an {ADAPTER}", root.display());
    }
    if !found.outside.is_empty() {
        let names = printable(&found.outside.join(", "));
        tracing::warn!("{}: links that lead outside of this folder are not served: {names}", root.display());
    }
}

/// The first adapters in a folder of adapters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Whether there may be others, which were not looked for.
    others: bool,
    /// The names of the first adapters.
    adapters: Vec<String>,
    /// The names of links before these that lead to adapters outside of the folder.
    outside: Vec<String>,
}

impl Found {
    fn in_folder(root: &Path) -> io::Result<Self> {
        let inside = root.canonicalize()?;
        let mut found = Self::default();
        for name in subfolders(root)? {
            // PEFT saves further adapters of one model into subfolders of the first one's. A folder that cannot be read has none.
            let inner = if root.join(&name).is_symlink() {
                Vec::new()
            } else {
                subfolders(&root.join(&name)).unwrap_or_default()
            };
            let inner: Vec<String> = inner.into_iter().map(|inner| format!("{name}/{inner}")).collect();
            for name in std::iter::once(name).chain(inner) {
                let folder = root.join(&name);
                if !Registry::is_name(&name) || !folder.join(ADAPTER).is_file() {
                    continue;
                }
                if !folder.canonicalize().is_ok_and(|folder| folder.starts_with(&inside)) {
                    found.outside.push(name);
                } else if found.adapters.len() == NAMED {
                    found.others = true;
                    return Ok(found);
                } else {
                    found.adapters.push(name);
                }
            }
        }
        Ok(found)
    }

    /// The number of adapters, or that there are more than those that are named, and the first ones' names.
    fn told(&self) -> String {
        let names = self.adapters.join(", ");
        match (self.adapters.len(), self.others) {
            (0, _) => "none".to_owned(),
            (found, false) => format!("{found} ({names})"),
            (found, true) => format!("more than {found} ({names}, ...)"),
        }
    }
}

/// The names of the folders in `dir` that are not hidden, in order.
fn subfolders(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Whether a link leads to a folder is not looked up.
        if !name.starts_with('.') && entry.file_type().is_ok_and(|kind| !kind.is_file()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn names_the_first_adapters() {
        let root = tempfile::tempdir().unwrap();
        let found = || Found::in_folder(root.path()).unwrap();
        assert_eq!(found().told(), "none");
        for name in [".hidden", "empty", "b", "a", "group/inner"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(found(), Found::default());
        for name in [".hidden", "a", "b", "group/inner"] {
            fs::write(root.path().join(name).join(ADAPTER), "{}").unwrap();
        }
        assert_eq!(found().told(), "3 (a, b, group/inner)");
        #[cfg(unix)]
        {
            let elsewhere = tempfile::tempdir().unwrap();
            fs::write(elsewhere.path().join(ADAPTER), "{}").unwrap();
            let link = root.path().join("away");
            std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
            assert_eq!((found().outside, found().adapters.len()), (vec!["away".to_owned()], 3));
            fs::remove_file(link).unwrap();
        }
        // PEFT saves an adapter inside another; and several may lie in a folder that is none.
        for name in ["b/c", "group/other"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join(ADAPTER), "{}").unwrap();
        }
        assert_eq!(found().told(), "5 (a, b, b/c, group/inner, group/other)");
        for number in 0..2000 {
            let dir = root.path().join(format!("many{number}"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(ADAPTER), "{}").unwrap();
        }
        assert_eq!(found().told(), "more than 5 (a, b, b/c, group/inner, group/other, ...)");
    }
}
