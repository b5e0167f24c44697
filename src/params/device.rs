//! Devices, as they are written on a command line.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use candle_core::Device;
use thiserror::Error;

/// What to do about a build without CUDA.
const NO_CUDA: &str = "this build has no CUDA; build with the feature `cuda`: cargo build --release --features cuda (needs CUDA 13.0's nvcc)";

/// A device that cannot be opened.
#[derive(Debug, Error)]
#[error("device {device}: {source}")]
pub struct DeviceError {
    /// The device.
    pub device: DeviceName,
    /// What candle says.
    pub source: candle_core::Error,
}

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// `cpu`.
    Cpu,
    /// `cuda`, or `cuda:N` for the N-th from 0.
    Cuda(usize),
}

impl DeviceName {
    /// The device itself. The CUDA one has a stream of its own, on which every thread's work is in order.
    ///
    /// # Errors
    /// There is no such device, or the build has no CUDA.
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
    fn devices_have_names() {
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
    fn a_build_without_cuda_says_how_to_build_with_it() {
        let error = DeviceName::Cuda(1).open().map(drop).map_err(|error| error.to_string());
        assert_eq!(error, Err(format!("device cuda:1: {NO_CUDA}")));
    }
}
