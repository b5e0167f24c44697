//! Results on their way from a device to the host.

#[cfg(any(feature = "cuda", test))]
use candle_core::Storage;
use candle_core::{DType, Result, Tensor, bail};

use super::Place;
#[cfg(any(feature = "cuda", test))]
use super::address;
#[cfg(feature = "cuda")]
use super::transfer::Arriving;

/// Tensors of f32 that are copied to the host as soon as the work that was queued before has computed them. Work that is queued
/// later does not delay them.
pub(crate) struct Download {
    /// The number of elements of each tensor.
    lengths: Vec<usize>,
    values: Values,
}

/// The elements of all tensors, one tensor after the other.
enum Values {
    /// They are there.
    Host(Vec<f32>),
    /// The device copies them.
    #[cfg(feature = "cuda")]
    Gpu(Arriving),
}

impl Download {
    /// Queues the copies of `tensors`, which lie on one device. Views that lie next to each other in one tensor are copied at once.
    ///
    /// # Errors
    /// If a tensor is not f32, or the device fails.
    pub(crate) fn begin(tensors: &[Tensor]) -> Result<Self> {
        if let Some(other) = tensors.iter().find(|tensor| tensor.dtype() != DType::F32) {
            bail!("download: expected f32, found {:?}", other.dtype());
        }
        let lengths = tensors.iter().map(Tensor::elem_count).collect();
        let Some(first) = tensors.first() else { return Ok(Self { lengths, values: Values::Host(Vec::new()) }) };
        let values = match Place::of(first.device())? {
            Place::Host => {
                let flat = tensors.iter().map(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
                Values::Host(flat.collect::<Result<Vec<_>>>()?.concat())
            }
            #[cfg(feature = "cuda")]
            Place::Gpu(device) => {
                let tensors: Vec<Tensor> = tensors.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
                Values::Gpu(Arriving::begin(&device, &spans(&tensors)?)?)
            }
        };
        Ok(Self { lengths, values })
    }

    /// Waits for the copies. Returns the elements of each tensor.
    ///
    /// # Errors
    /// If the device has failed.
    pub(crate) fn wait(self) -> Result<Vec<Vec<f32>>> {
        let split = |mut values: &[f32]| {
            let mut each = Vec::with_capacity(self.lengths.len());
            for &length in &self.lengths {
                let (tensor, rest) = values.split_at(length);
                each.push(tensor.to_vec());
                values = rest;
            }
            each
        };
        match &self.values {
            Values::Host(values) => Ok(split(values)),
            #[cfg(feature = "cuda")]
            Values::Gpu(arriving) => arriving.wait().map(split),
        }
    }
}

/// Neighbouring f32 of one storage.
#[cfg(any(feature = "cuda", test))]
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
#[cfg(any(feature = "cuda", test))]
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
    fn each_tensor_arrives_in_its_own_order() {
        let turned = counted(6).reshape((2, 3)).unwrap().t().unwrap();
        let tensors = [counted(2), counted(0), turned, counted(5).narrow(0, 3, 2).unwrap()];
        let expected = [vec![0.0, 1.0], vec![], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0], vec![3.0, 4.0]];
        assert_eq!(Download::begin(&tensors).unwrap().wait().unwrap(), expected);
        assert!(Download::begin(&[]).unwrap().wait().unwrap().is_empty());
        let error = Download::begin(&[counted(1).to_dtype(DType::BF16).unwrap()]).map(drop).unwrap_err().to_string();
        assert!(error.contains("expected f32, found BF16"), "{error}");
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
