//! One parameter of the frozen base.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use super::{Backend, Form, Prepacked};

/// A parameter of the frozen base. The CPU's kernels read its elements directly from the memory-mapped file; the other forms keep a
/// tensor on their device. Clones share the data.
#[derive(Debug, Clone)]
pub struct Frozen {
    name: Arc<str>,
    shape: Vec<usize>,
    data: Data,
    prepacked: Option<Prepacked>,
}

/// The name of the zeros in place of a bias that the architecture does not have.
const NO_BIAS: &str = "no bias";

#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// These bytes of the mapping are aligned f32 in the machine's byte order. Only [`Data::mapped`] makes this variant.
    Mapped { map: Arc<Mmap>, range: Range<usize> },
    /// Elements in memory, converted once because the file stores another type or does not align them.
    Owned(Arc<[f32]>),
    /// A tensor on any device.
    Device(Tensor),
}

impl Data {
    /// The bytes `range` of `map`, which must be f32 in the machine's byte order.
    ///
    /// # Panics
    /// If the range lies outside the mapping or is misaligned. The caller must have checked both.
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

    /// Zeros, in place of a bias that the architecture does not have.
    pub(crate) fn zeros(shape: &[usize], backend: &Backend) -> candle_core::Result<Self> {
        Self::new(NO_BIAS, shape, Data::Owned(vec![0.0; shape.iter().product()].into())).placed(backend)
    }

    /// Whether this is [`Frozen::zeros`], which need not be added.
    pub(crate) fn is_absent(&self) -> bool {
        &*self.name == NO_BIAS
    }

    /// A parameter made in memory, for tests.
    #[cfg(test)]
    pub(crate) fn host(name: &str, shape: &[usize], data: Vec<f32>) -> Self {
        Self::new(name, shape, Data::Owned(data.into()))
    }

    /// The parameter's name in a classifier's checkpoint, such as `bert.encoder.layer.0.output.dense.weight`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameter's shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The device that holds the parameter.
    #[must_use]
    pub fn device(&self) -> &Device {
        match &self.data {
            Data::Device(tensor) => tensor.device(),
            Data::Mapped { .. } | Data::Owned(_) => &Device::Cpu,
        }
    }

    /// The elements, row by row, as the CPU's kernels read them; `None` if the parameter is a tensor.
    #[must_use]
    pub fn slice(&self) -> Option<&[f32]> {
        match &self.data {
            Data::Mapped { map, range } => Some(bytemuck::cast_slice(&map[range.clone()])),
            Data::Owned(data) => Some(data),
            Data::Device(_) => None,
        }
    }

    /// The prepacked form of a linear's weight, if it has one.
    #[must_use]
    pub fn prepacked(&self) -> Option<&Prepacked> {
        self.prepacked.as_ref()
    }

    pub(crate) fn with_prepacked(self, prepacked: Option<Prepacked>) -> Self {
        Self { prepacked, ..self }
    }

    /// The parameter as a tensor. Mapped elements are copied; a tensor that is already on a device is shared.
    ///
    /// # Errors
    /// Candle's own.
    pub fn tensor(&self) -> candle_core::Result<Tensor> {
        self.on(self.device())
    }

    /// The parameter in the form that `backend` reads: unchanged for the CPU's kernels, which read the mapping; a tensor, made
    /// once, for the other forms.
    pub(crate) fn placed(self, backend: &Backend) -> candle_core::Result<Self> {
        match backend.form() {
            Form::Cpu => Ok(self),
            Form::Reference | Form::Cuda => {
                // Biases and norms stay f32: they are small, and kernels add them in f32.
                let dtype = if self.shape.len() < 2 { DType::F32 } else { backend.dtype() };
                let data = Data::Device(self.on(&Device::Cpu)?.to_dtype(dtype)?.to_device(backend.device())?);
                Ok(Self { data, ..self })
            }
        }
    }

    /// Makes parameters of equal width on a GPU lie one after another in memory. In the other forms it changes nothing.
    pub(crate) fn join<const N: usize>(parts: [&mut Self; N], backend: &Backend) -> candle_core::Result<()> {
        if backend.form() != Form::Cuda {
            return Ok(());
        }
        let tensors: Vec<Tensor> = parts.iter().map(|part| part.tensor()).collect::<candle_core::Result<_>>()?;
        let (whole, mut start) = (Tensor::cat(&tensors, 0)?, 0);
        for part in parts {
            let rows = part.shape[0];
            part.data = Data::Device(whole.narrow(0, start, rows)?);
            start += rows;
        }
        Ok(())
    }

    fn on(&self, device: &Device) -> candle_core::Result<Tensor> {
        match &self.data {
            Data::Device(tensor) => tensor.to_device(device),
            Data::Mapped { .. } | Data::Owned(_) => {
                Tensor::from_slice(self.slice().unwrap_or_default(), &self.shape[..], device)
            }
        }
    }
}
