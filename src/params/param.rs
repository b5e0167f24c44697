//! A parameter as an operation uses it.

use candle_core::{Result, Tensor};

use super::Frozen;

/// A parameter: the base's own, or a tensor that replaces it.
#[derive(Debug, Clone)]
pub enum Param {
    /// The base's, in the mapping or on the device.
    Frozen(Frozen),
    /// Trained, or given by an adapter.
    Tensor(Tensor),
}

impl Param {
    /// The parameter as a tensor; a mapped parameter is copied.
    ///
    /// # Errors
    /// Candle's own.
    pub fn tensor(&self) -> Result<Tensor> {
        match self {
            Self::Frozen(frozen) => frozen.tensor(),
            Self::Tensor(tensor) => Ok(tensor.clone()),
        }
    }
}
