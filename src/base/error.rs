//! What can be wrong with a base.

use std::path::{Path, PathBuf};

use crate::text::TokenizeError;

/// A base that cannot be found, fetched or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration is not JSON, or lacks a key, or holds a value of another type.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A configuration holds a value that no encoder has.
    #[error("{path}: {key}: expected {expected}, found {found}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key in it.
        key: &'static str,
        /// What would do.
        expected: String,
        /// What it says.
        found: String,
    },
    /// A configuration asks for what is not served.
    #[error("{path}: {key} {found} is not supported, only {expected}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key in it.
        key: &'static str,
        /// What would be served.
        expected: String,
        /// What it says.
        found: String,
    },
    /// A weights file is no safetensors file, or is cut short.
    #[error("{path}: not a safetensors file: {source}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the architecture needs is not there.
    #[error("{path}: tensor {tensor} is missing")]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name in a classifier's checkpoint.
        tensor: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor is of a type that no parameter has.
    #[error("{path}: tensor {tensor}: expected f64, f32, f16 or bf16, found {found}")]
    Dtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// In the file.
        found: String,
    },
    /// A file in an older form could not be converted.
    #[error("{path}: {reason}")]
    Convert {
        /// The file, or the folder that lacks it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Offline mode, and the model is not in the cache.
    #[error("{model} is not in the cache, and offline mode is on (HF_HUB_OFFLINE)")]
    Offline {
        /// What was asked for.
        model: String,
    },
    /// A file that was fetched is not the one that was asked for.
    #[error("{path}: expected SHA-256 {expected}, found {found}")]
    Checksum {
        /// Where it came from.
        path: String,
        /// The digest it should have.
        expected: String,
        /// The digest it has.
        found: String,
    },
    /// A file could not be fetched.
    #[error("{from}: {reason}")]
    Fetch {
        /// An address, or a command.
        from: String,
        /// What went wrong.
        reason: String,
    },
    /// A model that is neither a folder, nor in the cache.
    #[error(
        "no model {model:?}: no such folder, and no model of that name in {cache}; `polyrank pull` fetches the default one, \
         `polyrank pull ORG/NAME` one of the hub{}",
        suggested(suggestion)
    )]
    NotFound {
        /// What was asked for.
        model: String,
        /// The id of a hub's model that may be meant.
        suggestion: Option<String>,
        /// The cache.
        cache: PathBuf,
    },
    /// No source of a model answered.
    #[error(
        "could not fetch {model}{tried}\nBring a folder with config.json, tokenizer.json and model.safetensors by hand, and name \
         it with --model-id FOLDER"
    )]
    Unreachable {
        /// What was asked for.
        model: String,
        /// A line for each source, with why it failed.
        tried: String,
    },
    /// The system tells no folder for caches.
    #[error("no cache folder is known: set POLYRANK_HOME")]
    NoCache,
    /// A file of the tokenizer is malformed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn suggested(id: &Option<String>) -> String {
    id.as_ref()
        .map_or_else(String::new, |id| format!(". A model of the hub is named with its owner: did you mean {id}?"))
}

impl ModelError {
    /// For `map_err` on what reads or writes `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
