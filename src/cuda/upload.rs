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
        Place::Host => Ok(Tensor::from_raw_buffer(bytes, dtype, &[bytes.len() / dtype.size_in_bytes()], device)?),
        #[cfg(feature = "cuda")]
        Place::Gpu(device) => super::staging::upload(bytes, dtype, &device),
    }
}
