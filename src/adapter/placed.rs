//! Places an adapter's tensors where a backend reads them.
//!
//! In a GPU's memory, an adapter is one block for each type of its tensors: the deltas have the type of the activations, and the head
//! is f32. A block holds its tensors end to end, so that it takes the bytes of the true ranks, and is uploaded at once.

use candle_core::{DType, Device, Tensor, bail};
use half::{bf16, f16};

use super::{AdapterError, AdapterWeights, Change};
use crate::cuda::{self, UploadError};
use crate::params::{Backend, Delta, Form};

/// The alignment of each tensor in a block, in bytes: kernels read 16 bytes at a time.
const ALIGNMENT: usize = 16;

/// Moves the tensors, which are f32 on the CPU, to where the operations of `backend` read them.
///
/// # Errors
/// If the device has too little memory, or fails.
pub(super) fn place(weights: &mut AdapterWeights, backend: &Backend) -> Result<(), AdapterError> {
    let AdapterWeights { sites, head } = weights;
    let deltas = sites.iter_mut().flatten().map(|Change::LowRank(delta)| delta);
    let mut deltas: Vec<&mut Delta> = deltas.collect();
    match backend.form() {
        Form::Cpu => {}
        Form::Reference => {
            let matrices = deltas.into_iter().flat_map(|Delta { a, b, .. }| [a, b]);
            for tensor in matrices.chain(head.values_mut()) {
                *tensor = tensor.to_device(backend.device())?;
            }
        }
        Form::Cuda => {
            // A block stores `B` rank by rank: as the matrix `[rank, out]`.
            transpose(&mut deltas)?;
            let matrices = deltas.iter_mut().flat_map(|Delta { a, b, .. }| [a, b]);
            if backend.dtype() == DType::F32 {
                upload(matrices.chain(head.values_mut()).collect(), DType::F32, backend.device())?;
            } else {
                upload(matrices.collect(), backend.dtype(), backend.device())?;
                upload(head.values_mut().collect(), DType::F32, backend.device())?;
            }
            transpose(&mut deltas)?;
        }
    }
    Ok(())
}

/// Transposes every `B`, without moving its elements.
fn transpose(deltas: &mut [&mut Delta]) -> candle_core::Result<()> {
    for delta in deltas {
        delta.b = delta.b.t()?;
    }
    Ok(())
}

/// Uploads the tensors as one block of `dtype`, and replaces each by a view of the block.
fn upload(tensors: Vec<&mut Tensor>, dtype: DType, device: &Device) -> Result<(), UploadError> {
    let (mut bytes, mut starts) = (Vec::new(), Vec::new());
    for tensor in &tensors {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        starts.push(bytes.len() / dtype.size_in_bytes());
        append(&mut bytes, &tensor.flatten_all()?.to_vec1::<f32>()?, dtype)?;
    }
    if tensors.is_empty() {
        return Ok(());
    }
    let block = cuda::upload(&bytes, dtype, device)?;
    for (tensor, start) in tensors.into_iter().zip(starts) {
        *tensor = block.narrow(0, start, tensor.elem_count())?.reshape(tensor.shape())?;
    }
    Ok(())
}

/// Appends `floats`, rounded to `dtype`, to `bytes`.
fn append(bytes: &mut Vec<u8>, floats: &[f32], dtype: DType) -> candle_core::Result<()> {
    match dtype {
        DType::F32 => bytes.extend_from_slice(bytemuck::cast_slice(floats)),
        DType::BF16 => bytes.extend(floats.iter().flat_map(|&float| bf16::from_f32(float).to_ne_bytes())),
        DType::F16 => bytes.extend(floats.iter().flat_map(|&float| f16::from_f32(float).to_ne_bytes())),
        other => bail!("no adapters of {other:?}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
