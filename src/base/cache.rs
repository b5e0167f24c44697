//! Where bases are kept, and from where they are fetched: what the environment says.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use etcetera::BaseStrategy;

use super::ModelError;
use super::recipe::Recipe;

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// The folder of the cache that holds models.
pub(super) const MODELS: &str = "models";

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
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Self {
            home,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: text("HF_TOKEN"),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|value| !matches!(value.to_lowercase().as_str(), "0" | "false" | "no" | "off")),
            pip: Some(["python3", "-m", "pip"].map(OsString::from).to_vec()),
        })
    }

    pub(super) fn models(&self) -> PathBuf {
        self.home.join(MODELS)
    }

    /// Where a hub's model lies in the cache.
    pub(super) fn folder(&self, recipe: &Recipe) -> PathBuf {
        self.models().join(recipe.folder_name())
    }
}
