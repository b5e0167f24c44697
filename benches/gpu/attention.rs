//! DeBERTa's attention alone, as v3's base has it.

use std::hint::black_box;

use candle_core::{Device, Tensor};
use polyrank::ops::{self, Disentangled, TextPositions};
use serde_json::json;

use crate::common::Failure;
use crate::options::World;
use crate::rounds::{Job, measure as rounds, percentile};

const HIDDEN: usize = 768;
const HEADS: usize = 12;
/// The buckets of distances on either side.
const BUCKETS: isize = 256;
/// The longest distance with a bucket.
const LONGEST: f64 = 512.0;
/// Calls for each synchronisation.
const CALLS: usize = 4;

/// The row of a distance among the `2 * BUCKETS` rows of positions: exact near 0, in steps that grow with the logarithm beyond.
fn row(distance: isize) -> usize {
    let (mid, far) = (BUCKETS / 2, distance.unsigned_abs() as f64);
    let bucket = if distance.abs() < mid {
        distance
    } else {
        let mid = mid as f64;
        let steps = ((far / mid).ln() / ((LONGEST - 1.0) / mid).ln() * (mid - 1.0)).ceil() + mid;
        distance.signum() * steps as isize
    };
    (bucket + BUCKETS).clamp(0, 2 * BUCKETS - 1) as usize
}

/// A batch of texts of 128 tokens.
pub(crate) fn measure(world: &World) -> Result<(), Failure> {
    let (texts, length) = (world.options.texts, 128usize);
    let tensor = |rows: usize| -> candle_core::Result<Tensor> {
        let tensor = Tensor::rand(-1f32, 1.0, (rows, HIDDEN), &Device::Cpu)?;
        tensor.to_dtype(world.backend.dtype())?.to_device(world.backend.device())
    };
    let rows = 2 * BUCKETS as usize;
    let qkv = [tensor(texts * length)?, tensor(texts * length)?, tensor(texts * length)?];
    let positions = tensor(2 * rows)?;
    let how = Disentangled {
        offsets: (0..=texts).map(|text| text * length).collect(),
        heads: HEADS,
        scale: 1.0 / (3.0 * (HIDDEN / HEADS) as f64).sqrt(),
        texts: vec![TextPositions { keys: Some(0), queries: Some(rows) }; texts],
        distances: (1 - length as isize..length as isize).map(row).collect(),
        rows,
    };
    let ops = ops::of(&world.backend);
    let job: Job = Box::new(|| {
        let [q, k, v] = &qkv;
        for _ in 0..CALLS {
            black_box(ops.disentangled_attention([q, k, v], &positions, &how, None)?);
        }
        Ok(world.backend.device().synchronize()?)
    });
    let times = rounds(&mut [job], world.budget())?;
    let seconds = percentile(&times[0], 50) / CALLS as f64;
    world.tell("attention", json!({"texts": texts, "tokens": texts * length, "seconds": seconds}));
    Ok(())
}
