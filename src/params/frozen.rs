//! One parameter of the frozen base.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::{Backend, Form, Prepacked};

/// A parameter of the frozen base. The CPU's kernels read its elements in the mapping itself; other forms have a tensor on their
/// device. A clone shares them.
#[derive(Debug, Clone)]
pub struct Frozen {
    name: Arc<str>,
    shape: Vec<usize>,
    data: Data,
    prepacked: Option<Prepacked>,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// These bytes of the mapping are f32 in the machine's order, aligned. Made by [`Data::mapped`] only.
    Mapped { map: Arc<Mmap>, range: Range<usize> },
    /// What the file holds in another type, or misaligned, converted once.
    Held(Arc<[f32]>),
    /// A tensor, on whatever device.
    Device(Tensor),
}

impl Data {
    /// The bytes `range` of `map`, which are f32 in the machine's order.
    ///
    /// # Panics
    /// Where they lie outside, or are misaligned: whoever calls has checked.
    pub(crate) fn mapped(map: Arc<Mmap>, range: Range<usize>) -> Self {
        let elements = bytemuck::try_cast_slice::<u8, f32>(&map[range.clone()]);
        assert!(elements.is_ok(), "no f32 at {range:?}: {elements:?}");
        Self::Mapped { map, range }
    }
}

impl Frozen {
    pub(crate) fn new(name: &str, shape: &[usize], data: Data) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), data, prepacked: None }
    }

    /// Zeros, for a bias that the architecture does without.
    pub(crate) fn zeros(shape: &[usize], backend: &Backend) -> candle_core::Result<Self> {
        Self::new("no bias", shape, Data::Held(vec![0.0; shape.iter().product()].into())).placed(backend)
    }

    /// A parameter that no file holds.
    #[cfg(test)]
    pub(crate) fn host(name: &str, shape: &[usize], data: Vec<f32>) -> Self {
        Self::new(name, shape, Data::Held(data.into()))
    }

    /// Its name in a classifier's checkpoint, `bert.encoder.layer.0.output.dense.weight`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where it is.
    #[must_use]
    pub fn device(&self) -> &Device {
        match &self.data {
            Data::Device(tensor) => tensor.device(),
            Data::Mapped { .. } | Data::Held(_) => &Device::Cpu,
        }
    }

    /// Its elements, row by row, where the CPU's kernels read them; `None` where it is a tensor.
    #[must_use]
    pub fn slice(&self) -> Option<&[f32]> {
        match &self.data {
            Data::Mapped { map, range } => Some(bytemuck::cast_slice(&map[range.clone()])),
            Data::Held(data) => Some(data),
            Data::Device(_) => None,
        }
    }

    /// A linear's weight as its products run on it, where it was prepacked.
    #[must_use]
    pub fn prepacked(&self) -> Option<&Prepacked> {
        self.prepacked.as_ref()
    }

    pub(crate) fn with_prepacked(self, prepacked: Option<Prepacked>) -> Self {
        Self { prepacked, ..self }
    }

    /// As a tensor: a copy on the CPU, the uploaded one elsewhere.
    ///
    /// # Errors
    /// Candle's own.
    pub fn tensor(&self) -> candle_core::Result<Tensor> {
        self.on(self.device())
    }

    /// As `backend` computes with it: the CPU's kernels read it where it is mapped, other forms need a tensor, made once.
    pub(crate) fn placed(self, backend: &Backend) -> candle_core::Result<Self> {
        match backend.form() {
            Form::Cpu => Ok(self),
            Form::Reference | Form::Cuda => {
                let data = Data::Device(self.on(backend.device())?);
                Ok(Self { data, ..self })
            }
        }
    }

    fn on(&self, device: &Device) -> candle_core::Result<Tensor> {
        match &self.data {
            Data::Device(tensor) => tensor.to_device(device),
            Data::Mapped { .. } | Data::Held(_) => {
                Tensor::from_slice(self.slice().unwrap_or_default(), &self.shape[..], device)
            }
        }
    }
}
