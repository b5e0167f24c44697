//! Where a base comes from: a folder, the hub, a Python package; what it says of itself; its weights in place.

mod config;
#[cfg(not(fuzzing))]
mod convert;
#[cfg(fuzzing)]
pub(crate) mod convert;
mod error;
mod frozen;
mod hub;
mod partial;
mod pickle;
mod progress;
mod pull;
mod source;
mod tokenizer_files;
mod weights;
mod wheel;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::Device;

pub use config::BaseConfig;
pub use error::ModelError;
pub use frozen::Frozen;
pub use progress::{Bar, Progress};
pub use source::{Sources, ensure, locate, pull, pull_adapter};
pub use weights::Weights;

/// A base in a folder.
#[derive(Debug)]
pub struct Base {
    /// The folder.
    pub dir: PathBuf,
    /// Its `config.json`.
    pub config: BaseConfig,
    /// Its `model.safetensors`, mapped.
    pub weights: Weights,
    fingerprint: OnceLock<String>,
}

impl Base {
    /// Opens the base in the folder `dir`.
    ///
    /// # Errors
    /// A file that is missing or malformed, or a base that is not served.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = BaseConfig::read(dir)?;
        let weights = Weights::open(&dir.join("model.safetensors"), device)?;
        Ok(Self { dir: dir.to_owned(), config, weights, fingerprint: OnceLock::new() })
    }

    /// `sha256:...` over the encoder's weights: equal for copies of one encoder, whatever prefix or head they carry. Read and
    /// hashed when first asked for.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| self.weights.fingerprint())
    }
}
