//! What the name of a model means, and the way from it to a folder.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::{MODELS, Sources};
use super::digest::hex;
use super::progress::{Bar, Progress};
use super::pull::{convert_local, pull as fetch, pull_adapter as fetch_adapter};
use super::recipe::{self, Recipe};
use super::{ModelError, convert, files, weights};

/// What folders of converted models that lay elsewhere begin with.
const LOCAL: &str = "local";

/// The name of the default base.
const DEFAULT: &str = "default";

impl Sources {
    /// The folder of `model`: a folder's path, `default`, or a hub's id (`ORG/NAME`) whose model is in the cache.
    ///
    /// # Errors
    /// [`ModelError::NotFound`].
    pub fn locate(&self, model: &str) -> Result<PathBuf, ModelError> {
        if let Some(dir) = folder(model) {
            return Ok(dir);
        }
        recipe(model)
            .map(|recipe| self.folder(&recipe))
            .filter(|dir| files::is_base(dir))
            .ok_or_else(|| not_found(model, self.models()))
    }

    /// [`locate`](Self::locate), and where `model` is not in the cache yet, fetches it.
    ///
    /// # Errors
    /// What is neither a folder nor an id, a model that no source gives, and one that is not served.
    pub fn ensure(&self, model: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        // A folder, though its path may look like an id.
        if let Some(dir) = folder(model) {
            return self.served(dir);
        }
        match (self.locate(model), recipe(model)) {
            (Err(ModelError::NotFound { .. }), Some(_)) if self.offline => {
                Err(ModelError::Offline { model: model.to_owned() })
            }
            (Err(ModelError::NotFound { .. }), Some(recipe)) => fetch(self, &recipe, progress),
            (located, _) => located,
        }
    }

    /// A folder whose files are in older forms is converted once, into the cache; its own files stay as they are.
    fn served(&self, dir: PathBuf) -> Result<PathBuf, ModelError> {
        if files::is_base(&dir) {
            return Ok(dir);
        }
        if !convert::is_convertible(&dir) {
            let missing = [files::CONFIG].into_iter().chain(files::REQUIRED).find(|name| !dir.join(name).is_file());
            return Err(ModelError::io(&dir.join(missing.unwrap_or_default()))(std::io::ErrorKind::NotFound.into()));
        }
        let target = self.models().join(format!("{LOCAL}--{}", state_of(&dir)?));
        if !files::is_base(&target) {
            tracing::info!(from = %dir.display(), to = %target.display(), "converting");
            convert_local(self, &dir, &target)?;
        }
        Ok(target)
    }

    /// Brings the adapter `id` of the hub into the cache: its folder. What is there already is not fetched again.
    ///
    /// # Errors
    /// What is no id, and an adapter that the hub does not give.
    pub fn adapter(&self, id: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        let not_found = || not_found(id, self.home.join("adapters"));
        let recipe = recipe(id).filter(|recipe| recipe.wheel.is_none()).ok_or_else(not_found)?;
        let target = self.home.join("adapters").join(recipe.folder_name());
        if files::is_adapter(&target) {
            return Ok(target);
        }
        if self.offline {
            return Err(ModelError::Offline { model: id.to_owned() });
        }
        fetch_adapter(self, &recipe, &target, progress)?;
        Ok(target)
    }
}

/// The folder of `model`, as [`Sources::locate`] by the environment.
///
/// # Errors
/// As [`Sources::locate`].
pub fn locate(model: &str) -> Result<PathBuf, ModelError> {
    // A folder needs no cache.
    folder(model).map_or_else(|| Sources::from_env()?.locate(model), Ok)
}

/// The folder of `model`, fetched where it is missing, as [`Sources::ensure`] by the environment, with a bar on standard error.
///
/// # Errors
/// As [`Sources::ensure`].
pub fn ensure(model: &str) -> Result<PathBuf, ModelError> {
    // A folder that is served as it is needs no cache.
    match folder(model).filter(|dir| files::is_base(dir) || !convert::is_convertible(dir)) {
        Some(dir) => Ok(dir),
        None => Sources::from_env()?.ensure(model, &Bar::default()),
    }
}

/// Brings the adapter `id` of the hub into the cache, as [`Sources::adapter`] by the environment.
///
/// # Errors
/// As [`Sources::adapter`].
pub fn pull_adapter(id: &str) -> Result<PathBuf, ModelError> {
    Sources::from_env()?.adapter(id, &Bar::default())
}

/// A digest of what files are in `dir`, how large and how old.
fn state_of(dir: &Path) -> Result<String, ModelError> {
    let (dir, mut files) = (&*dir.canonicalize().map_err(ModelError::io(dir))?, Vec::new());
    for entry in std::fs::read_dir(dir).map_err(ModelError::io(dir))? {
        let entry = entry.map_err(ModelError::io(dir))?;
        // Of what a link points at, which is what is read.
        let path = entry.path();
        let metadata = std::fs::metadata(&path).map_err(ModelError::io(&path))?;
        files.push(format!("{path:?} {:?}", weights::state(&metadata)));
    }
    files.sort();
    Ok(hex(&Sha256::digest(files.join("\n")))[..16].to_owned())
}

/// Brings `model`, or without one the default base, into the cache: its folder. What is there already is not fetched again.
///
/// # Errors
/// As [`Sources::ensure`].
pub fn pull(model: Option<&str>) -> Result<PathBuf, ModelError> {
    ensure(model.unwrap_or(DEFAULT))
}

