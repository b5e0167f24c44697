//! Finds the folder of a model by its name, and fetches the model if it is missing.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::{MODELS, Sources};
use super::dataset::Dataset;
use super::digest::hex;
use super::progress::{Bar, Progress};
use super::pull::{convert_local, pull as fetch, pull_adapter as fetch_adapter, pull_dataset};
use super::recipe::{self, Recipe};
use super::{ModelError, convert, files, weights};

/// The prefix of the folders of converted local models.
const LOCAL: &str = "local";

/// The name of the default base.
const DEFAULT: &str = "default";

impl Sources {
    /// The folder of `model`, which is a folder's path, `default`, or the id of a hub's model (`ORG/NAME`) in the cache.
    ///
    /// # Errors
    /// [`ModelError::NotFound`], if there is no such model.
    pub fn locate(&self, model: &str) -> Result<PathBuf, ModelError> {
        if let Some(dir) = folder(model) {
            return Ok(dir);
        }
        recipe(model)
            .map(|recipe| self.folder(&recipe))
            .filter(|dir| files::is_base(dir))
            .ok_or_else(|| not_found(model, self.models()))
    }

    /// The folder of `model`, as [`locate`](Self::locate) finds it. A model that is not in the cache yet is fetched.
    ///
    /// # Errors
    /// If `model` is neither a folder nor an id, no source has it, or it is not supported.
    pub fn ensure(&self, model: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        // A folder takes precedence, even if its path looks like an id.
        if let Some(dir) = folder(model) {
            return self.convertible(dir);
        }
        match (self.locate(model), recipe(model)) {
            (Err(ModelError::NotFound { .. }), Some(_)) if self.offline => {
                Err(ModelError::Offline { model: model.to_owned() })
            }
            (Err(ModelError::NotFound { .. }), Some(recipe)) => fetch(self, &recipe, progress),
            (located, _) => located,
        }
    }

    /// The folder to serve. A folder with files in older formats is converted once, into the cache; its own files are not changed.
    fn convertible(&self, dir: PathBuf) -> Result<PathBuf, ModelError> {
        if files::is_base(&dir) {
            return Ok(dir);
        }
        if !convert::is_convertible(&dir) {
            let missing = [files::CONFIG].into_iter().chain(files::REQUIRED).find(|name| !dir.join(name).is_file());
            let names = [files::CONFIG, files::REQUIRED[0], files::REQUIRED[1]].join(", ");
            let adapter = if files::is_adapter(&dir) { "; the folder is an adapter" } else { "" };
            let absent = std::io::Error::new(
                std::io::ErrorKind::NotFound,
                format!("no such file{adapter}; a base has {names} or files from which these can be made"),
            );
            return Err(ModelError::io(&dir.join(missing.unwrap_or_default()))(absent));
        }
        let target = self.models().join(copy_name(&dir)?);
        if !files::is_base(&target) {
            tracing::info!(from = %dir.display(), to = %target.display(), "converting");
            convert_local(self, &dir, &target, &name_of(&dir))?;
        }
        Ok(target)
    }

