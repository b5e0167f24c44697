//! Reading candle's CPU tensors as slices, and handing slices back.

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

/// The contiguous f32 elements of `layout` in `storage`.
pub(crate) fn slice<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else { bail!("{op}: expected f32 on the CPU") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("{op}: expected a contiguous tensor, found {layout:?}"),
    }
}

/// The contiguous f32 elements of a tensor's storage.
pub(crate) fn of<'a>(op: &'static str, storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => slice(op, storage, layout),
        _ => bail!("{op}: expected tensors on the CPU"),
    }
}

/// What a custom op's `cpu_fwd` returns.
pub(crate) fn fresh(data: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(data), shape.into())
}

/// Calls `f` with the elements of `N` tensors, all f32 on the CPU; those that are not contiguous are copied first.
pub(crate) fn read<const N: usize, T>(
    op: &'static str,
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> T,
) -> Result<T> {
    let mut owned = Vec::with_capacity(N);
    for tensor in tensors {
        owned.push(tensor.contiguous()?);
    }
    let guards: Vec<_> = owned.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [&[][..]; N];
    for (target, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *target = of(op, storage, layout)?;
    }
    Ok(f(slices))
}
