//! The errors of opening a base, reading an adapter and scoring texts.

use std::path::{Path, PathBuf};

use candle_core::Device;
use thiserror::Error;

use crate::adapter::AdapterError;
use crate::base::ModelError;
use crate::cuda;
use crate::params::{DeviceError, Form, Precision};
use crate::text::TokenizeError;

/// An error while a base is opened, an adapter is read or texts are scored.
#[derive(Debug, Error)]
pub enum Error {
    /// The base cannot be found or read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter is malformed or was made for another base.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The tokenizer cannot be read, or it rejects a text.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The device fails every call since an operation on it failed.
    #[error("the device is lost: {source} (after: {first})")]
    DeviceLost {
        /// What the device answers to every call.
        source: candle_core::Error,
        /// The error of the operation that failed.
        first: Box<Error>,
    },
    /// The device cannot be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The system does not start a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The backend does not compute in this precision.
    #[error("the backend {} does not compute in {precision}: bf16 needs cpu or cuda, int8 needs cpu", backend.name())]
    Precision {
        /// The requested precision.
        precision: Precision,
        /// The backend that was opened.
        backend: Form,
    },
    /// The device does not have this backend.
    #[error("the backend {} does not run on {device:?}", backend.name())]
    Backend {
        /// The requested backend.
        backend: Form,
        /// The device.
        device: candle_core::DeviceLocation,
    },
    /// A file or folder cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// This error of an operation on `device`, or that the device is lost.
    pub(super) fn on(self, device: &Device) -> Self {
        match cuda::check(device) {
            Ok(()) => self,
            Err(source) => Self::DeviceLost { source, first: Box::new(self) },
        }
    }

    /// Converts the system's error for `path` into an error that names the path.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
