//! The modules form floors, and each imports only floors below its own. `src/lib.rs` lists the floors; this test enforces them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the lowest to the highest. Modules of one floor do not import each other.
const FLOORS: [&[&str]; 14] = [
    &["allocator", "atomic_file", "command_line", "correlation", "logging", "panics"],
    &["params"],
    &["cpu", "cuda"],
    &["ops"],
    &["text"],
    &["base"],
    &["encoder"],
    &["adapter"],
    &["engine"],
    &["registry"],
    &["scheduler"],
    &["server", "inspect"],
    &["fuzzing"],
    &["cli", "main"],
];

fn floor(module: &str) -> usize {
    let found = FLOORS.iter().position(|floor| floor.contains(&module));
    found.unwrap_or_else(|| panic!("src/{module} has no floor: put it on one in tests/floors.rs and src/lib.rs"))
}

/// Every source file below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The source without comments, so that links in documentation do not count as imports.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules that `code` names after `start` (`crate::` or `polyrank::`), alone or in braces.
fn named(code: &str, start: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut all = BTreeSet::new();
    for (at, _) in code.match_indices(start) {
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(inside) => {
                let inside = inside.split(';').next().unwrap_or_default();
                all.extend(inside.split(',').map(|item| word(item.trim())));
            }
            None => drop(all.insert(word(rest))),
        }
    }
    all
}

#[test]
fn no_module_imports_a_floor_above_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources(&root) {
        let inside = path.strip_prefix(&root).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let code = code(&path);
        for other in named(&code, "crate::").into_iter().chain(named(&code, "polyrank::")) {
            let known = FLOORS.iter().any(|floor| floor.contains(&&*other));
            if known && other != module {
                assert!(
                    floor(&other) < floor(&module),
                    "{}: {module} imports {other}, which lies on its floor or above",
                    path.display()
                );
                imports.entry(module.clone()).or_default().insert(other);
            }
        }
    }
    // If no imports were found, the test would always pass.
    assert!(imports["engine"].contains("encoder") && imports["ops"].contains("cpu") && imports["cli"].len() > 2);
}

#[test]
fn crate_documentation_names_every_module() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in FLOORS.iter().copied().flatten().filter(|module| !["fuzzing", "main"].contains(module)) {
        assert!(map.contains(&format!("`{module}`")), "src/lib.rs does not show {module}");
    }
}
