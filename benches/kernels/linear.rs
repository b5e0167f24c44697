//! The linear beside the bare product at the same shapes.

use criterion::{BenchmarkId, Criterion, Throughput};
use polyrank::kernel;
use rand::rngs::StdRng;

use crate::common::product::{Size, Weight, product};
use crate::common::{Failure, random};
use crate::frozen;

/// (in, out) of the default base's linears.
const SHAPES: [(usize, usize); 3] = [(384, 384), (384, 1536), (1536, 384)];
/// A text alone, a pass, a batch.
const TOKENS: [usize; 3] = [24, 256, 2048];

pub(crate) fn bench(criterion: &mut Criterion, rng: &mut StdRng) -> Result<(), Failure> {
    for (k, n) in SHAPES {
        let mut group = criterion.benchmark_group(format!("linear/{k}x{n}"));
        let [w, b] = frozen::parameters([&[n, k], &[n]], rng)?;
        let bare = random::values(n * k, rng);
        for m in TOKENS {
            let size = Size { m, n, k };
            group.throughput(Throughput::Elements(size.flops()));
            let x = random::tensor(&[m, k], rng)?;
            kernel::linear(&x, &w, &b)?;
            group.bench_function(BenchmarkId::new("polyrank", m), |bench| bench.iter(|| kernel::linear(&x, &w, &b)));
            let (x, mut y) = (x.flatten_all()?.to_vec1::<f32>()?, vec![0.0; m * n]);
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
