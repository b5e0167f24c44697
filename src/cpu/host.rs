//! Reads candle's CPU tensors as slices, and turns slices into tensors' storage.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};
use pulp::Simd;

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

/// The f32 elements of a tensor's storage in memory order. The `layout` must have no gaps; its dimensions may be in any order.
pub(crate) fn dense<'a>(op: &'static str, storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    let Storage::Cpu(CpuStorage::F32(data)) = storage else { bail!("{op}: expected f32 on the CPU") };
    if layout.is_contiguous() || layout.is_fortran_contiguous() {
        Ok(&data[layout.start_offset()..layout.start_offset() + layout.shape().elem_count()])
    } else {
        bail!("{op}: expected a tensor without gaps, found {layout:?}")
    }
}

/// The return value of a custom op's `cpu_fwd`.
pub(crate) fn fresh(data: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(data), shape.into())
}

/// Makes a vector of `len` elements that `fill` writes. It is not zeroed first, because that would cost a pass over memory.
///
/// # Safety
/// `fill` must write every element.
pub(crate) unsafe fn written(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut data = Vec::with_capacity(len);
    fill(&mut data.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and `fill` has written that many.
    unsafe { data.set_len(len) };
    data
}

/// Splits `whole` into consecutive parts of these lengths.
pub(crate) fn parts<T>(mut whole: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    let cut = |len| {
        let (part, rest) = std::mem::take(&mut whole).split_at_mut(len);
        whole = rest;
        part
    };
    lengths.map(cut).collect()
}

/// Fills `room` with zeros.
pub(crate) fn zeroed(room: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    for element in &mut *room {
        element.write(0.0);
    }
    // SAFETY: every element has just been written.
    unsafe { initialized(room) }
}

/// `room` as initialized elements.
///
/// # Safety
/// Every element must have been written.
pub(crate) unsafe fn initialized(room: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    // SAFETY: the elements are initialized, and `MaybeUninit<f32>` is laid out as `f32`.
    unsafe { &mut *(std::ptr::from_mut(room) as *mut [f32]) }
}

/// Writes `value` to `room`, or as many of its elements as fit.
#[inline(always)]
pub(crate) fn write<S: Simd>(_: S, room: &mut [MaybeUninit<f32>], value: S::f32s) {
    let (whole, rest) = S::as_uninit_mut_simd_f32s(room);
    match whole.first_mut() {
        Some(room) => drop(room.write(value)),
        None => {
            for (room, &value) in rest.iter_mut().zip(bytemuck::cast_slice(std::slice::from_ref(&value))) {
                room.write(value);
            }
        }
    }
}

/// Calls `f` with the elements of `N` f32 tensors on the CPU. Tensors that are not contiguous are copied first.
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
