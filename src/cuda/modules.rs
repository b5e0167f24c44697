//! The compiled kernels, loaded once for each device.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::{CudaDevice, CudaStorage, Result, bail};

use super::{Grid, Params, Room};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The shared memory of a block that needs no permission.
const FREE_SHARED: usize = 48 << 10;

/// What is loaded on one device.
#[derive(Default)]
struct Loaded {
    modules: Vec<Arc<CudaModule>>,
    functions: HashMap<String, CudaFunction>,
}

static DEVICES: LazyLock<Mutex<HashMap<DeviceId, Loaded>>> = LazyLock::new(|| Mutex::new(HashMap::new()));

/// A kernel's parameters as an argument.
#[repr(transparent)]
struct Argument<P>(P);

// SAFETY: `Params` promises that the type has the layout that the kernel expects.
unsafe impl<P: Params> DeviceRepr for Argument<P> {}

fn driver(error: impl std::error::Error + Send + Sync + 'static) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// The kernel `name` on `device`. Its modules are loaded at the first call.
fn function(device: &CudaDevice, name: &str) -> Result<CudaFunction> {
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = devices.entry(device.id()).or_default();
    if let Some(function) = loaded.functions.get(name) {
        return Ok(function.clone());
    }
    if loaded.modules.is_empty() {
        for image in KERNELS {
            let module = device.cuda_stream().context().load_module(Ptx::from_binary(image.to_vec()));
            loaded.modules.push(module.map_err(driver)?);
        }
    }
    match loaded.modules.iter().find_map(|module| module.load_function(name).ok()) {
        Some(function) => {
            loaded.functions.insert(name.to_owned(), function.clone());
            Ok(function)
        }
        None => bail!("no kernel {name}"),
    }
}

/// Launches the kernel `name` on the device's stream.
///
/// # Safety
/// As for [`super::launch`].
pub(super) unsafe fn launch<P: Params>(
    device: &CudaDevice,
    name: &str,
    blocks: [u32; 3],
    grid: &Grid,
    params: &P,
) -> Result<()> {
    let function = function(device, name)?;
    if grid.shared > FREE_SHARED {
        let bytes = i32::try_from(grid.shared).map_err(driver)?;
        function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes).map_err(driver)?;
    }
    let config = LaunchConfig {
        grid_dim: (blocks[0], blocks[1], blocks[2]),
        block_dim: (grid.threads as u32, 1, 1),
        shared_mem_bytes: grid.shared as u32,
    };
    let (stream, argument) = (device.cuda_stream(), Argument(*params));
    let mut builder = stream.launch_builder(&function);
    builder.arg(&argument);
    // SAFETY: the caller promises that the parameters are this kernel's and that their addresses are valid.
    unsafe { builder.launch(config) }.map_err(driver)?;
    Ok(())
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
pub(super) fn room(device: &CudaDevice) -> Result<Room> {
    let (free, total) = device.cuda_stream().context().mem_get_info().map_err(driver)?;
    Ok(Room { free, total })
}
