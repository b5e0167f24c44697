//! Whether a ragged delta costs what it must: time = c0 rows + c1 sum of r rows, for adapters of rank 2 with and without some of rank
//! 64 among them, and for all of rank 64.

use std::hint::black_box;

use candle_core::{Device, Tensor};
use polyrank::ops::{self, Segment};
use polyrank::params::Delta;
use rand::rngs::StdRng;
use serde_json::json;

use crate::common::fit::least_squares;
use crate::common::{Failure, random};
use crate::options::{World, seeded};
use crate::rounds::{Job, measure as rounds, percentile};

const NARROW: usize = 2;
const WIDE: usize = 64;
/// Calls for each synchronisation.
const CALLS: usize = 8;

/// A batch with as many rows for each adapter.
struct Mix {
    x: Tensor,
    y: Tensor,
    rows: usize,
    deltas: Vec<Delta>,
}

impl Mix {
    fn new(world: &World, rows: usize, ranks: &[usize], rng: &mut StdRng) -> Result<Self, Failure> {
        let hidden = world.engine.config().hidden_size;
        let on_device = |tensor: Tensor| tensor.to_device(world.backend.device());
        let delta = |&rank: &usize| -> candle_core::Result<Delta> {
            let Delta { a, b, scale } = random::delta((hidden, hidden), rank, rng)?;
            let dtype = world.backend.dtype();
            // B lies by ranks, as adapters are read.
            Ok(Delta { a: on_device(a.to_dtype(dtype)?)?, b: on_device(b.t()?.to_dtype(dtype)?)?.t()?, scale })
        };
        let deltas = ranks.iter().map(delta).collect::<Result<Vec<_>, _>>()?;
        let shape = (rows * ranks.len(), hidden);
        let tensor = || Tensor::rand(-1f32, 1.0, shape, &Device::Cpu)?.to_dtype(world.backend.dtype());
        Ok(Self { x: on_device(tensor()?)?, y: on_device(tensor()?)?, rows, deltas })
    }

    /// All rows, and the sum of ranks over them.
    fn terms(&self) -> [f64; 2] {
        let ranks: usize = self.deltas.iter().map(Delta::rank).sum();
        [(self.rows * self.deltas.len()) as f64, (self.rows * ranks) as f64]
    }

    fn job<'a>(&'a self, world: &'a World) -> Job<'a> {
        let segment = |(i, delta)| Segment { rows: i * self.rows..(i + 1) * self.rows, delta };
        let segments: Vec<Segment> = self.deltas.iter().enumerate().map(segment).collect();
        let ops = ops::of(&world.backend);
        Box::new(move || {
            for _ in 0..CALLS {
                black_box(ops.add_segments(&self.x, &self.y, &segments)?);
            }
            Ok(world.backend.device().synchronize()?)
        })
    }
}

/// The delta at one linear, hidden to hidden, for mixes of ranks.
pub(crate) fn measure(world: &World) -> Result<(), Failure> {
    let (mut rng, adapters) = (seeded(7), world.options.adapters.max(2));
    let rows = (world.options.texts * 128).div_ceil(adapters);
    let mut mixes = Vec::new();
    for rows in [rows, rows.div_ceil(2)] {
        for wide in [0, 1, adapters / 4, adapters / 2, adapters] {
            let ranks: Vec<usize> = (0..adapters).map(|i| if i < wide { WIDE } else { NARROW }).collect();
            mixes.push(Mix::new(world, rows, &ranks, &mut rng)?);
        }
    }
    let times = rounds(&mut mixes.iter().map(|mix| mix.job(world)).collect::<Vec<_>>(), world.budget())?;
    let times: Vec<f64> = times.iter().map(|times| percentile(times, 50) / CALLS as f64).collect();
    let points = || mixes.iter().map(Mix::terms).zip(times.iter().copied());
    let [c0, c1] = least_squares(points()).ok_or("the batches do not tell the two terms apart")?;
    let off = |([a, b], time): ([f64; 2], f64)| (c0 * a + c1 * b) / time - 1.0;
    let worst = points().map(off).fold(0.0, |worst: f64, off| worst.max(off.abs()));
    let us: Vec<f64> = times.iter().map(|time| time * 1e6).collect();
    world.tell(
        "delta",
        json!({
            "adapters": adapters, "us": us, "off": points().map(off).collect::<Vec<_>>(), "worst": worst,
            "c0_ns": c0 * 1e9, "c1_ns": c1 * 1e9, "one_wide_of_all_wide": times[1] / times[4],
        }),
    );
    Ok(())
}
