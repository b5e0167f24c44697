//! Which form of the operations runs, and on which device. An engine is opened with one [`Backend`]; all of its tensors and
//! operations use it.

use candle_core::{DType, Device};
use clap::ValueEnum;

/// The forms that every operation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Form {
    /// Candle's own operations, on any device; slow, and the form that tests compare the others with
    Reference,
    /// Kernels over mapped weights
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

impl Form {
    /// The form's name on command lines and in responses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// A form of the operations and the device that it runs on.
///
/// ```
/// use candle_core::Device;
/// use polyrank::params::{Backend, Form};
///
/// assert_eq!(Backend::native(Device::Cpu).form(), Form::Cpu);
/// assert_eq!(Backend::reference(Device::Cpu).name(), "reference");
/// assert!(Backend::new(Form::Cuda, Device::Cpu).is_none());
/// ```
#[derive(Debug, Clone)]
pub struct Backend {
    form: Form,
    device: Device,
    dtype: DType,
}

impl Backend {
    /// The CPU, with the kernels written for it.
    #[must_use]
    pub fn cpu() -> Self {
        Self { form: Form::Cpu, device: Device::Cpu, dtype: DType::F32 }
    }

    /// The reference form on `device`.
    #[must_use]
    pub fn reference(device: Device) -> Self {
        Self { form: Form::Reference, device, dtype: DType::F32 }
    }

    /// The GPU's form with its kernels compiled for the CPU, for tests; [`crate::cuda::run_on_host`] supplies the kernels.
    #[must_use]
    pub fn cuda_on_host() -> Self {
        Self { form: Form::Cuda, device: Device::Cpu, dtype: DType::F32 }
    }

    /// The fastest form that runs on `device`.
    #[must_use]
    pub fn native(device: Device) -> Self {
        if device.is_cpu() { Self::cpu() } else { Self { form: Form::Cuda, device, dtype: DType::F32 } }
    }

    /// The form.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of activations, and of weights in the device's memory. It is f32 but for [`Backend::with_dtype`].
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The same with activations and weights of `dtype`: f32, bf16 or f16. Only the GPU's form has other types than f32; `None` for
    /// what a form does not have.
    #[must_use]
    pub fn with_dtype(self, dtype: DType) -> Option<Self> {
        let has = match self.form {
            Form::Reference | Form::Cpu => dtype == DType::F32,
            Form::Cuda => matches!(dtype, DType::F32 | DType::BF16 | DType::F16),
        };
        has.then_some(Self { dtype, ..self })
    }

    /// Whether the CPU's cores do the work, so that a batch should be divided among them.
    #[must_use]
    pub fn on_host(&self) -> bool {
        self.form != Form::Cuda && self.device.is_cpu()
    }

    /// `form` on `device`, or `None` if that form does not run on that device.
    #[must_use]
    pub fn new(form: Form, device: Device) -> Option<Self> {
        let native = Self::native(device.clone()).form;
        (form == Form::Reference || form == native).then_some(Self { form, device, dtype: DType::F32 })
    }

    /// The form's name on command lines and in responses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.form.name()
    }
}

impl From<&Device> for Backend {
    /// The device's fastest form.
    fn from(device: &Device) -> Self {
        Self::native(device.clone())
    }
}

impl From<&Backend> for Backend {
    fn from(backend: &Backend) -> Self {
        backend.clone()
    }
}
