//! The cache of bases and the sources to fetch them from, as the environment says.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use etcetera::BaseStrategy;

use super::ModelError;
use super::recipe::Recipe;

/// The hub's address, unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";
/// The folder in the cache that holds models.
pub(super) const MODELS: &str = "models";

/// The cache of bases and the sources to fetch them from.
#[derive(Clone)]
pub struct Sources {
    /// The cache. Models are in `models/ORG--NAME/` inside it.
    pub home: PathBuf,
    /// The hub's address, without a trailing slash.
    pub endpoint: String,
    /// The token to send to the hub, if there is one.
    pub token: Option<String>,
    /// Never contact the hub. A model that is not in the cache is then an error.
    pub offline: bool,
    /// The command that runs pip, which is tried for the default base if the hub fails; `None` to never try it.
    pub pip: Option<Vec<OsString>>,
}

impl Sources {
    /// Reads the environment: `POLYRANK_HOME`, or else the platform's cache folder; `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// If the environment names no cache folder.
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
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Self {
            home,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            // A token that is mounted as a secret often ends in a line break.
            token: text("HF_TOKEN").map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")),
            pip: Some(["python3", "-m", "pip"].map(OsString::from).to_vec()),
        })
    }

    pub(super) fn models(&self) -> PathBuf {
        self.home.join(MODELS)
    }

    /// The folder of a hub's model in the cache.
    pub(super) fn folder(&self, recipe: &Recipe) -> PathBuf {
        self.models().join(recipe.folder_name())
    }
}