/// The id on the hub and the revision that `model` means, `default` too; `None` for a folder and what is no id.
#[must_use]
pub fn repository(model: &str) -> Option<(String, String)> {
    let recipe = recipe(model).filter(|_| folder(model).is_none())?;
    Some((recipe.id.to_owned(), recipe.revision.to_owned()))
}

/// The folder that `model` is the path of; `default` is never one.
fn folder(model: &str) -> Option<PathBuf> {
    Some(Path::new(model)).filter(|path| model != DEFAULT && path.is_dir()).map(Path::to_owned)
}

/// How to fetch `model`, if it is `default` or an id of the hub.
fn recipe(model: &str) -> Option<Recipe<'_>> {
    let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
    match model {
        DEFAULT => Some(recipe::DEFAULT),
        id if id == recipe::DEFAULT.id => Some(recipe::DEFAULT),
        _ => (is_id(id) && is_revision(revision)).then_some(Recipe { id, revision, pins: &[], wheel: None }),
    }
}

/// The id of the model whose folder in a cache is `dir`.
pub(super) fn id_of(dir: &Path) -> Option<String> {
    let (parent, name) = (dir.parent()?.file_name()?, dir.file_name()?.to_str()?);
    let (organisation, rest) = name.split_once("--").filter(|(organisation, _)| *organisation != LOCAL)?;
    (parent == MODELS).then(|| format!("{organisation}/{}", rest.replace("%2F", "/")))
}

/// Owners on the hub of models whose bare names are known, by what the names begin with.
const OWNERS: [(&str, &str); 13] = [
    ("bert-", "google-bert"),
    ("roberta-", "FacebookAI"),
    ("xlm-roberta-", "FacebookAI"),
    ("distilbert-", "distilbert"),
    ("distilroberta-", "distilbert"),
    ("electra-", "google"),
    ("deberta-", "microsoft"),
    ("mdeberta-", "microsoft"),
    ("mpnet-", "microsoft"),
    ("ModernBERT-", "answerdotai"),
    ("all-", "sentence-transformers"),
    ("multi-qa-", "sentence-transformers"),
    ("paraphrase-", "sentence-transformers"),
];

fn not_found(model: &str, cache: PathBuf) -> ModelError {
    let owner = OWNERS.iter().find(|(start, _)| is_name(model) && model.starts_with(start));
    let suggestion = owner.map(|(_, owner)| format!("{owner}/{model}"));
    ModelError::NotFound { model: model.to_owned(), suggestion, cache }
}

/// A branch, tag, commit or `refs/pr/N`.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_name)
}

/// `ORG/NAME` of letters, digits, `.`, `_` and `-`: what the hub allows. So an id can name no path outside the cache.
fn is_id(model: &str) -> bool {
    model.split_once('/').is_some_and(|(organisation, name)| is_name(organisation) && is_name(name))
}

/// What can stand in a path and leads nowhere.
fn is_name(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_its_repository() {
        let found = |model| repository(model).map(|(id, revision)| format!("{id} {revision}"));
        assert_eq!(found("default").as_deref(), Some("sentence-transformers/all-MiniLM-L6-v2 main"));
        assert_eq!(found("org/name").as_deref(), Some("org/name main"));
        assert_eq!(found("org/name@v2").as_deref(), Some("org/name v2"));
        assert_eq!(found("../a/folder"), None);
        assert_eq!(found(&std::env::temp_dir().to_string_lossy()), None);
    }

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["sentence-transformers/all-MiniLM-L6-v2", "a/b", "o_1/n.2-x"] {
            assert!(is_id(id), "{id}");
        }
        for path in ["", "a", "/a", "a/", "./a", "../a", "a/..", "a/../b", "a/b/c", "~/a", "a/b c", "a\\b", "a/é"] {
            assert!(!is_id(path), "{path}");
        }
        for (revision, escaped) in [("v1.0", "v1.0"), ("refs/pr/1", "refs%2Fpr%2F1"), ("feature/a_b", "feature%2Fa_b")]
        {
            let model = format!("a/b@{revision}");
            let folder = recipe(&model).map(|recipe| recipe.folder_name());
            assert_eq!(folder, Some(format!("a--b@{escaped}")));
        }
        for (name, expected) in [
            ("bert-base-uncased", Some("google-bert/bert-base-uncased")),
            ("roberta-base", Some("FacebookAI/roberta-base")),
            ("all-MiniLM-L6-v2", Some("sentence-transformers/all-MiniLM-L6-v2")),
            ("some-model", None),
            ("bert-base/../x", None),
        ] {
            let ModelError::NotFound { suggestion, .. } = not_found(name, PathBuf::new()) else { panic!("{name}") };
            assert_eq!(suggestion.as_deref(), expected, "{name}");
        }
        for (dir, id) in [
            ("home/models/org--name", Some("org/name")),
            ("home/models/org--na--me@refs%2Fpr%2F1", Some("org/na--me@refs/pr/1")),
            ("home/models/local--12ab", None),
            ("home/org--name", None),
            ("models/name", None),
        ] {
            assert_eq!(id_of(Path::new(dir)).as_deref(), id, "{dir}");
        }
        for revision in ["", "/", "..", "../x", "x/../y", "/x", "x/", "x//y", "a b", "a%2Fb"] {
            assert!(recipe(&format!("a/b@{revision}")).is_none(), "{revision}");
        }
    }
}
