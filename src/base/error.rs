//! The errors of finding, fetching and reading a base.
//!
//! Each error of the file system names its file here, so `fs-err` would name the file twice.

use std::path::{Path, PathBuf};

use crate::text::TokenizeError;

/// An error while a base is found, fetched or read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A configuration is not JSON, or lacks a key, or holds a value of another type.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The JSON error, with its position.
        source: serde_json::Error,
    },
    /// A configuration has a value that no encoder can have.
    #[error("{path}: {key}: expected {expected}, found {found}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key in the file.
        key: &'static str,
        /// The values that are possible.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A configuration has a value that is not supported.
    #[error("{path}: {key} {found} is not supported, only {expected}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key in the file.
        key: &'static str,
        /// The supported values.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A weights file is not a safetensors file, or is truncated.
    #[error("{path}: not a safetensors file: {source}")]
    Header {
        /// The file.
        path: PathBuf,
        /// The error in its header.
        source: safetensors::SafeTensorError,
    },
    /// The weights do not fit in a device's memory.
    #[error("{path}: the weights take {needed} bytes in {dtype} on the device, which has {free} of {total} bytes free")]
    DeviceMemory {
        /// The weights file.
        path: PathBuf,
        /// The bytes of the weights in that type.
        needed: usize,
        /// The type of the weights on the device.
        dtype: &'static str,
        /// The free bytes of the device.
        free: usize,
        /// All bytes of the device.
        total: usize,
    },
    /// The weights file lacks a tensor that the architecture needs.
    #[error("{path}: tensor {tensor} is missing")]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name in a classifier's checkpoint.
        tensor: String,
    },
    /// The weights file has a tensor under two names.
    #[error("{path}: tensor {tensor} is there twice, with and without a classifier's prefix, or under its old name")]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The tensor's name in a bare encoder.
        tensor: String,
    },
    /// A tensor's shape is not the one that the configuration says.
    #[error("{path}: tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape by the configuration.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's type is not one that a parameter can have.
    #[error("{path}: tensor {tensor}: expected f64, f32, f16 or bf16, found {found}")]
    Dtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A file in an older format could not be converted.
    #[error("{path}: {reason}")]
    Convert {
        /// The file, or the folder without such a file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Offline mode is on, and the model or dataset is not in the cache.
    #[error("{model} is not in the cache, and offline mode is on (HF_HUB_OFFLINE)")]
    Offline {
        /// The requested model or dataset.
        model: String,
    },
    /// A fetched file does not have the expected digest.
    #[error("{path}: expected SHA-256 {expected}, found {found}")]
    Checksum {
        /// The file's source.
        path: String,
        /// The expected digest.
        expected: String,
        /// The digest of the fetched file.
        found: String,
    },
    /// A file could not be fetched.
    #[error("{from}: {reason}")]
    Fetch {
        /// An address, or a command.
        from: String,
        /// The reason.
        reason: String,
    },
    /// The model is neither a folder nor in the cache.
    #[error(
        "no model {model:?}: there is no such folder, and no such model in the cache {cache}; `polyrank pull` fetches the default \
         model, `polyrank pull ORG/NAME` a model from the hub{}",
        suggested(suggestion)
    )]
    NotFound {
        /// The requested model.
        model: String,
        /// The id of a model on the hub that the user may have meant.
        suggestion: Option<String>,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub could not provide the adapter.
    #[error("could not fetch the adapter {adapter}: {source}\nAn adapter's folder can be used as it is, without pull")]
    AdapterUnreachable {
        /// The requested adapter.
        adapter: String,
        /// Why it could not be fetched.
        source: Box<ModelError>,
    },
    /// The adapter is not in the cache, and its name is no id on the hub.
    #[error("no adapter {adapter} in the cache {cache}; an adapter on the hub is ORG/NAME", cache = cache.display())]
    NoAdapter {
        /// The requested adapter.
        adapter: String,
        /// The cache.
        cache: PathBuf,
    },
    /// No source could provide the model.
    #[error(
        "could not fetch {model}{}\nTo use a local copy, pass a folder with config.json, tokenizer.json and \
         model.safetensors: --model-id FOLDER",
        lines(failures)
    )]
    Unreachable {
        /// The requested model.
        model: String,
        /// Why each source failed, in the order in which they were tried.
        failures: Vec<ModelError>,
    },
    /// A dataset of the hub cannot be used.
    #[error("dataset {id}: {reason}")]
    Dataset {
        /// The requested dataset.
        id: String,
        /// The reason.
        reason: String,
    },
    /// The cache folder is unknown.
    #[error("the cache folder is unknown: set POLYRANK_HOME")]
    NoCache,
    /// A file of the tokenizer is malformed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn suggested(id: &Option<String>) -> String {
    id.as_ref().map_or_else(String::new, |id| format!(". Names on the hub include the owner: did you mean {id}?"))
}

/// A line for each error.
fn lines(errors: &[ModelError]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

impl ModelError {
    /// This error with the folder `from` at the beginning of its path replaced by `to`.
    pub(super) fn with_folder(mut self, from: &Path, to: &Path) -> Self {
        if let Self::Io { path, .. }
        | Self::Config { path, .. }
        | Self::Value { path, .. }
        | Self::Unsupported { path, .. }
        | Self::Header { path, .. }
        | Self::MissingTensor { path, .. }
        | Self::Duplicate { path, .. }
        | Self::Shape { path, .. }
        | Self::Dtype { path, .. }
        | Self::Convert { path, .. }
        | Self::Tokenizer(TokenizeError::File { path, .. } | TokenizeError::Unsupported { path, .. }) = &mut self
            && let Ok(file) = path.strip_prefix(from)
        {
            *path = to.join(file);
        }
        self
    }

    /// Makes an error for `map_err` from an error of reading or writing `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
