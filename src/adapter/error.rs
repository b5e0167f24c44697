//! What can be wrong with an adapter's files.

use std::path::{Path, PathBuf};

/// An adapter that is refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file could not be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration asks for what is not served.
    #[error("{}: {key} = {found} is not supported", file.display())]
    Unsupported {
        /// The configuration.
        file: PathBuf,
        /// The key.
        key: String,
        /// Its value, or the module it means.
        found: String,
    },
    /// A tensor that the configuration or the base implies is not there.
    #[error("{}: tensor {tensor} is missing", file.display())]
    MissingTensor {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor that nothing in the configuration asks for.
    #[error("{}: tensor {tensor} belongs to no target of the configuration and to no head of the base", file.display())]
    UnexpectedTensor {
        /// The weights file.
        file: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor has another shape than the base and the configuration say.
    #[error("{}: tensor {tensor}: expected shape {expected}, found {found:?}", file.display())]
    Shape {
        /// The weights file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it should be, `[8, 384]` or `[labels, 384]`.
        expected: String,
        /// What it is.
        found: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("{}: tensor {tensor}: element {index} is {found}", file.display())]
    NotFinite {
        /// The weights file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which element, row by row.
        index: usize,
        /// NaN or an infinity.
        found: f32,
    },
    /// An adapter in memory has a place for more or fewer sites than the base.
    #[error("an adapter for {found} sites, asked to be written for a base of {expected}")]
    Sites {
        /// Sites of the base.
        expected: usize,
        /// Places in the adapter.
        found: usize,
    },
    /// The adapter was trained on another base.
    #[error("{}: trained on the base {}, asked to run on {}", file.display(), base(names.as_ref().and_then(|names| names.trained_on.as_deref()), expected), base(names.as_ref().map(|names| &*names.loaded), found))]
    WrongBase {
        /// The file that holds the fingerprint.
        file: PathBuf,
        /// The fingerprint of the adapter's base.
        expected: String,
        /// The fingerprint of the base that serves.
        found: String,
        /// What the two are called, where that is known.
        names: Option<Box<BaseNames>>,
    },
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// What the two bases of [`AdapterError::WrongBase`] are called.
#[derive(Debug)]
pub struct BaseNames {
    /// The adapter's, where its configuration names one.
    pub trained_on: Option<String>,
    /// The one that serves.
    pub loaded: String,
}

/// A base by its name, where it has one, and its fingerprint.
fn base(name: Option<&str>, fingerprint: &str) -> String {
    match name {
        Some(name) => format!("{name} ({fingerprint})"),
        None => fingerprint.to_owned(),
    }
}

impl AdapterError {
    pub(crate) fn io(file: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { file: file.to_owned(), source }
    }

    /// Whether a file is not there at all.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    pub(super) fn malformed(file: &Path, reason: impl ToString) -> Self {
        Self::Malformed { file: file.to_owned(), reason: reason.to_string() }
    }

    pub(super) fn unsupported(file: &Path, key: &str, found: impl ToString) -> Self {
        Self::Unsupported { file: file.to_owned(), key: key.to_owned(), found: found.to_string() }
    }
}
