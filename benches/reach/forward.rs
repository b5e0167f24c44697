//! The whole forward's rate against the best bare f32 product at the same shapes: the `gemm` crate's, or the prepacked one.
//!
//! Only the linears' operations are counted (2 a parameter and token), so whatever else the forward does counts as time lost.

use std::collections::VecDeque;

use polyrank::engine::{Engine, Row};
use polyrank::params::{Layout, Precision, Prepacked};
use polyrank::scheduler;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::base;
use crate::common::product::{Size, Weight, product};
use crate::common::{Failure, random};
use crate::rounds::{Job, medians};

const TEXTS: usize = 1024;
const ADAPTERS: usize = 16;
const BATCH_TOKENS: usize = 2048;
/// Rows of x that the bare products are tried with, on each core by itself.
const PASSES: [usize; 4] = [128, 256, 512, 1024];

pub(crate) fn print() -> Result<(), Failure> {
    let (engine, mut rng) = (base::open()?, StdRng::seed_from_u64(1));
    let layout = engine.layout();
    let ragged = base::ragged(layout);
    let adapters = (0..ADAPTERS).map(|_| base::adapter(layout, &mut rng, &ragged)).collect::<Result<Vec<_>, _>>()?;
    let bare = [base::bare(layout, &mut rng)?];
    let texts = base::texts(&engine, TEXTS, &mut rng);
    let (mixed, alone) = (batches(base::rows(&texts, &adapters)), batches(base::rows(&texts, &bare)));
    let tokens: usize = mixed.iter().map(|rows| base::tokens(rows)).sum();
    let flops = engine.linear_flops(TEXTS, tokens);

    let floors = floors(layout, &mut rng)?;
    let mut jobs: Vec<Job> = vec![Box::new(|| answer(&engine, &mixed)), Box::new(|| answer(&engine, &alone))];
    for floor in &floors {
        jobs.push(Box::new(|| {
            floor.run();
            Ok(())
        }));
    }
    let times = medians(&mut jobs)?;
    let best = floors.iter().zip(&times[2..]).map(|(floor, time)| (floor.flops() / time, floor));
    let Some((best, floor)) = best.max_by(|(a, _), (b, _)| a.total_cmp(b)) else { return Err("no floor".into()) };

    println!("{TEXTS} texts, {tokens} tokens; the best product: {}", floor.name());
    println!("\n| f32 | GFLOP/s | of the best product | at least | stretch |\n| --- | --- | --- | --- | --- |");
    println!("| the best product | {:.1} | | | |", best / 1e9);
    let whole =
        [(format!("the forward, {ADAPTERS} adapters mixed"), times[0]), ("the forward, base alone".into(), times[1])];
    for (what, time) in whole {
        println!("| {what} | {:.1} | {:.0} % | 80 % | 90 % |", flops / time / 1e9, 100.0 * flops / time / best);
    }
    Ok(())
}

/// Batches as the scheduler takes them.
fn batches(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let (mut waiting, mut batches) = (VecDeque::from(rows), Vec::new());
    while !waiting.is_empty() {
        batches.push(scheduler::take(&mut waiting, BATCH_TOKENS, |row| row.text.ids.len()));
    }
    batches
}

fn answer(engine: &Engine, batches: &[Vec<Row>]) -> Result<(), Failure> {
    batches.iter().try_for_each(|rows| engine.logits(rows).map(drop).map_err(Failure::from))
}

/// The products of one layer, over and over.
struct Floor {
    product: Product,
    /// Rows of x.
    m: usize,
    /// Groups of cores that run the products side by side; one runs a product at a time on all of them.
    pools: Vec<ThreadPool>,
    linears: Vec<Linear>,
}

#[derive(Clone, Copy, Debug)]
enum Product {
    Gemm(Weight),
    Prepacked,
}

/// A weight with its (in, out) and an input.
struct Linear {
    shape: (usize, usize),
    w: Vec<f32>,
    prepacked: Prepacked,
    x: Vec<f32>,
}

/// Rows that a call of a floor takes through the layer on each core: so many that starting threads does not show.
const ROWS: usize = 2048;

fn floors(layout: &Layout, rng: &mut StdRng) -> Result<Vec<Floor>, Failure> {
    let cores = rayon::current_num_threads();
    let shapes: Vec<_> = layout.modules.iter().map(|module| (module.in_features, module.out_features)).collect();
    let mut floors = Vec::new();
    for product in [Product::Gemm(Weight::AsStored), Product::Gemm(Weight::Transposed), Product::Prepacked] {
        let tried = PASSES.map(|m| (m, cores)).into_iter().chain([(BATCH_TOKENS, 1)]);
        for (m, side_by_side) in tried {
            let linear = |&(k, n): &(usize, usize)| {
                let (w, x) = (random::values(k * n, rng), random::values(m * k, rng));
                Linear { shape: (k, n), prepacked: Prepacked::new(&w, n, k, Precision::F32), w, x }
            };
            let linears = shapes.iter().map(linear).collect();
            let pool = |_| ThreadPoolBuilder::new().num_threads(cores / side_by_side).build();
            floors.push(Floor { product, m, pools: (0..side_by_side).map(pool).collect::<Result<_, _>>()?, linears });
        }
    }
    Ok(floors)
}

impl Floor {
    fn name(&self) -> String {
        let Self { product, m, pools, .. } = self;
        format!("{product:?}, {m} rows, {} side by side", pools.len())
    }

    fn flops(&self) -> f64 {
        let layer: u64 = self.linears.iter().map(|linear| self.size(linear).flops()).sum();
        (layer * (self.layers() * self.pools.len()) as u64) as f64
    }

    /// How often a call runs the layer.
    fn layers(&self) -> usize {
        ROWS.div_ceil(self.m)
    }

    fn size(&self, linear: &Linear) -> Size {
        Size { m: self.m, n: linear.shape.1, k: linear.shape.0 }
    }

    fn run(&self) {
        let layers = || {
            let widest = self.linears.iter().map(|linear| linear.shape.1).max().unwrap_or(0);
            let mut y = vec![0.0; self.m * widest];
            for linear in (0..self.layers()).flat_map(|_| &self.linears) {
                let size = self.size(linear);
                match self.product {
                    Product::Gemm(weight) => {
                        let y = &mut y[..size.m * size.n];
                        product(y, &linear.x, (&linear.w, weight), size, rayon::current_num_threads());
                    }
                    Product::Prepacked => drop(std::hint::black_box(linear.prepacked.apply(&linear.x, None))),
                }
            }
        };
        std::thread::scope(|scope| {
            for pool in &self.pools {
                scope.spawn(|| pool.install(layers));
            }
        });
    }
}