    /// Fetches the adapter `id` from the hub into the cache, unless it is there already, and returns its folder.
    ///
    /// # Errors
    /// If `id` is not an id, or the hub does not provide the adapter.
    pub fn adapter(&self, id: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        let missing = || ModelError::NoAdapter { adapter: id.to_owned(), cache: self.home.join("adapters") };
        let recipe = recipe(id).filter(|recipe| recipe.wheel.is_none()).ok_or_else(missing)?;
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

    /// Fetches a dataset from the hub into the cache, unless it is there already, and returns its folder, which is a task's folder:
    /// `train.*`, `validation.*` and `test.*`, as far as the dataset has them.
    ///
    /// # Errors
    /// If a name is malformed, or the hub does not provide the dataset or a training split of it.
    pub fn dataset(&self, asked: &Dataset, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        let wrong = |what: &str, expected: &str, found: &str| {
            Err(ModelError::Dataset {
                id: asked.id.to_owned(),
                reason: format!("{what}: expected {expected}, found {found:?}"),
            })
        };
        if !is_id(asked.id) {
            return wrong("its name", "ORG/NAME", asked.id);
        }
        if let Some(revision) = asked.revision.filter(|revision| !is_revision(revision)) {
            return wrong("its revision", "a branch, a tag or a commit", revision);
        }
        if let Some(config) = asked.config.filter(|config| !is_revision(config)) {
            return wrong("its configuration", "letters, digits, -, _ and .", config);
        }
        let target = self.home.join("datasets").join(asked.folder_name());
        if files::is_dataset(&target) {
            return Ok(target);
        }
        if self.offline {
            return Err(ModelError::Offline { model: format!("the dataset {}", asked.id) });
        }
        pull_dataset(self, asked, &target, progress)?;
        tracing::info!(dataset = asked.id, folder = %target.display(), "pulled");
        Ok(target)
    }
}

/// Fetches a dataset from the hub into the cache, as [`Sources::dataset`] does with the environment's settings.
///
/// # Errors
/// As for [`Sources::dataset`].
pub fn dataset(asked: &Dataset) -> Result<PathBuf, ModelError> {
    Sources::from_env()?.dataset(asked, &Bar::default())
}

/// The folder of `model`, fetched if it is missing, as by [`Sources::ensure`] with the environment's settings and a progress bar on
/// standard error.
///
/// # Errors
/// As for [`Sources::ensure`].
pub fn ensure(model: &str) -> Result<PathBuf, ModelError> {
    // A folder that needs no conversion does not need the cache.
    match folder(model).filter(|dir| files::is_base(dir)) {
        Some(dir) => Ok(dir),
        None => Sources::from_env()?.ensure(model, &Bar::default()),
    }
}

/// Fetches the adapter `id` from the hub into the cache, as [`Sources::adapter`] does with the environment's settings.
///
/// # Errors
/// As for [`Sources::adapter`].
pub fn pull_adapter(id: &str) -> Result<PathBuf, ModelError> {
    Sources::from_env()?.adapter(id, &Bar::default())
}

/// The name of the folder in the cache for the converted copy of the local folder `dir`: a digest of its path, and a digest of the names,
/// sizes and times of its files of which a base may be made. Copies of its former states differ only in the second digest.
fn copy_name(dir: &Path) -> Result<String, ModelError> {
    let (dir, mut files) = (&*dir.canonicalize().map_err(ModelError::io(dir))?, Vec::new());
    for entry in std::fs::read_dir(dir).map_err(ModelError::io(dir))? {
        let entry = entry.map_err(ModelError::io(dir))?;
        // The metadata of a link's target, because the target is what is read.
        let path = entry.path();
        if !files::may_be_of_base(&path) {
            continue;
        }
        let metadata = std::fs::metadata(&path).map_err(ModelError::io(&path))?;
        files.push(format!("{path:?} {:?}", weights::state(&metadata)));
    }
    files.sort();
    let digest = |text: String| hex(&Sha256::digest(text))[..16].to_owned();
    Ok(format!("{LOCAL}--{}-{}", digest(format!("{dir:?}")), digest(files.join("\n"))))
}

/// Fetches `model`, or the default base, into the cache, unless it is there already, and returns its folder.
///
/// # Errors
/// As for [`Sources::ensure`].
pub fn pull(model: Option<&str>) -> Result<PathBuf, ModelError> {
    ensure(model.unwrap_or(DEFAULT))
}

/// The hub's id and the revision that `model` means, also for `default`; `None` if it is a folder or not an id.
#[must_use]
pub fn repository(model: &str) -> Option<(String, String)> {
    let recipe = recipe(model).filter(|_| folder(model).is_none())?;
    Some((recipe.id.to_owned(), recipe.revision.to_owned()))
}

/// The folder whose path is `model`, if there is one. `default` is never a path.
fn folder(model: &str) -> Option<PathBuf> {
    Some(Path::new(model)).filter(|path| model != DEFAULT && path.is_dir()).map(Path::to_owned)
}

/// The recipe to fetch `model`, if it is `default` or an id of the hub.
fn recipe(model: &str) -> Option<Recipe<'_>> {
    let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
    match model {
        DEFAULT => Some(recipe::DEFAULT),
        // Also with the revision in the id: its folder is the same, and so are the digests that its files must have.
        _ if id == recipe::DEFAULT.id && revision == recipe::DEFAULT.revision => Some(recipe::DEFAULT),
        _ => (is_id(id) && is_revision(revision)).then_some(Recipe { id, revision, pins: &[], wheel: None }),
    }
}

