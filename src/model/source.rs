//! What the name of a model means, and where bases are kept and fetched from.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use super::progress::{Bar, Progress};
use super::pull::{self, Recipe};
use super::{ModelError, hub};

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
            .map(|recipe| self.folder(recipe.id))
            .filter(|dir| pull::is_base(dir))
            .ok_or_else(|| ModelError::NotFound { model: model.to_owned(), cache: self.models() })
    }

    /// [`locate`](Self::locate), and where `model` is not in the cache yet, fetches it.
    ///
    /// # Errors
    /// What is neither a folder nor an id, a model that no source gives, and one that is not served.
    pub fn ensure(&self, model: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        match (self.locate(model), recipe(model)) {
            (Err(ModelError::NotFound { .. }), Some(recipe)) => pull::pull(self, &recipe, progress),
            (located, _) => located,
        }
    }

    pub(super) fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    /// Where a hub's model lies in the cache.
    pub(super) fn folder(&self, id: &str) -> PathBuf {
        self.models().join(id.replace('/', "--"))
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
    folder(model).map_or_else(|| Sources::from_env()?.ensure(model, &Bar::default()), Ok)
}

/// Brings `model`, or without one the default base, into the cache: its folder. What is there already is not fetched again.
///
/// # Errors
/// As [`Sources::ensure`].
pub fn pull(model: Option<&str>) -> Result<PathBuf, ModelError> {
    ensure(model.unwrap_or(DEFAULT))
}

/// The folder that `model` is the path of; `default` is never one.
fn folder(model: &str) -> Option<PathBuf> {
    Some(Path::new(model)).filter(|path| model != DEFAULT && path.is_dir()).map(Path::to_owned)
}

/// How to fetch `model`, if it is `default` or an id of the hub.
fn recipe(model: &str) -> Option<Recipe<'_>> {
    match model {
        DEFAULT => Some(pull::DEFAULT),
        id if id == pull::DEFAULT.id => Some(pull::DEFAULT),
        id => is_id(id).then_some(Recipe { id, pins: &[], wheel: None }),
    }
}

/// `ORG/NAME` of letters, digits, `.`, `_` and `-`: what the hub allows. So an id can name no path outside the cache.
fn is_id(model: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    model.split_once('/').is_some_and(|(organisation, name)| part(organisation) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["sentence-transformers/all-MiniLM-L6-v2", "a/b", "o_1/n.2-x"] {
            assert!(is_id(id), "{id}");
        }
        for path in ["", "a", "/a", "a/", "./a", "../a", "a/..", "a/../b", "a/b/c", "~/a", "a/b c", "a\\b", "a/é"] {
            assert!(!is_id(path), "{path}");
        }
    }
}
