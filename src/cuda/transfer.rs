//! Copies between the host and a GPU that do not wait for the work that is queued on it, and the settings of a GPU that runs passes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CU_MEMHOSTALLOC_PORTABLE, CUevent_flags, CUmemPool_attribute_enum,
};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, PinnedHostSlice};
use candle_core::{CudaDevice, CudaStorage, Result};

use super::span::Span;

/// The driver takes a copy of up to 64 KB from ordinary memory at once. For a larger one it may wait until the device has done what is
/// queued.
const AT_ONCE: usize = (64 << 10) / size_of::<u32>();

/// How long a thread asks again and again whether results have arrived, before it sleeps until the driver wakes it. To be woken takes
/// up to 0.1 ms, which is much for a pass of few texts and little for a longer one.
const ASK: Duration = Duration::from_millis(4);

/// The number of elements of the smallest page-locked buffer.
const SMALLEST: usize = 4096;

fn driver(error: impl std::error::Error + Send + Sync + 'static) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// `words` in the device's memory.
pub(super) fn upload(device: &CudaDevice, words: &[u32]) -> Result<CudaStorage> {
    // SAFETY: the copies write all of it, before any work that is queued later.
    let mut memory = unsafe { device.alloc::<u32>(words.len())? };
    for (part, words) in words.chunks(AT_ONCE).enumerate() {
        let start = part * AT_ONCE;
        device.memcpy_htod(words, &mut memory.slice_mut(start..start + words.len()))?;
    }
    Ok(CudaStorage::wrap_cuda_slice(memory, device.clone()))
}

/// Page-locked memory, into which a device copies without the host's help, with this device. It is never freed, because that would wait
/// for the device. A GPU that was opened twice is two devices, with a stream each.
static FREE: Mutex<Vec<(DeviceId, PinnedHostSlice<f32>)>> = Mutex::new(Vec::new());

/// A buffer that nobody else uses, with its device. When it is dropped, others may use it, on the same device.
struct Buffer(DeviceId, Option<PinnedHostSlice<f32>>);

impl Buffer {
    /// A buffer of at least `count` elements.
    fn of(device: &CudaDevice, count: usize) -> Result<Self> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let id = device.id();
        if let Some(at) = free.iter().position(|(of, buffer)| *of == id && buffer.len() >= count) {
            return Ok(Self(id, Some(free.swap_remove(at).1)));
        }
        let count = count.next_power_of_two().max(SMALLEST);
        // SAFETY: only what the device has written is read.
        let buffer = unsafe { device.cuda_stream().context().alloc_pinned_with_flags(count, CU_MEMHOSTALLOC_PORTABLE) };
        Ok(Self(id, Some(buffer.map_err(driver)?)))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Copies that nobody waited for come first on the device's stream, before those of the next user.
        let buffer = self.1.take().map(|buffer| (self.0, buffer));
        FREE.lock().unwrap_or_else(PoisonError::into_inner).extend(buffer);
    }
}

/// Copies to the host that are queued.
pub(super) struct Arriving {
    buffer: Buffer,
    count: usize,
    arrived: CudaEvent,
}

impl Arriving {
    /// Queues the copies of `spans`.
    pub(super) fn begin(device: &CudaDevice, spans: &[Span]) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().map_err(driver)?;
        let count = spans.iter().map(|span| span.count).sum();
        let mut buffer = Buffer::of(device, count)?;
        let memory = buffer.1.as_mut().map(PinnedHostSlice::as_mut_slice).transpose().map_err(driver)?;
        let mut rest = memory.unwrap_or_default();
        for span in spans {
            let (part, after) = rest.split_at_mut(span.count);
            rest = after;
            // SAFETY: `span` lies in a tensor that the caller holds. If it drops the tensor, the stream frees the memory after this copy.
            // `self.buffer` keeps the other side, which is read only after the event.
            unsafe { result::memcpy_dtoh_async(part, span.address, stream.cu_stream()) }.map_err(driver)?;
        }
        // A thread that waits for this event in the driver sleeps.
        let arrived = stream.record_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).map_err(driver)?;
        Ok(Self { buffer, count, arrived })
    }

    /// Waits until they have ended. Returns all elements, in the order of the spans.
    pub(super) fn wait(&self) -> Result<&[f32]> {
        let start = Instant::now();
        while !self.arrived.try_is_complete().map_err(driver)? {
            if start.elapsed() > ASK {
                self.arrived.synchronize().map_err(driver)?;
                break;
            }
            // Other threads read requests meanwhile.
            std::thread::yield_now();
        }
        let memory = self.buffer.1.as_ref().map(PinnedHostSlice::as_slice).transpose().map_err(driver)?;
        Ok(memory.map(|memory| &memory[..self.count]).unwrap_or_default())
    }
}

/// As [`super::prepare`], for a GPU.
pub(super) fn prepare(device: &CudaDevice) -> Result<()> {
    // SAFETY: all work on tensors is queued on the device's one stream, which also frees them. Where memory is filled by copies on
    // another stream, the host waits for these copies before anything uses the memory.
    unsafe { device.disable_event_tracking() };
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    context.bind_to_thread().map_err(driver)?;
    let mut most = u64::MAX;
    // SAFETY: the device is the context's own, and the value of this attribute is a u64.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device()).map_err(driver)?;
        let attribute = CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut most).cast()).map_err(driver)
    }
}

/// As [`super::check`], for a GPU.
pub(super) fn check(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    // An error that a drop has left behind, on any thread, says nothing about the device now.
    let _ = stream.context().check_err();
    stream.context().bind_to_thread().map_err(driver)?;
    stream.synchronize().map_err(driver)
}
