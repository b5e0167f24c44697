//! Results on their way from a device to the host.

use candle_core::{DType, Result, Tensor, bail};

use super::Place;
#[cfg(feature = "cuda")]
use super::{span::spans, transfer::Arriving};

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
            Place::Host(_) => {
                let flat = tensors.iter().map(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
                Values::Host(flat.collect::<Result<Vec<_>>>()?.concat())
            }
            #[cfg(feature = "cuda")]
            Place::Gpu(device) => {
                let tensors: Vec<Tensor> = tensors.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
                Values::Gpu(Arriving::begin(device, &spans(&tensors)?)?)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;

    use super::*;

    use crate::cuda::test_device;

    fn counted(count: usize, device: &Device) -> Tensor {
        Tensor::arange(0f32, count as f32, device).unwrap()
    }

    /// On the CPU, and on the device that the environment names. Two downloads are begun before the first is waited for.
    #[test]
    fn each_tensor_arrives_in_its_own_order() {
        for device in [Some(Device::Cpu), test_device()].into_iter().flatten() {
            super::super::prepare(&device).unwrap();
            let counted = |count| counted(count, &device);
            let flat = counted(9);
            let turned = counted(6).reshape((2, 3)).unwrap().t().unwrap();
            let views = [flat.narrow(0, 3, 2).unwrap(), flat.narrow(0, 5, 4).unwrap()];
            let first = Download::begin(&[counted(2), counted(0), turned, views[0].clone(), views[1].clone()]).unwrap();
            let large = counted(100_000);
            let second = Download::begin(&[large.affine(2.0, 1.0).unwrap()]).unwrap();
            drop((flat, views, large));
            let expected =
                [vec![0.0, 1.0], vec![], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0], vec![3.0, 4.0], vec![5.0, 6.0, 7.0, 8.0]];
            assert_eq!(first.wait().unwrap(), expected, "{device:?}");
            let expected: Vec<f32> = (0..100_000).map(|i| 2.0 * i as f32 + 1.0).collect();
            assert!(second.wait().unwrap() == [expected], "{device:?}");
        }
        assert!(Download::begin(&[]).unwrap().wait().unwrap().is_empty());
        let rounded = counted(1, &Device::Cpu).to_dtype(DType::BF16).unwrap();
        let error = Download::begin(&[rounded]).map(drop).unwrap_err().to_string();
        assert!(error.contains("expected f32, found BF16"), "{error}");
    }
}
