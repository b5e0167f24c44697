//! Devices, as they are written on a command line.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use candle_core::Device;
use thiserror::Error;

/// The error for a CUDA device in a build without CUDA.
const NO_CUDA: &str = "this build has no CUDA; build with the feature `cuda`: cargo build --release --features cuda \
     (needs CUDA 13.0's nvcc)";

/// A device that cannot be opened.
#[derive(Debug, Error)]
#[error("device {device}: {source}")]
pub struct DeviceError {
    /// The device.
    pub device: DeviceName,
    /// Candle's error.
    pub source: candle_core::Error,
}

/// The name of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// `cpu`.
    Cpu,
    /// `cuda`, or `cuda:N` for the N-th from 0.
    Cuda(usize),
}

impl DeviceName {
    /// Opens the device. A CUDA device gets a stream of its own, and the work of every thread runs on it in order. What only copies
    /// adapters to it uses another stream, with explicit events.
    ///
    /// # Errors
    /// If there is no such device, or the build has no CUDA.
    pub fn open(self) -> Result<Device, DeviceError> {
        let device = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(candle_core::Error::Msg(NO_CUDA.into())),
            Self::Cuda(index) => Device::new_cuda_with_stream(index),
        };
        device.map_err(|source| DeviceError { device: self, source })
    }
}

impl Display for DeviceName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
        };
        index.map(Self::Cuda).ok_or_else(|| "expected cpu, cuda or cuda:N".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_device_names() {
        for (text, expected) in
            [("cpu", DeviceName::Cpu), ("cuda", DeviceName::Cuda(0)), ("cuda:3", DeviceName::Cuda(3))]
        {
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in ["", "CPU", "gpu", "cuda:", "cuda:x", "cuda3"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn opening_cuda_without_the_feature_says_how_to_build_it() {
        let error = DeviceName::Cuda(1).open().map(drop).map_err(|error| error.to_string());
        assert_eq!(error, Err(format!("device cuda:1: {NO_CUDA}")));
    }
}
