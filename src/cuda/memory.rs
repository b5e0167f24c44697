//! Tensors as kernels read and write them.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::backend::BackendDevice;
use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, Var, bail};
use half::{bf16, f16};

use super::{Place, pass};

/// The address of a tensor's first element. It is valid for as long as the tensor is; work that is queued on the tensor's device before
/// the tensor is dropped may still use it.
pub(crate) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    Ok(start(&storage)? + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// The address of a storage's first element.
fn start(storage: &Storage) -> Result<u64> {
    Ok(match storage {
        Storage::Cpu(CpuStorage::F32(data)) => data.as_ptr() as u64,
        Storage::Cpu(CpuStorage::BF16(data)) => data.as_ptr() as u64,
        Storage::Cpu(CpuStorage::F16(data)) => data.as_ptr() as u64,
        Storage::Cpu(CpuStorage::U32(data)) => data.as_ptr() as u64,
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => super::modules::start(storage)?,
        other => bail!("kernels: no address of {:?} on {:?}", other.dtype(), other.device()),
    })
}

/// The memory of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceMemory {
    /// The bytes that are free now.
    pub(crate) free: usize,
    /// All bytes.
    pub(crate) total: usize,
}

/// The memory of a GPU; `None` for the CPU.
pub(crate) fn memory_of(device: &Device) -> Result<Option<DeviceMemory>> {
    match Place::of(device)? {
        Place::Host(_) => Ok(None),
        #[cfg(feature = "cuda")]
        Place::Gpu(device) => super::modules::memory_of(device).map(Some),
    }
}

/// A tensor `[rows, width]` as a kernel reads it. The elements of a row are neighbours; rows may lie apart, as those of
/// `narrow(1, ...)`. A vector is one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// The address of the first element.
    pub(crate) address: u64,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Number of elements in a row.
    pub(crate) width: usize,
    /// The number of elements from the start of a row to the start of the next.
    pub(crate) stride: usize,
    /// The type of the elements.
    pub(crate) dtype: DType,
    tensor: PhantomData<&'a Tensor>,
}

impl<'a> Matrix<'a> {
    /// The tensor as a matrix.
    ///
    /// # Errors
    /// If it has more than two dimensions, or the elements of its rows are not neighbours. The error names `op`.
    pub(crate) fn of(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let (rows, width, stride, step) = match (tensor.dims(), tensor.stride()) {
            (&[width], &[step]) => (1, width, width, step),
            (&[rows, width], &[stride, step]) => (rows, width, stride, step),
            (dims, _) => bail!("{op}: expected a matrix, found {dims:?}"),
        };
        if step != 1 && width > 1 {
            bail!("{op}: expected rows of neighbouring elements, found strides {:?}", tensor.stride());
        }
        let stride = if rows > 1 { stride } else { width };
        Ok(Self { address: address(tensor)?, rows, width, stride, dtype: tensor.dtype(), tensor: PhantomData })
    }
}

/// Fresh memory that kernels write, and then a tensor.
pub(crate) struct Output {
    memory: Memory,
    shape: Shape,
    address: u64,
}

/// Whose memory it is.
enum Memory {
    /// The output's own.
    Own(Storage),
    /// A part of a pass's memory.
    Cut(Tensor),
}

