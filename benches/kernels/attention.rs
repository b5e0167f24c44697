//! Attention, without a bias and with one, beside its two products alone, done head by head on all cores.

use criterion::{BenchmarkId, Criterion, Throughput};
use polyrank::ops::{self, Heads};
use polyrank::params::Backend;
use rand::rngs::StdRng;
use rayon::prelude::*;

use crate::common::product::{Size, Weight, product};
use crate::common::{Failure, random};

const HEADS: usize = 12;
/// Width of a head.
const WIDTH: usize = 32;
/// (texts, tokens of each).
const BATCHES: [(usize, usize); 3] = [(1, 24), (85, 24), (4, 512)];

pub(crate) fn bench(criterion: &mut Criterion, rng: &mut StdRng) -> Result<(), Failure> {
    let ops = ops::of(&Backend::cpu());
    let mut group = criterion.benchmark_group("attention");
    for (texts, len) in BATCHES {
        let name = format!("{texts}x{len}");
        let (scores, mixed) = (Size { m: len, n: len, k: WIDTH }, Size { m: len, n: WIDTH, k: len });
        group.throughput(Throughput::Elements((scores.flops() + mixed.flops()) * (texts * HEADS) as u64));
        let mut operand = || random::tensor(&[texts * len, HEADS * WIDTH], rng);
        let (q, k, v) = (operand()?, operand()?, operand()?);
        let offsets: Vec<usize> = (0..=texts).map(|text| text * len).collect();
        let scale = 1.0 / (WIDTH as f64).sqrt();
        let heads = Heads { offsets: &offsets, heads: HEADS, scale, window: None, bias: None, dropout: None };
        let bias = random::tensor(&[HEADS, 2 * len - 1], rng)?;
        let biased = Heads { bias: Some(&bias), ..heads.clone() };
        for (kind, heads) in [("polyrank", heads), ("biased", biased)] {
            ops.attention([&q, &k, &v], &heads)?;
            let run = |bench: &mut criterion::Bencher| bench.iter(|| ops.attention([&q, &k, &v], &heads));
            group.bench_function(BenchmarkId::new(kind, &name), run);
        }

        let (q, kv) = (random::values(len * WIDTH, rng), random::values(len * WIDTH, rng));
        let floor = |bench: &mut criterion::Bencher| {
            bench.iter(|| {
                (0..texts * HEADS).into_par_iter().for_each_init(
                    || (vec![0.0; len * len], vec![0.0; len * WIDTH]),
                    |(weights, out), _| {
                        product(weights, &q, (&kv, Weight::AsStored), scores, 1);
                        product(out, weights, (&kv, Weight::Transposed), mixed, 1);
                    },
                );
            });
        };
        group.bench_function(BenchmarkId::new("gemm", &name), floor);
    }
    group.finish();
    Ok(())
}
