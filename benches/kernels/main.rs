//! Each kernel against its floor, and the ragged delta over all kinds of batches.
//!
//! `cargo bench --bench kernels -- [FILTER]`; names begin with `delta`, `linear`, `attention`, `norm`, `gelu` or `embed`. What
//! multiplies tells floating-point operations a second ("elem/s"), what moves memory tells bytes.

mod attention;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "the benches share these tools, and this one does not use all of them")]
mod common;
mod delta;
mod frozen;
mod linear;
mod memory;

use std::time::Duration;

use criterion::Criterion;
use rand::SeedableRng;
use rand::rngs::StdRng;

use common::Failure;

fn main() -> Result<(), Failure> {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    let mut rng = StdRng::seed_from_u64(0);
    delta::bench(&mut criterion, &mut rng)?;
    linear::bench(&mut criterion, &mut rng)?;
    attention::bench(&mut criterion, &mut rng)?;
    memory::bench(&mut criterion, &mut rng)?;
    criterion.final_summary();
    Ok(())
}
