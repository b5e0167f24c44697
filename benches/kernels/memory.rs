//! What moves more than it computes, beside a plain copy of as many bytes on all cores.

use candle_core::{Device, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use polyrank::ops::{self, Norm};
use polyrank::params::{Backend, Param};
use rand::Rng;
use rand::rngs::StdRng;
use rayon::prelude::*;

use crate::common::{Failure, random};
use crate::frozen;

const HIDDEN: usize = 384;
const WIDE: usize = 1536;
const WORDS: usize = 30_522;
const POSITIONS: usize = 512;
/// A text alone, a pass, a batch.
const TOKENS: [usize; 3] = [24, 256, 2048];

pub(crate) fn bench(criterion: &mut Criterion, rng: &mut StdRng) -> std::result::Result<(), Failure> {
    let [w, b, words, positions] =
        frozen::parameters([&[HIDDEN], &[HIDDEN], &[WORDS, HIDDEN], &[POSITIONS, HIDDEN]], rng)?;
    let ops = ops::of(&Backend::cpu());
    let norm = Norm { weight: &w, bias: &b, eps: 1e-12 };
    for tokens in TOKENS {
        let (h, residual) = (random::tensor(&[tokens, HIDDEN], rng)?, random::tensor(&[tokens, HIDDEN], rng)?);
        let wide = random::tensor(&[tokens, WIDE], rng)?;
        // Two inputs and an output.
        beside_copy(criterion, "norm", tokens, 3 * tokens * HIDDEN, rng, || ops.norm(&h, Some(&residual), &norm))?;
        beside_copy(criterion, "gelu", tokens, 2 * tokens * WIDE, rng, || ops.gelu(&wide))?;
        let ids: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..WORDS as u32)).collect();
        let places: Vec<u32> = (0..tokens).map(|token| (token % POSITIONS) as u32).collect();
        let tables: [(&Param, &[u32]); 2] = [(&words, &ids), (&positions, &places)];
        beside_copy(criterion, "embed", tokens, 3 * tokens * HIDDEN, rng, || ops.embed(&tables, &Device::Cpu))?;
    }
    Ok(())
}

/// Measures `op`, which reads and writes `moved` numbers in all, and a copy of half as many, which moves the same.
fn beside_copy(
    criterion: &mut Criterion,
    name: &str,
    tokens: usize,
    moved: usize,
    rng: &mut StdRng,
    op: impl Fn() -> Result<Tensor>,
) -> Result<()> {
    /// Numbers that one task copies.
    const CHUNK: usize = 8192;
    op()?;
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes((size_of::<f32>() * moved) as u64));
    group.bench_function(BenchmarkId::new("polyrank", tokens), |bench| bench.iter(&op));
    let source = random::values(moved / 2, rng);
    let mut target = vec![0.0; source.len()];
    let copy = |bench: &mut criterion::Bencher| {
        bench.iter(|| {
            target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
        });
    };
    group.bench_function(BenchmarkId::new("copy", tokens), copy);
    group.finish();
    Ok(())
}
