//! Devices, as they are written on a command line.

use std::str::FromStr;

use candle_core::Device;

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
    pub fn open(self) -> candle_core::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => Device::new_cuda_with_stream(index),
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
}
