//! Errors in an adapter's files.

use std::path::{Path, PathBuf};

use crate::base::ModelError;
use crate::cuda::UploadError;

/// The reason why an adapter is refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file could not be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is malformed.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration uses a feature that is not supported.
    #[error("{}: {key} = {found} is not supported", file.display())]
    Unsupported {
        /// The configuration.
        file: PathBuf,
        /// The key.
        key: String,
        /// The key's value, or the module that the value selects.
        found: String,
    },
    /// A tensor that the configuration or the base requires is missing.
    #[error("{}: tensor {tensor} is missing", file.display())]
    MissingTensor {
        /// The weights file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// The file has a tensor that the configuration does not mention.
    #[error("{}: tensor {tensor} belongs to no target of the configuration and to no head of the base", file.display())]
    UnexpectedTensor {
        /// The weights file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor of LoRA has another name than in the files that PEFT's `save_pretrained` writes, such as in a model's `state_dict()`.
    #[error(
        "{}: tensor {tensor}: expected a name such as base_model.model.MODULE.lora_A.weight, as PEFT's save_pretrained writes it; the \
         file seems to hold a state_dict() of the model: save the adapter with save_pretrained",
        file.display()
    )]
    StateDict {
        /// The weights file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor's shape does not fit the base and the configuration.
    #[error("{}: tensor {tensor}: expected shape {expected}, found {found:?}", file.display())]
    Shape {
        /// The weights file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that it should have, such as `[8, 384]` or `[labels, 384]`.
        expected: String,
        /// The shape that it has.
        found: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("{}: tensor {tensor}: element {index} is {found}", file.display())]
    NotFinite {
        /// The weights file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The index of the element, counted row by row.
        index: usize,
        /// The element: NaN or an infinity.
        found: f32,
    },
    /// An element of a delta is too large for the type in which a GPU stores deltas.
    #[error("{}: tensor {tensor}: element {index} is {found}, beyond the range of {dtype}", file.display())]
    OutOfRange {
        /// The weights file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The index of the element, counted row by row.
        index: usize,
        /// The element.
        found: f32,
        /// The type of the activations.
        dtype: &'static str,
    },
    /// The device has too little free memory for the adapter.
    #[error("{needed} bytes do not fit into the device's memory, of which {free} bytes are free")]
    DeviceMemory {
        /// The bytes that could not be allocated.
        needed: usize,
        /// The bytes that were free.
        free: usize,
    },
    /// The adapter to write has more or fewer sites than the base.
    #[error("the adapter has {found} sites, but the base has {expected}")]
    Sites {
        /// Sites of the base.
        expected: usize,
        /// Sites of the adapter.
        found: usize,
    },
    /// The adapter was trained on another base.
    #[error(
        "{}: trained on the base {}, asked to run on {}",
        file.display(),
        base(names.as_ref().and_then(|names| names.trained_on.as_deref()), expected),
        base(names.as_ref().map(|names| &*names.loaded), found)
    )]
    WrongBase {
        /// The file that holds the fingerprint.
        file: PathBuf,
        /// The fingerprint of the base that the adapter was trained on.
        expected: String,
        /// The fingerprint of the loaded base.
        found: String,
        /// The names of the two bases, if they are known.
        names: Option<Box<BaseNames>>,
    },
    /// The base's own head, which the adapter changes, cannot be read.
    #[error("the base's head: {0}")]
    Base(#[source] Box<ModelError>),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl From<UploadError> for AdapterError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::OutOfMemory { needed, free } => Self::DeviceMemory { needed, free },
            UploadError::Device(error) => Self::Tensor(error),
        }
    }
}

/// The names of the two bases of [`AdapterError::WrongBase`].
#[derive(Debug)]
pub struct BaseNames {
    /// The base that the adapter was trained on, if its configuration names one.
    pub trained_on: Option<String>,
    /// The loaded base.
    pub loaded: String,
}

/// A base's name, if it is known, and its fingerprint.
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

    /// Whether the cause is that a file does not exist.
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
