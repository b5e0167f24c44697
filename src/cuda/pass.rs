//! Memory for the small tensors of a pass, cut from large pieces.
//!
//! To allocate and free a tensor takes the driver about as long as to launch a kernel, and a pass of a few texts has hundreds of small
//! tensors. A piece is freed when the last tensor in it is dropped.

use std::cell::RefCell;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::Output;

/// The largest tensor that is cut from a piece, in bytes. Larger ones keep the GPU busy for longer than their allocation takes.
const LARGEST: usize = 1 << 20;

/// The size of a pass's first piece, in bytes. Each further piece is twice as large, up to the last size.
const FIRST: usize = 1 << 20;
const LAST: usize = 32 << 20;

/// Tensors begin at multiples of so many bytes.
const ALIGNMENT: usize = 256;

thread_local! {
    /// The pieces from which this thread's pass cuts tensors, at most one for each type and device.
    static PIECES: RefCell<Option<Vec<Piece>>> = const { RefCell::new(None) };
}

/// A piece of memory.
struct Piece {
    /// `[length]`.
    memory: Tensor,
    /// The number of elements that tensors have taken.
    used: usize,
}

/// A pass without gradients on this thread. While it lives, small [`Output`]s are cut from pieces of memory. What is kept after the pass
/// should be copied, because it keeps its whole piece.
pub(crate) struct Pass(());

impl Pass {
    /// Begins a pass.
    pub(crate) fn begin() -> Self {
        PIECES.set(Some(Vec::new()));
        Self(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        PIECES.set(None);
    }
}

/// Memory for a tensor, cut from a piece; `None` if there is no pass or the tensor is too large. Its content is undefined.
pub(super) fn cut(shape: &Shape, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
    let (count, element) = (shape.elem_count(), dtype.size_in_bytes());
    if count == 0 || count * element > LARGEST {
        return Ok(None);
    }
    PIECES.with_borrow_mut(|pieces| {
        let Some(pieces) = pieces else { return Ok(None) };
        let of = |piece: &Piece| piece.memory.dtype() == dtype && piece.memory.device().same_device(device);
        let at = pieces.iter().position(of);
        let (length, used) = at.map_or((0, 0), |at| (pieces[at].memory.elem_count(), pieces[at].used));
        let piece = match at {
            Some(at) if used + count <= length => &mut pieces[at],
            _ => {
                let bytes = (2 * length * element).clamp(FIRST, LAST).max(count * element);
                let memory = Output::owned(Shape::from(bytes / element), dtype, device)?;
                // SAFETY: the tensor is never read as a whole. Kernels write the parts that are cut from it before anything reads them.
                let piece = Piece { memory: unsafe { memory.tensor() }, used: 0 };
                if let Some(at) = at {
                    pieces.swap_remove(at);
                }
                pieces.push(piece);
                let last = pieces.len() - 1;
                &mut pieces[last]
            }
        };
        let tensor = piece.memory.narrow(0, piece.used, count)?.reshape(shape)?;
        piece.used = (piece.used + count).next_multiple_of(ALIGNMENT / element);
        Ok(Some(tensor))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Var;

    use super::super::{address, recorded};
    use super::*;

    fn output(count: usize, dtype: DType) -> Tensor {
        // SAFETY: the tests do not read the elements.
        unsafe { Output::new((1, count), dtype, &Device::Cpu).unwrap().tensor() }
    }

    #[test]
    fn tensors_of_a_pass_share_pieces_and_never_overlap() {
        let pass = Pass::begin();
        let counts: Vec<usize> = (0..60).map(|i| 1 + i * i * 37 % 300_000).collect();
        let types = [DType::F32, DType::BF16];
        let tensors: Vec<Tensor> = counts.iter().enumerate().map(|(i, &count)| output(count, types[i % 2])).collect();
        let mut spans: Vec<_> = tensors
            .iter()
            .map(|tensor| (address(tensor).unwrap(), tensor.elem_count() * tensor.dtype().size_in_bytes()))
            .collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 as u64 <= pair[1].0));
        assert!(tensors.iter().zip(&counts).all(|(tensor, &count)| tensor.dims() == [1, count]));
        let storage = |tensor: &Tensor| std::ptr::from_ref(&*tensor.storage_and_layout().0);
        assert_eq!(storage(&output(10, DType::F32)), storage(&output(10, DType::F32)));
        let large = output(LARGEST, DType::F32);
        assert_eq!(large.layout().start_offset(), 0);
        assert_ne!(storage(&large), storage(&output(LARGEST, DType::F32)));
        drop(pass);
        assert_ne!(storage(&output(10, DType::F32)), storage(&output(10, DType::F32)));
    }

    #[test]
    fn result_with_a_gradient_is_copied_out_of_the_pass() {
        let _pass = Pass::begin();
        let x = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let first = output(2, DType::F32);
        let y = Output::new(2, DType::F32, &Device::Cpu).unwrap();
        // SAFETY: the output has two elements.
        unsafe { std::slice::from_raw_parts_mut(y.address() as *mut f32, 2) }.copy_from_slice(&[3.0, 4.0]);
        // SAFETY: both elements have been written.
        let y = unsafe { recorded("test", [x.as_tensor()], y, |_, _, dy| Ok([Some((dy * 2.0)?)])) }.unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), [3.0, 4.0]);
        assert_eq!((first.layout().start_offset(), y.layout().start_offset()), (0, 0));
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>().unwrap(), [2.0, 2.0]);
    }
}
