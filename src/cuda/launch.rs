//! Launches a kernel.

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaDevice;
use candle_core::{DType, Device, Result, bail};

use super::kernel::{Grid, Params, exported};

/// Runs the kernel `name` on the CPU: grid, threads of a block, bytes of shared memory, parameters. Returns whether there is such a
/// kernel.
///
/// # Safety
/// The parameters must be those of the kernel, and every address in them must be valid.
pub type HostLaunch = unsafe fn(&CStr, [u32; 3], u32, usize, *const c_void) -> bool;

static HOST: OnceLock<HostLaunch> = OnceLock::new();

/// From now on, kernels whose tensors lie in the CPU's memory run by `launch`. For tests, which have the kernels compiled for the CPU.
pub fn run_on_host(launch: HostLaunch) {
    HOST.get_or_init(|| launch);
}

#[cfg(test)]
thread_local! {
    /// The number of launches on this thread.
    pub(crate) static LAUNCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Where kernels run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// On the CPU, in tests.
    Host(PhantomData<&'a Device>),
    /// On a GPU, in the order of its one stream.
    #[cfg(feature = "cuda")]
    Gpu(&'a CudaDevice),
}

impl<'a> Place<'a> {
    /// Where kernels run whose tensors are on `device`.
    pub(crate) fn of(device: &'a Device) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Host(PhantomData)),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Self::Gpu(device)),
            other => bail!("no kernels for {other:?}"),
        }
    }
}

/// Launches the kernel `name` for activations of type `dtype`: `{name}_f32`, `{name}_bf16` or `{name}_f16`.
///
/// # Errors
/// If there is no such kernel, the grid is too large, or the driver refuses the launch.
///
/// # Safety
/// `params` must be the kernel's own, and every address in it must be valid for what the kernel reads and writes, until all work that
/// was queued on the device has ended.
pub(crate) unsafe fn launch<P: Params>(place: &Place, name: &str, dtype: DType, grid: Grid, params: &P) -> Result<()> {
    if grid.blocks.contains(&0) {
        return Ok(());
    }
    // The limits of a grid: 2^31 - 1 blocks in x, 65,535 in y and z.
    let [x, y, z] = grid.blocks;
    if i32::try_from(x).is_err() || y > 65_535 || z > 65_535 {
        bail!("{name}: a grid of {:?} blocks is too large", grid.blocks);
    }
    #[cfg(test)]
    LAUNCHES.set(LAUNCHES.get() + 1);
    let blocks = grid.blocks.map(|blocks| blocks as u32);
    match place {
        Place::Host(_) => {
            let Some(host) = HOST.get() else { bail!("{name}: there is no GPU, and no kernels for the CPU") };
            let name = CString::new(exported(name, dtype)?).map_err(candle_core::Error::wrap)?;
            let params = std::ptr::from_ref(params).cast();
            // SAFETY: the caller promises that the parameters are this kernel's and that their addresses are valid.
            if !unsafe { host(&name, blocks, grid.threads as u32, grid.shared, params) } {
                bail!("no kernel {name:?}");
            }
            Ok(())
        }
        #[cfg(feature = "cuda")]
        // SAFETY: the caller promises that the parameters are this kernel's and that their addresses are valid.
        Place::Gpu(device) => unsafe { super::modules::launch(device, name, dtype, blocks, &grid, params) },
    }
}
