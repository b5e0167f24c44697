//! The device's memory, as the driver counts it.

use std::process::Command;

use candle_core::DeviceLocation;
use polyrank::adapter::Adapter;

use crate::common::Failure;
use crate::options::World;

/// Bytes of the device's memory in use; `None` on the CPU, and where the driver does not tell, as on a part of a GPU. The driver counts
/// whole MiB.
pub(crate) fn used(world: &World) -> Result<Option<usize>, Failure> {
    if world.backend.device().is_cpu() {
        return Ok(None);
    }
    world.backend.device().synchronize()?;
    let DeviceLocation::Cuda { gpu_id } = world.backend.device().location() else { return Ok(None) };
    let id = format!("--id={gpu_id}");
    let asked = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", &id];
    let told = Command::new("nvidia-smi").args(asked).output()?;
    let told = String::from_utf8_lossy(&told.stdout).trim().to_owned();
    let mib = told.parse::<usize>();
    if mib.is_err() {
        eprintln!("nvidia-smi tells no memory: {told:?}");
    }
    Ok(mib.ok().map(|mib| mib << 20))
}

/// What an adapter should take: the sum of r (in + out), and the head, in the type of the activations.
pub(crate) fn expected(world: &World, adapter: &Adapter) -> usize {
    let layout = world.engine.layout();
    let deltas: usize = layout
        .sites()
        .map(|site| {
            let module = layout.module(site);
            adapter.rank(layout.index(site)) * (module.in_features + module.out_features)
        })
        .sum();
    // Heads are f32 on every device.
    let head: usize = adapter.weights.head.values().map(|tensor| 4 * tensor.elem_count()).sum();
    deltas * world.backend.dtype().size_in_bytes() + head
}
