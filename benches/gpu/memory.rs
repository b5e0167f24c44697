//! The device's memory, as the driver counts it.

use std::process::Command;

use polyrank::adapter::Adapter;

use crate::common::Failure;
use crate::options::World;

/// Bytes of the device's memory in use; `None` on the CPU. The driver counts whole MiB.
pub(crate) fn used(world: &World) -> Result<Option<usize>, Failure> {
    if world.backend.device().is_cpu() {
        return Ok(None);
    }
    world.backend.device().synchronize()?;
    let asked = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];
    let told = Command::new("nvidia-smi").args(asked).output()?;
    let told = String::from_utf8(told.stdout)?;
    let mib: usize = told.trim().parse().map_err(|_| format!("nvidia-smi: {told:?}"))?;
    Ok(Some(mib << 20))
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
