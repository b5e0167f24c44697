//! A base: where it comes from (a folder, the hub, a Python package), its configuration and its mapped weights. Datasets come from the
//! hub in the same way.

pub mod architecture;
mod bus_error;
mod cache;
mod config;
pub(crate) mod convert;
mod dataset;
mod digest;
mod error;
mod files;
mod hub;
mod legacy;
mod partial;
mod pickle;
mod prepack;
mod progress;
mod pull;
mod recipe;
mod source;
mod splits;
mod tokenizer_files;
mod weights;
mod wheel;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

pub use architecture::layout;
pub use bus_error::report_bus_errors;
pub use cache::Sources;
pub use config::BaseConfig;
pub(crate) use config::MOST_LAYERS;
pub use dataset::Dataset;
pub use error::ModelError;
pub use progress::{Bar, Progress};
pub use source::{dataset, ensure, pull, pull_adapter, repository};
pub use weights::Weights;

use crate::atomic_file;
use crate::params::{Layout, Precision};

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
    cache: Option<PathBuf>,
    /// A shared lock that keeps the folder in the cache, if it is the copy of a local model.
    _lock: Option<File>,
}

impl Base {
    /// Opens the base in the folder `dir`.
    ///
    /// # Errors
    /// If a file is missing or malformed, or the base is not supported.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        // Where the file system has no locks, such copies are never removed.
        let lock = File::open(dir.join(files::CONVERTED_FROM)).ok().filter(|file| file.try_lock_shared().is_ok());
        let config = BaseConfig::read(dir)?;
        let weights = Weights::open(&dir.join("model.safetensors"))?;
        Ok(Self { dir: dir.to_owned(), config, weights, fingerprint: OnceLock::new(), cache: None, _lock: lock })
    }

    /// The name that is shown to users and clients: the hub's id if the base is in the cache of this program or of `huggingface_hub`,
    /// else the last part of its folder's path. A converted base has the name of the folder that it was made from.
    #[must_use]
    pub fn name(&self) -> String {
        source::name_of(&self.dir)
    }

    /// `sha256:...` of the encoder's weights. It is equal for copies of one encoder, whatever prefix or head they have. The first
    /// call reads and hashes the weights.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| self.remembered().unwrap_or_else(|| self.weights.fingerprint()))
    }

    /// Stores fingerprints in the folder `cache`, so that a file is hashed again only after it has changed.
    #[must_use]
    pub fn cached(self, cache: Option<PathBuf>) -> Self {
        Self { cache, ..self }
    }

    /// Prepacks the linears at the sites of `layout`, using the cache if there is one.
    ///
    /// # Errors
    /// If weights are missing or have the wrong shape.
    pub(crate) fn prepack(&mut self, layout: &Layout, precision: Precision) -> Result<(), ModelError> {
        let prepack = prepack::prepack(self, layout, precision, self.cache.as_deref())?;
        self.weights.set_prepack(prepack);
        Ok(())
    }

    /// The fingerprint from the cache, where it is stored if it is missing; `None` if there is no cache, or the file's state is
    /// unknown.
    fn remembered(&self) -> Option<String> {
        let folder = self.cache.as_ref()?.join("fingerprints");
        let path = folder.join(digest::hex(&Sha256::digest(self.weights.identity()?)));
        // Ignores a file that is not a fingerprint, such as one that a crash or another program left.
        if let Some(known) = fs::read_to_string(&path).ok().filter(|known| weights::is_fingerprint(known)) {
            return Some(known);
        }
        let fingerprint = self.weights.fingerprint();
        let store = || -> std::io::Result<()> {
            fs::create_dir_all(&folder)?;
            atomic_file::write(&path, fingerprint.as_bytes())
        };
        if let Err(error) = store() {
            tracing::debug!("{}: {error}", path.display());
        }
        Some(fingerprint)
    }
}
