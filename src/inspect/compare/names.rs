//! Names that distinguish the folders of the compared adapters.

use std::iter::once;
use std::path::{Component, Path};

/// A unique name for each folder: its own name, preceded by as many parent folders as distinguish it from the others. A folder that
/// is listed twice gets a number the second time, as in `intent (2)`.
pub(super) fn names(dirs: &[&Path]) -> Vec<String> {
    let paths: Vec<Vec<String>> = dirs.iter().map(|dir| parts(dir)).collect();
    let end = |path: &[String], depth: usize| path[path.len().saturating_sub(depth)..].join("/");
    let mut names: Vec<String> = Vec::new();
    for path in &paths {
        let is_taken = |depth: usize| paths.iter().any(|other| other != path && end(other, depth) == end(path, depth));
        let depth = (1..path.len()).find(|&depth| !is_taken(depth)).unwrap_or(path.len());
        let name = end(path, depth);
        let numbered = (2..).map(|n| format!("{name} ({n})"));
        let free = once(name.clone()).chain(numbered).find(|name| !names.contains(name));
        names.push(free.unwrap_or(name));
    }
    names
}

/// The parts of a folder's absolute path. The last part is not resolved if it is a link, because the user knows the folder by that
/// name.
fn parts(dir: &Path) -> Vec<String> {
    let whole = match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map(|parent| parent.join(name))
        }
        _ => dir.canonicalize(),
    };
    let whole = whole.unwrap_or_else(|_| dir.to_owned());
    let part = |part| match part {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        _ => None,
    };
    whole.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::names;

    fn named<const N: usize>(dirs: [&str; N]) -> Vec<String> {
        names(&dirs.map(Path::new))
    }

    #[test]
    fn names_are_as_short_as_possible() {
        assert_eq!(named(["/no/adapters/intent", "/no/adapters/topic/"]), ["intent", "topic"]);
        assert_eq!(named(["/no/a/intent", "/no/b/intent", "/no/b/topic"]), ["a/intent", "b/intent", "topic"]);
        assert_eq!(named(["/no/a/x/intent", "/no/b/x/intent"]), ["a/x/intent", "b/x/intent"]);
        assert_eq!(named(["/no/intent", "/no/no/intent"]), ["no/intent", "no/no/intent"]);
    }

    #[test]
    fn folder_listed_twice_gets_a_number() {
        assert_eq!(named(["/no/intent", "/no/intent/.", "/no/topic"]), ["intent", "intent (2)", "topic"]);
        assert_eq!(named(["/no/x", "/no/x (2)", "/no/x"]), ["x", "x (2)", "x (3)"]);
    }

    #[test]
    fn relative_folder_is_named_by_its_absolute_path() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        // Cargo runs tests in the package's folder.
        assert_eq!(named(["."]).first().cloned(), name(here));
        assert_eq!(named(["src/.."]).first().cloned(), name(here));
        assert_eq!(named(["src", "tests"]), ["src", "tests"]);
    }
}
