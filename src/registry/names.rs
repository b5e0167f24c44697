//! Whether an adapter names another base than the one that is served. Only a fingerprint proves it, and PEFT writes none.

use crate::adapter::AdapterInfo;

/// A warning if the adapter has no fingerprint, and none of the names of the base is the one that the adapter names.
pub(super) fn other_base(info: &AdapterInfo, bases: &[String]) -> Option<String> {
    let named = info.base_model.as_deref().filter(|_| info.base_fingerprint.is_none())?;
    let last = last_part(named)?;
    let same = |base: &String| last_part(base).is_some_and(|base| base.eq_ignore_ascii_case(last));
    if bases.is_empty() || bases.iter().any(same) {
        return None;
    }
    let base = &bases[0];
    Some(format!(
        "base_model_name_or_path is {last:?}, but the base in service is {base:?}; the adapter has no fingerprint"
    ))
}

/// The part of a base's name by which it is compared: without the organisation, or the folders before it. In the hub's cache, a
/// folder above the files has this name.
fn last_part(name: &str) -> Option<&str> {
    let mut parts = without_revision(name).split(['/', '\\']).filter(|part| !part.is_empty());
    let cached = parts.clone().find_map(|part| part.strip_prefix("models--")?.rsplit("--").next());
    cached.or_else(|| parts.next_back())
}

/// `ORG/NAME` of `ORG/NAME@REVISION`, where the revision may have slashes. In the path of a folder, `@` belongs to a name.
fn without_revision(name: &str) -> &str {
    match name.split_once('@') {
        Some((id, _)) if is_id(id) => id,
        _ => name,
    }
}

/// Whether `name` has two parts, of which none is that of an absolute or a relative path.
fn is_id(name: &str) -> bool {
    name.split_once('/').is_some_and(|(organization, name)| {
        let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '~']) && !part.contains('/');
        is_part(organization) && is_part(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_compared_by_the_last_part_of_their_names() {
        let info = |named: Option<&str>, fingerprint: Option<&str>| AdapterInfo {
            labels: Vec::new(),
            problem_type: None,
            base_fingerprint: fingerprint.map(str::to_owned),
            base_model: named.map(str::to_owned),
        };
        let bases = ["sentence-transformers/all-MiniLM-L6-v2".to_owned(), "nreimers/MiniLM-L6-H384-uncased".to_owned()];
        for (named, warns) in [
            (None, false),
            (Some(""), false),
            (Some("all-MiniLM-L6-v2"), false),
            (Some("/models/all-minilm-l6-v2/"), false),
            (Some("/c/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/1ab"), false),
            (Some("nreimers/MiniLM-L6-H384-uncased"), false),
            (Some("google-bert/bert-base-uncased"), true),
        ] {
            assert_eq!(other_base(&info(named, None), &bases).is_some(), warns, "{named:?}");
            assert_eq!(other_base(&info(named, Some("sha256:1")), &bases), None);
            assert_eq!(other_base(&info(named, None), &[]), None);
        }
        // The base in service may be that of a revision.
        for (base, named, warns) in [
            ("org/name@v2", "org/name", false),
            ("org/name@refs/pr/1", "org/name", false),
            ("org/name", "org/name@v2", false),
            ("org/other@name", "org/name", true),
            ("me@host", "/home/me@host", false),
            ("./me@host/name", "org/name", false),
        ] {
            assert_eq!(other_base(&info(Some(named), None), &[base.to_owned()]).is_some(), warns, "{base} {named}");
        }
        let warning = other_base(&info(Some("/home/me/bert-base-uncased"), None), &bases).unwrap_or_default();
        assert!(warning.contains("bert-base-uncased") && !warning.contains("/home"), "{warning}");
    }
}
