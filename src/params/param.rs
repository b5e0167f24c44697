//! A parameter as an operation reads it.

use candle_core::{Result, Tensor};

use super::Frozen;

/// A parameter: the base's own, or a tensor that replaces it.
#[derive(Debug, Clone)]
pub enum Param {
    /// The base's parameter, mapped or on a device.
    Frozen(Frozen),
    /// A trained tensor, or one that an adapter carries.
    Tensor(Tensor),
}

impl Param {
    /// The parameter as a tensor. A mapped parameter is copied.
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
