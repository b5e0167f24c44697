//! What the name of a model means, and where bases are kept and fetched from.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use sha2::{Digest, Sha256};

use super::progress::{Bar, Progress};
use super::pull::{self, Recipe};
use super::weights::{self, hex};
use super::{ModelError, convert, hub};

/// The name of the default base.
const DEFAULT: &str = "default";

/// Where bases are kept and fetched from.
#[derive(Clone)]
pub struct Sources {
    /// The cache; models lie in `models/ORG--NAME/` in it.
    pub home: PathBuf,
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Sent to the hub, where there is one.
    pub token: Option<String>,
    /// Never ask the hub: what is not in the cache is not there.
    pub offline: bool,
    /// The command that is pip, asked for the default base where the hub fails; `None`: never asked.
    pub pip: Option<Vec<OsString>>,
}

impl Sources {
    /// As the environment says: `POLYRANK_HOME`, or else the platform's folder for caches; `HF_ENDPOINT`, `HF_TOKEN`.
    ///
    /// # Errors
    /// An environment that tells no folder for caches.
    pub fn from_env() -> Result<Self, ModelError> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        let home = match variable("POLYRANK_HOME") {
            Some(home) => home.into(),
            None => etcetera::base_strategy::choose_native_strategy()
                .map_err(|_| ModelError::NoCache)?
                .cache_dir()
                .join("polyrank"),
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| hub::ENDPOINT.to_owned());
        Ok(Self {
            home,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: text("HF_TOKEN"),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|value| !matches!(value.to_lowercase().as_str(), "0" | "false" | "no" | "off")),
            pip: Some(["python3", "-m", "pip"].map(OsString::from).to_vec()),
        })
    }

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
            .filter(|dir| pull::is_base(dir))
            .ok_or_else(|| ModelError::NotFound { model: model.to_owned(), cache: self.models() })
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
            (Err(ModelError::NotFound { .. }), Some(recipe)) => pull::pull(self, &recipe, progress),
            (located, _) => located,
        }
    }

    /// A folder whose files are in older forms is converted once, into the cache; its own files stay as they are.
    fn served(&self, dir: PathBuf) -> Result<PathBuf, ModelError> {
        if pull::is_base(&dir) {
            return Ok(dir);
        }
        if !convert::is_convertible(&dir) {
            let missing = [pull::CONFIG].into_iter().chain(pull::REQUIRED).find(|name| !dir.join(name).is_file());
            return Err(ModelError::io(&dir.join(missing.unwrap_or_default()))(std::io::ErrorKind::NotFound.into()));
        }
        let target = self.models().join(format!("local--{}", state_of(&dir)?));
        if !pull::is_base(&target) {
            tracing::info!(from = %dir.display(), to = %target.display(), "converting");
            pull::convert_local(self, &dir, &target)?;
        }
        Ok(target)
    }

    /// Brings the adapter `id` of the hub into the cache: its folder. What is there already is not fetched again.
    ///
    /// # Errors
    /// What is no id, and an adapter that the hub does not give.
    pub fn adapter(&self, id: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        let not_found = || ModelError::NotFound { model: id.to_owned(), cache: self.home.join("adapters") };
        let recipe = recipe(id).filter(|recipe| recipe.wheel.is_none()).ok_or_else(not_found)?;
        let target = self.home.join("adapters").join(recipe.folder_name());
        if pull::is_adapter(&target) {
            return Ok(target);
        }
        if self.offline {
            return Err(ModelError::Offline { model: id.to_owned() });
        }
        pull::pull_adapter(self, &recipe, &target, progress)?;
        Ok(target)
    }

    pub(super) fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    /// Where a hub's model lies in the cache.
    pub(super) fn folder(&self, recipe: &Recipe) -> PathBuf {
        self.models().join(recipe.folder_name())
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
    match folder(model).filter(|dir| pull::is_base(dir) || !convert::is_convertible(dir)) {
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
        DEFAULT => Some(pull::DEFAULT),
        id if id == pull::DEFAULT.id => Some(pull::DEFAULT),
        _ => (is_id(id) && is_revision(revision)).then_some(Recipe { id, revision, pins: &[], wheel: None }),
    }
}

impl Recipe<'_> {
    /// `ORG--NAME`, and behind it a revision that is not the main one.
    fn folder_name(&self) -> String {
        let revision = if self.revision == "main" { String::new() } else { format!("@{}", self.escaped_revision()) };
        format!("{}{revision}", self.id.replace('/', "--"))
    }

    /// The revision as one part of a path or an address, which no other revision is written as: `refs%2Fpr%2F1`.
    pub(super) fn escaped_revision(&self) -> String {
        self.revision.replace('/', "%2F")
    }
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
        for revision in ["", "/", "..", "../x", "x/../y", "/x", "x/", "x//y", "a b", "a%2Fb"] {
            assert!(recipe(&format!("a/b@{revision}")).is_none(), "{revision}");
        }
    }
}
