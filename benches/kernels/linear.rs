//! The prepacked linear in each precision beside the bare f32 product at the same shapes.

use criterion::{BenchmarkId, Criterion, Throughput};
use polyrank::params::{Precision, Prepacked};
use rand::rngs::StdRng;

use crate::common::product::{Size, Weight, product};
use crate::common::{Failure, random};

/// (in, out) of the default base's linears.
const SHAPES: [(usize, usize); 3] = [(384, 384), (384, 1536), (1536, 384)];
/// A text alone, a pass, a batch.
const TOKENS: [usize; 3] = [24, 256, 2048];

pub(crate) fn bench(criterion: &mut Criterion, rng: &mut StdRng) -> Result<(), Failure> {
    for (k, n) in SHAPES {
        let mut group = criterion.benchmark_group(format!("linear/{k}x{n}"));
        let (bare, bias) = (random::values(n * k, rng), random::values(n, rng));
        let packed = [Precision::F32, Precision::Bf16, Precision::Int8].map(|p| Prepacked::new(&bare, n, k, p));
        for m in TOKENS {
            let size = Size { m, n, k };
            group.throughput(Throughput::Elements(size.flops()));
            let (x, mut y) = (random::values(m * k, rng), vec![0.0; m * n]);
            for weight in &packed {
                let id = BenchmarkId::new(format!("polyrank {}", weight.precision()), m);
                group.bench_function(id, |bench| bench.iter(|| weight.apply(&x, Some(&bias))));
            }
            for weight in [Weight::AsStored, Weight::Transposed] {
                let run = |bench: &mut criterion::Bencher| {
                    bench.iter(|| product(&mut y, &x, (&bare, weight), size, rayon::current_num_threads()));
                };
                group.bench_function(BenchmarkId::new(format!("gemm {weight:?}"), m), run);
            }
        }
        group.finish();
    }
    Ok(())
}
