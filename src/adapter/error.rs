//! What can be wrong with an adapter's files.

use std::path::{Path, PathBuf};

/// An adapter that is refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration asks for what is not served.
    #[error("{path}: {key} = {found} is not supported")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key, or the module.
        key: String,
        /// What it says.
        found: String,
    },
    /// A tensor that the configuration implies is not there.
    #[error("{path}: tensor {tensor} is missing")]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor that nothing in the configuration asks for.
    #[error("{path}: tensor {tensor} belongs to no target of the configuration")]
    UnexpectedTensor {
        /// The weights file.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor has another shape than the base and the configuration say.
    #[error("{path}: tensor {tensor}: expected shape {expected}, found {found:?}")]
    Shape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it should be, `[8, 384]` or `[labels, 384]`.
        expected: String,
        /// What it is.
        found: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("{path}: tensor {tensor}: element {index} is {found}")]
    NotFinite {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which element, row by row.
        index: usize,
        /// NaN or an infinity.
        found: f32,
    },
    /// The adapter was trained on another base.
    #[error("{file}: trained on the base {expected}, asked to run on {found}")]
    WrongBase {
        /// The file that holds the fingerprint.
        file: PathBuf,
        /// The base of the adapter.
        expected: String,
        /// The base that serves.
        found: String,
    },
    /// A tensor operation failed.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

impl AdapterError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn malformed(path: &Path, reason: impl ToString) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(super) fn unsupported(path: &Path, key: &str, found: &dyn ToString) -> Self {
        Self::Unsupported { path: path.to_owned(), key: key.to_owned(), found: found.to_string() }
    }
}
