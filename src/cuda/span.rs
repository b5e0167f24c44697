//! The memory of several tensors, of which what is adjacent is copied at once.

use candle_core::{Result, Storage, Tensor};

use super::address;

/// Neighbouring f32 of one storage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Span {
    storage: *const Storage,
    /// The address of the first.
    pub(super) address: u64,
    /// Their number.
    pub(super) count: usize,
}

/// The memory of contiguous tensors, in order. What one tensor ends with and the next begins with in the same storage is one span: memory
/// of two storages is never copied at once, even if it happens to be adjacent.
pub(super) fn spans(tensors: &[Tensor]) -> Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    for tensor in tensors.iter().filter(|tensor| tensor.elem_count() > 0) {
        let storage = std::ptr::from_ref(&*tensor.storage_and_layout().0);
        let (address, count) = (address(tensor)?, tensor.elem_count());
        match spans.last_mut() {
            Some(last)
                if last.storage == storage && last.address + (last.count * size_of::<f32>()) as u64 == address =>
            {
                last.count += count;
            }
            _ => spans.push(Span { storage, address, count }),
        }
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;

    use super::*;

    fn counted(count: usize) -> Tensor {
        Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap()
    }

    #[test]
    fn views_next_to_each_other_are_one_span() {
        let (flat, other) = (counted(10), counted(3));
        let view = |start, count| flat.narrow(0, start, count).unwrap();
        let counts = |tensors: &[Tensor]| spans(tensors).unwrap().iter().map(|span| span.count).collect::<Vec<_>>();
        assert_eq!(counts(&[view(0, 4), view(4, 1), view(5, 0), view(5, 5)]), [10]);
        assert_eq!(counts(&[view(0, 4), view(5, 5), view(4, 1)]), [4, 5, 1]);
        assert_eq!(counts(&[view(0, 10), other.clone(), other]), [10, 3, 3]);
        assert!(counts(&[]).is_empty());
    }
}
