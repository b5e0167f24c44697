//! Uploads what is not part of a batch, such as an adapter, while batches run.

use candle_core::{DType, Device, Tensor};

use super::Place;

/// An upload that failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The device has too little free memory.
    #[error("{needed} bytes do not fit into the device's memory, of which {free} bytes are free")]
    OutOfMemory {
        /// The bytes of the upload.
        needed: usize,
        /// The bytes of the device's memory that were free.
        free: usize,
    },
    /// Another failure of the device.
    #[error(transparent)]
    Device(#[from] candle_core::Error),
}

/// A flat tensor of `dtype` (f32, bf16 or f16) in the device's memory, in one block. `bytes` are its elements in the machine's byte
/// order, at least one.
///
/// On a GPU, the bytes go through pinned memory and a stream of their own. The function returns when they are in the device's memory,
/// so that batches that are queued afterwards may use the tensor and never wait for the copy.
///
/// # Errors
/// If the device has too little memory, or fails.
pub(crate) fn upload(bytes: &[u8], dtype: DType, device: &Device) -> Result<Tensor, UploadError> {
    match Place::of(device)? {
        Place::Host(_) => Ok(Tensor::from_raw_buffer(bytes, dtype, &[bytes.len() / dtype.size_in_bytes()], device)?),
        #[cfg(feature = "cuda")]
        Place::Gpu(device) => super::staging::upload(bytes, dtype, device),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use super::*;
    use crate::cuda::test_device;

    /// On the CPU, and on the device that the environment names. The uploads have several parts, the last of which is not full,
    /// and memory of dropped tensors is used again.
    #[test]
    fn uploads_of_several_threads_arrive_whole() {
        for device in [Some(Device::Cpu), test_device()].into_iter().flatten() {
            thread::scope(|scope| {
                for thread in 0..3_u32 {
                    let device = &device;
                    scope.spawn(move || {
                        for round in 0..4 {
                            let words: Vec<u32> = (0..(9 << 18) + 3).map(|i| i * 8 + thread * 64 + round).collect();
                            let floats: Vec<f32> = words.iter().map(|&word| word as f32).collect();
                            let tensor = upload(bytemuck::cast_slice(&floats), DType::F32, device).unwrap();
                            assert_eq!(tensor.dims(), [floats.len()]);
                            assert!(tensor.to_vec1::<f32>().unwrap() == floats, "{device:?}");
                        }
                    });
                }
            });
            let tensor = upload(&[0x80, 0x3f, 0, 0xc0], DType::BF16, &device).unwrap();
            assert_eq!(tensor.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap(), [1.0, -2.0]);
        }
    }
}