impl Output {
    /// Memory for a contiguous tensor. It is not cleared: kernels must write all of it. On the CPU, in tests, it begins as NaN. During a
    /// [`super::Pass`], a small tensor gets a part of the pass's memory.
    pub(crate) fn new(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Self> {
        let shape = shape.into();
        match pass::cut(&shape, dtype, device)? {
            Some(part) => Ok(Self { address: address(&part)?, memory: Memory::Cut(part), shape }),
            None => Self::owned(shape, dtype, device),
        }
    }

    /// [`Self::new`], in memory of its own.
    pub(super) fn owned(shape: Shape, dtype: DType, device: &Device) -> Result<Self> {
        let len = shape.elem_count();
        let storage = match Place::of(device)? {
            Place::Host(_) => Storage::Cpu(match dtype {
                DType::F32 => CpuStorage::F32(vec![f32::NAN; len]),
                DType::BF16 => CpuStorage::BF16(vec![bf16::NAN; len]),
                DType::F16 => CpuStorage::F16(vec![f16::NAN; len]),
                other => bail!("kernels: no memory of {other:?}"),
            }),
            #[cfg(feature = "cuda")]
            // SAFETY: kernels write all of it before anything reads it, which the caller of `tensor` promises.
            Place::Gpu(device) => Storage::Cuda(unsafe { device.alloc_uninit(&shape, dtype)? }),
        };
        let address = start(&storage)?;
        Ok(Self { memory: Memory::Own(storage), shape, address })
    }

    /// The address of the first element.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// The shape.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The storage and the shape. A part of a pass's memory is copied.
    ///
    /// # Safety
    /// As for [`Self::tensor`].
    pub(super) unsafe fn into_parts(self) -> Result<(Storage, Shape)> {
        let storage = match self.memory {
            Memory::Own(storage) => storage,
            Memory::Cut(part) => {
                let (storage, layout) = part.storage_and_layout();
                match (&*storage, Self::owned(self.shape.clone(), part.dtype(), part.device())?.memory) {
                    (Storage::Cpu(from), Memory::Own(Storage::Cpu(mut to))) => {
                        from.copy_strided_src(&mut to, 0, layout)?;
                        Storage::Cpu(to)
                    }
                    (Storage::Cuda(from), Memory::Own(Storage::Cuda(mut to))) => {
                        from.copy_strided_src(&mut to, 0, layout)?;
                        Storage::Cuda(to)
                    }
                    _ => bail!("kernels: no copy of a tensor on {:?}", part.device()),
                }
            }
        };
        Ok((storage, self.shape))
    }

    /// The memory as a tensor without a gradient. [`super::recorded`] makes one with a gradient.
    ///
    /// # Safety
    /// Kernels that write every element must have been launched.
    pub(crate) unsafe fn tensor(self) -> Tensor {
        match self.memory {
            Memory::Own(storage) => Tensor::from_storage(storage, self.shape, BackpropOp::none(), false),
            Memory::Cut(part) => part,
        }
    }

    /// The memory as a variable, to which gradients flow.
    ///
    /// # Safety
    /// As for [`Self::tensor`].
    pub(crate) unsafe fn variable(self) -> Result<Var> {
        Var::from_tensor(&match self.memory {
            Memory::Own(storage) => Tensor::from_storage(storage, self.shape, BackpropOp::none(), true),
            // Copied.
            Memory::Cut(part) => part,
        })
    }
}

/// `words` in the device's memory. It does not wait for the work that is queued there.
fn upload(words: &[u32], device: &Device) -> Result<Tensor> {
    match Place::of(device)? {
        Place::Host(_) => Tensor::from_slice(words, words.len(), device),
        #[cfg(feature = "cuda")]
        Place::Gpu(device) => {
            let storage = Storage::Cuda(super::transfer::upload(device, words)?);
            Ok(Tensor::from_storage(storage, words.len(), BackpropOp::none(), false))
        }
    }
}

/// Sets up a GPU for passes: memory that tensors free is kept for the tensors of later passes, and tensors are not tracked by events.
/// By default, the driver returns freed memory to the system whenever the host waits for the GPU, so that each pass would map its
/// memory again; and each tensor has two events, which are recorded and awaited at each use, although one stream does all the work.
///
/// # Errors
/// If the driver refuses.
pub(crate) fn prepare(device: &Device) -> Result<()> {
    match Place::of(device)? {
        Place::Host(_) => Ok(()),
        #[cfg(feature = "cuda")]
        Place::Gpu(device) => super::transfer::prepare(device),
    }
}

/// The most shared memory that a block of threads can have, in bytes: 227 KiB on Hopper, 163 on A100, 99 on L4.
///
/// # Errors
/// If the driver refuses.
pub(crate) fn most_shared(device: &Device) -> Result<usize> {
    match Place::of(device)? {
        // As on Hopper, whose launches the host repeats.
        Place::Host(_) => Ok(227 << 10),
        #[cfg(feature = "cuda")]
        Place::Gpu(device) => super::modules::most_shared(device),
    }
}

/// Waits until the device has done what is queued on it. An error that breaks the device's context is the result of every later call, so
/// that this one fails as well.
///
/// # Errors
/// If the device has failed.
pub(crate) fn check(device: &Device) -> Result<()> {
    match Place::of(device)? {
        Place::Host(_) => Ok(()),
        #[cfg(feature = "cuda")]
        Place::Gpu(device) => super::transfer::check(device),
    }
}

/// A small array in the device's memory, such as the offsets of a batch's texts. An equal array that was uploaded recently is used
/// again, so that what all layers of a batch share is uploaded once.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    tensor: Tensor,
}

/// The number of tables that are kept for later layers.
const KEPT: usize = 64;

/// The most words that all kept tables have together: 16 MB. A long text's rotary angles take 2 MB.
const KEPT_WORDS: usize = 4 << 20;

/// A table that was uploaded, by its content and device.
struct Kept {
    words: Arc<[u32]>,
    tensor: Tensor,
}

static RECENT: LazyLock<Mutex<VecDeque<Kept>>> = LazyLock::new(|| Mutex::new(VecDeque::new()));

impl Table {
    /// Uploads `items`, each of which consists of whole 32-bit words, unless that was done recently.
    pub(crate) fn new<T: bytemuck::NoUninit>(items: &[T], device: &Device) -> Result<Self> {
        let words: &[u32] = bytemuck::try_cast_slice(items)
            .map_err(|error| candle_core::Error::Msg(format!("kernels: a table of {}: {error}", size_of::<T>())))?;
        let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |kept: &Kept| kept.tensor.device().same_device(device) && *kept.words == *words;
        // The one that was used last comes first, so that tables that all layers share outlive those of one layer.
        if let Some(kept) = recent.iter().position(same).and_then(|at| recent.remove(at)) {
            let tensor = kept.tensor.clone();
            recent.push_front(kept);
            return Ok(Self { tensor });
        }
        let tensor = upload(words, device)?;
        recent.push_front(Kept { words: words.into(), tensor: tensor.clone() });
        let mut words = 0;
        let fits = |kept: &&Kept| {
            words += kept.words.len();
            words <= KEPT_WORDS
        };
        let kept = recent.iter().take(KEPT).take_while(fits).count();
        recent.truncate(kept);
        Ok(Self { tensor })
    }

    /// The address of the first item.
    pub(crate) fn address(&self) -> Result<u64> {
        address(&self.tensor)
    }
}
