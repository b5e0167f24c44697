//! The compiled kernels, loaded once for each device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::result::launch_kernel;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use candle_core::cuda_backend::cudarc::driver::sys::{CUfunction, CUresult};
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, DevicePtr, DriverError};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::{CudaDevice, CudaStorage, DType, Result, bail};

use super::DeviceMemory;
use super::kernel::{Grid, Params, exported};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The shared memory of a block that needs no permission.
const FREE_SHARED: usize = 48 << 10;

/// What is loaded on one device. It is never unloaded.
#[derive(Default)]
struct Loaded {
    modules: Vec<Arc<CudaModule>>,
    /// By the type of activations, and by name without that type.
    kernels: HashMap<DType, HashMap<String, Kernel>>,
}

/// A loaded kernel.
struct Kernel {
    function: CudaFunction,
    /// The most shared memory that its blocks may have.
    shared: usize,
}

impl Kernel {
    /// The driver's handle, for blocks with so much shared memory.
    fn with_shared(&mut self, bytes: usize) -> Result<CUfunction> {
        if bytes > self.shared {
            let most = i32::try_from(bytes).map_err(driver)?;
            let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            self.function.set_attribute(attribute, most).map_err(driver)?;
            self.shared = bytes;
        }
        Ok(self.function.cu_function())
    }
}

static DEVICES: LazyLock<Mutex<HashMap<DeviceId, Loaded>>> = LazyLock::new(|| Mutex::new(HashMap::new()));

fn driver(error: impl std::error::Error + Send + Sync + 'static) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// The kernel `name` for `dtype` on `device`, for blocks with `shared` bytes of shared memory. Modules are loaded at the first call.
fn function(device: &CudaDevice, name: &str, dtype: DType, shared: usize) -> Result<CUfunction> {
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = devices.entry(device.id()).or_default();
    let kernels = loaded.kernels.entry(dtype).or_default();
    if let Some(kernel) = kernels.get_mut(name) {
        return kernel.with_shared(shared);
    }
    if loaded.modules.is_empty() {
        let load = |image: &&[u8]| device.cuda_stream().context().load_module(Ptx::from_binary(image.to_vec()));
        // All or none: with some of them, kernels would be missing for as long as the process runs.
        loaded.modules = KERNELS.iter().map(load).collect::<std::result::Result<_, _>>().map_err(driver)?;
    }
    let exported = exported(name, dtype)?;
    for module in &loaded.modules {
        match module.load_function(&exported) {
            Ok(function) => {
                let kernel = Kernel { function, shared: FREE_SHARED };
                return kernels.entry(name.to_owned()).or_insert(kernel).with_shared(shared);
            }
            Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => {}
            Err(error) => return Err(driver(error)),
        }
    }
    bail!("no kernel {exported}")
}

/// Launches the kernel `name` for `dtype` on the device's stream.
///
/// # Safety
/// As for [`super::launch`].
pub(super) unsafe fn launch<P: Params>(
    device: &CudaDevice,
    name: &str,
    dtype: DType,
    [x, y, z]: [u32; 3],
    grid: &Grid,
    params: &P,
) -> Result<()> {
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(driver)?;
    let function = function(device, name, dtype, grid.shared)?;
    let (threads, shared) = ((grid.threads as u32, 1, 1), grid.shared as u32);
    // The driver copies the parameters before the call returns, and never writes to them.
    let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel's only argument is `params`, whose layout `Params` promises; its module is never unloaded. The caller promises
    // that the parameters are this kernel's and that their addresses are valid.
    unsafe { launch_kernel(function, (x, y, z), threads, shared, stream.cu_stream(), &mut arguments) }.map_err(
        |error| {
            let launch =
                format!("{name} {dtype:?}, {x} x {y} x {z} blocks of {} threads, {shared} bytes", grid.threads);
            driver(error).context(launch)
        },
    )
}

/// The address of a storage's first element.
pub(super) fn start(storage: &CudaStorage) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        _ => bail!("kernels: no address of {:?}", candle_core::backend::BackendStorage::dtype(storage)),
    })
}

/// The memory of `device`.
pub(super) fn memory_of(device: &CudaDevice) -> Result<DeviceMemory> {
    let (free, total) = device.cuda_stream().context().mem_get_info().map_err(driver)?;
    Ok(DeviceMemory { free, total })
}

/// The most shared memory that a block can have on `device`, in bytes.
pub(super) fn most_shared(device: &CudaDevice) -> Result<usize> {
    let context = device.cuda_stream().context().clone();
    let most = context.attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN).map_err(driver)?;
    usize::try_from(most).map_err(driver)
}
