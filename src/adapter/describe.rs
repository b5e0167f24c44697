//! What a folder is that is no adapter.

use std::path::Path;

use super::files::NAMES;

/// What the folder `dir` is instead of an adapter, as a hint for the user; `None` if it is an adapter, or shows nothing.
#[must_use]
pub fn describe_folder(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    if has(NAMES[0]) {
        return None;
    }
    if has("model.safetensors") {
        return Some("it is a model, not an adapter of PEFT; `polyrank-train evaluate` reads it".to_owned());
    }
    if has("bottleneck_config.json") {
        return Some("it has bottlenecks, which only `polyrank-train evaluate` reads".to_owned());
    }
    let mut inside: Vec<_> = dir.read_dir().ok()?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    inside.sort_unstable();
    let adapter = inside.into_iter().find(|inside| inside.join(NAMES[0]).is_file())?;
    Some(format!("it is not an adapter itself, but holds some, such as {}", adapter.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn tells_folders_apart() {
        let room = tempfile::tempdir().unwrap();
        let dir = |name: &str, file: &str| {
            fs::create_dir_all(room.path().join(name)).unwrap();
            fs::write(room.path().join(name).join(file), "").unwrap();
            room.path().join(name)
        };
        assert_eq!(describe_folder(&dir("all/b", NAMES[0])), None);
        assert_eq!(describe_folder(&dir("all/a", "notes.txt")), None);
        assert_eq!(describe_folder(&room.path().join("absent")), None);
        assert!(describe_folder(&room.path().join("all")).unwrap().ends_with("all/b"));
        assert!(describe_folder(&dir("full", "model.safetensors")).unwrap().contains("a model"));
        assert!(describe_folder(&dir("bottlenecks", "bottleneck_config.json")).unwrap().contains("bottlenecks"));
    }
}
