//! Access to tensors in host memory as slices.

use std::ops::Deref;

use candle_core::{CpuStorage, Layout, Result, Storage, bail};

/// The elements of a contiguous f32 tensor in host memory, from [`candle_core::Tensor::storage_and_layout`].
///
/// # Errors
/// The tensor is on another device, has another type, or is not contiguous.
pub(crate) fn elements<'a>(storage: &'a impl Deref<Target = Storage>, layout: &Layout) -> Result<&'a [f32]> {
    let Storage::Cpu(CpuStorage::F32(data)) = &**storage else { bail!("optimiser: expected f32 in host memory") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("optimiser: expected a contiguous tensor, found {layout:?}"),
    }
}
