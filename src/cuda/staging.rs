//! Copies into a GPU's memory through pinned memory, on a stream that computes nothing.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::{CUevent_flags, CUresult};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DriverError, PinnedHostSlice};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Error, Storage, Tensor};

use super::UploadError;

/// Bytes of pinned memory on the host for each device. Larger uploads are copied in parts.
const STAGED: usize = 4 << 20;

/// What copies to one device.
struct Stager {
    /// The copy stream. It runs beside the device's own stream, on which everything is computed.
    stream: Arc<CudaStream>,
    /// `STAGED` bytes of pinned memory. No copy reads them while the stager is not locked.
    pinned: PinnedHostSlice<u8>,
}

static STAGERS: LazyLock<Mutex<HashMap<DeviceId, Arc<Mutex<Stager>>>>> = LazyLock::new(Mutex::default);

fn driver(error: DriverError) -> UploadError {
    UploadError::Device(Error::wrap(error))
}

/// The stager of `device`, made at the first call.
fn stager(device: &CudaDevice) -> Result<Arc<Mutex<Stager>>, DriverError> {
    let mut stagers = STAGERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stager) = stagers.get(&device.id()) {
        return Ok(Arc::clone(stager));
    }
    let compute = device.cuda_stream();
    let stream = compute.context().new_stream()?;
    // SAFETY: the memory may begin with any bytes, because `Stager::copy` writes what it copies.
    let pinned = unsafe { compute.context().alloc_pinned::<u8>(STAGED)? };
    let stager = Arc::new(Mutex::new(Stager { stream, pinned }));
    stagers.insert(device.id(), Arc::clone(&stager));
    Ok(stager)
}

impl Stager {
    /// A copy of `bytes` in the device's memory. Returns when all of it is there: the thread sleeps meanwhile.
    fn copy(&mut self, bytes: &[u8]) -> Result<CudaSlice<u8>, UploadError> {
        // SAFETY: the memory begins with any bytes. The copies below write all of them before anything reads them.
        let memory = unsafe { self.stream.alloc::<u8>(bytes.len()) };
        let mut memory = memory.map_err(|error| self.refused(error, bytes.len()))?;
        for (i, part) in bytes.chunks(STAGED).enumerate() {
            let staged = &mut self.pinned.as_mut_slice().map_err(driver)?[..part.len()];
            staged.copy_from_slice(part);
            let mut target = memory.slice_mut(i * STAGED..i * STAGED + part.len());
            self.stream.memcpy_htod(&*staged, &mut target).map_err(driver)?;
            let copied = self.stream.record_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).map_err(driver)?;
            copied.synchronize().map_err(driver)?;
        }
        Ok(memory)
    }

    /// The error of an allocation of `needed` bytes.
    fn refused(&self, error: DriverError, needed: usize) -> UploadError {
        match self.stream.context().mem_get_info() {
            Ok((free, _)) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => UploadError::OutOfMemory { needed, free },
            _ => driver(error),
        }
    }
}

/// As [`super::upload`], to a GPU.
pub(super) fn upload(bytes: &[u8], dtype: DType, device: &CudaDevice) -> Result<Tensor, UploadError> {
    let stager = stager(device).map_err(driver)?;
    let memory = stager.lock().unwrap_or_else(PoisonError::into_inner).copy(bytes)?;
    let (compute, len) = (device.cuda_stream(), bytes.len() / dtype.size_in_bytes());
    let slice = match dtype {
        // SAFETY: `len` elements of this type fit into the bytes, and all bit patterns are floats.
        DType::F32 => CudaStorageSlice::F32(unsafe { owned_by(&compute, memory, len) }),
        // SAFETY: `len` elements of 2 bytes fit into the bytes, and all bit patterns are floats.
        DType::BF16 => CudaStorageSlice::BF16(unsafe { owned_by(&compute, memory, len) }),
        // SAFETY: `len` elements of 2 bytes fit into the bytes, and all bit patterns are floats.
        DType::F16 => CudaStorageSlice::F16(unsafe { owned_by(&compute, memory, len) }),
        other => return Err(Error::Msg(format!("kernels: no memory of {other:?}")).into()),
    };
    let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
    Ok(Tensor::from_storage(storage, len, BackpropOp::none(), false))
}

/// The same memory, now of `len` elements and owned by the stream `compute`. When the tensor is dropped, the memory is freed in the order
/// of that stream: after the kernels of all batches that read it, and before anything may use it again. The copy stream may get it again
/// earlier only if the driver makes that stream wait for the same point.
///
/// # Safety
/// `len` elements must fit into the memory, and its bytes must be valid elements. All work on the memory that was queued on the copy
/// stream must have ended, because `compute` does not wait for it; [`Stager::copy`] waits.
unsafe fn owned_by<T>(compute: &Arc<CudaStream>, memory: CudaSlice<u8>, len: usize) -> CudaSlice<T> {
    // SAFETY: the pointer is an allocation that nobody else owns once it is leaked. The caller promises the rest.
    unsafe { compute.upgrade_device_ptr(memory.leak(), len) }
}