/// The name of the model in the folder `dir`, as [`super::Base::name`] returns it.
pub(super) fn name_of(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let folder =
        || dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned());
    id_of(&dir).or_else(|| converted_from(&dir)).unwrap_or_else(folder)
}

/// The name of the local model that was converted to the folder `dir` in the cache.
fn converted_from(dir: &Path) -> Option<String> {
    dir.file_name()?.to_str()?.strip_prefix(LOCAL)?.strip_prefix("--")?;
    fs::read_to_string(dir.join(files::CONVERTED_FROM)).ok().filter(|name| !name.is_empty())
}

/// The id of the model whose folder in the cache is `dir`, or whose snapshot in the cache of `huggingface_hub` is there.
fn id_of(dir: &Path) -> Option<String> {
    let (parent, name) = (dir.parent()?.file_name()?, dir.file_name()?.to_str()?);
    if parent == "snapshots" {
        // models--ORG--NAME/snapshots/COMMIT; old models have no owner.
        let model = dir.parent()?.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
        return Some(model.replacen("--", "/", 1));
    }
    let (organization, rest) = name.split_once("--").filter(|(organization, _)| *organization != LOCAL)?;
    (parent == MODELS).then(|| format!("{organization}/{}", rest.replace("%2F", "/")))
}

/// The owners of well-known models on the hub, by the prefix of the models' names; used for suggestions.
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

/// Whether `revision` is a branch, tag, commit or `refs/pr/N`.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_name)
}

/// Whether `model` is `ORG/NAME` of letters, digits, `.`, `_` and `-`, which is what the hub allows. Such an id cannot name a path
/// outside the cache.
fn is_id(model: &str) -> bool {
    model.split_once('/').is_some_and(|(organization, name)| is_name(organization) && is_name(name))
}

/// Whether `part` is safe as one component of a path.
fn is_name(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_repository_of_a_model() {
        let found = |model| repository(model).map(|(id, revision)| format!("{id} {revision}"));
        assert_eq!(found("default").as_deref(), Some("sentence-transformers/all-MiniLM-L6-v2 main"));
        assert_eq!(found("org/name").as_deref(), Some("org/name main"));
        assert_eq!(found("org/name@v2").as_deref(), Some("org/name v2"));
        assert_eq!(found("../a/folder"), None);
        // The default base's digests hold for it under every name.
        let pins = |model: &str| recipe(model).map(|recipe| recipe.pins.len());
        let id = "sentence-transformers/all-MiniLM-L6-v2";
        assert_eq!([DEFAULT, id, &format!("{id}@main"), &format!("{id}@v2")].map(pins), [2, 2, 2, 0].map(Some));
        assert_eq!(found(&std::env::temp_dir().to_string_lossy()), None);
    }

    #[test]
    fn distinguishes_ids_from_paths() {
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
            ("hub/models--org--na-me/snapshots/1ab", Some("org/na-me")),
            ("hub/models--name/snapshots/1ab", Some("name")),
            ("hub/name/snapshots/1ab", None),
            ("models/name", None),
        ] {
            assert_eq!(id_of(Path::new(dir)).as_deref(), id, "{dir}");
        }
        for revision in ["", "/", "..", "../x", "x/../y", "/x", "x/", "x//y", "a b", "a%2Fb"] {
            assert!(recipe(&format!("a/b@{revision}")).is_none(), "{revision}");
        }
    }
}
