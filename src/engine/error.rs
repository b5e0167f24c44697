//! Every error between a file and an answer, with its operands.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::adapter::AdapterError;
use crate::base::ModelError;
use crate::params::{DeviceError, Form, Precision};
use crate::text::TokenizeError;

/// What may go wrong between a file and an answer.
#[derive(Debug, Error)]
pub enum Error {
    /// A base that cannot be found or read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An adapter that is malformed or made for another base.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A tokenizer that cannot be read, or a text that it refuses.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// A tensor operation.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A device that cannot be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The system refuses a thread.
    #[error("starting a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// A precision that the backend does not compute in.
    #[error("{precision} is for the backend cpu; {} computes in f32", backend.name())]
    Precision {
        /// What was asked for.
        precision: Precision,
        /// What was opened.
        backend: Form,
    },
    /// A backend that the device does not have.
    #[error("the backend {} does not run on {device:?}", backend.name())]
    Backend {
        /// What was asked for.
        backend: Form,
        /// The device.
        device: candle_core::DeviceLocation,
    },
    /// A file or folder that cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Error {
    /// Turns what the system says of `path` into an error that names it.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
