//! The ragged delta over popularity x rank pattern x batch size, each with its control: every rank padded to the batch's largest.
//!
//! Rates are of the true work, so a control's shows what padding costs.

use std::ops::Range;

use criterion::{BenchmarkId, Criterion, Throughput};
use polyrank::ops::{self, Segment};
use polyrank::params::{Backend, Delta};
use rand::Rng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;

use crate::common::{Failure, random};

const WIDTH: usize = 384;
/// Tokens of a text.
const TOKENS: usize = 24;
/// Texts of a batch.
const BATCHES: [usize; 3] = [1, 8, 32];
const POPULARITIES: [&str; 5] = ["distinct", "uniform", "zipf", "identical", "skewed"];
const PATTERNS: [&str; 3] = ["uniform8", "ragged", "wide"];

/// How many of `texts` each adapter gets.
fn popularity(name: &str, texts: usize, rng: &mut StdRng) -> Result<Vec<usize>, Failure> {
    let mut counts = vec![0; texts];
    match name {
        "identical" => counts[0] = texts,
        // As many adapters as texts of each.
        "uniform" => (0..texts).for_each(|text| counts[text % texts.isqrt()] += 1),
        "zipf" => {
            let draw = WeightedIndex::new((1..=texts).map(|adapter| 1.0 / adapter as f64))?;
            (0..texts).for_each(|_| counts[draw.sample(rng)] += 1);
        }
        // Half of all texts on one adapter, a text on each of the others.
        "skewed" => {
            counts = vec![1; texts / 2];
            counts.push(texts - texts / 2);
        }
        _ => counts.fill(1),
    }
    counts.retain(|&count| count > 0);
    Ok(counts)
}

/// The rank of each adapter.
fn ranks(pattern: &str, adapters: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut rank = |adapter| match pattern {
        "uniform8" => 8,
        "ragged" => rng.random_range(0..=8),
        _ if adapter == 0 => 64,
        _ => 2,
    };
    (0..adapters).map(&mut rank).collect()
}

/// A batch's deltas and the rows that each gets.
struct Batch {
    parts: Vec<(Range<usize>, Delta)>,
    rows: usize,
}

impl Batch {
    fn new(counts: &[usize], ranks: &[usize], rng: &mut StdRng) -> Result<Self, Failure> {
        let (mut parts, mut rows) = (Vec::with_capacity(counts.len()), 0);
        for (count, &rank) in counts.iter().zip(ranks) {
            let span = rows..rows + count * TOKENS;
            rows = span.end;
            if rank > 0 {
                parts.push((span, random::delta((WIDTH, WIDTH), rank, rng)?));
            }
        }
        Ok(Self { parts, rows })
    }

    /// Floating-point operations of both products.
    fn flops(&self) -> u64 {
        self.parts.iter().map(|(rows, delta)| 2 * (rows.len() * delta.parameters()) as u64).sum()
    }

    fn segments(&self) -> Vec<Segment<'_>> {
        self.parts.iter().map(|(rows, delta)| Segment { rows: rows.clone(), delta }).collect()
    }
}

pub(crate) fn bench(criterion: &mut Criterion, rng: &mut StdRng) -> Result<(), Failure> {
    let ops = ops::of(&Backend::cpu());
    for pattern in PATTERNS {
        for name in POPULARITIES {
            let mut group = criterion.benchmark_group(format!("delta/{pattern}/{name}"));
            for texts in BATCHES {
                let counts = popularity(name, texts, rng)?;
                let ranks = ranks(pattern, counts.len(), rng);
                let padded = vec![ranks.iter().copied().max().unwrap_or(0); counts.len()];
                let (batch, control) = (Batch::new(&counts, &ranks, rng)?, Batch::new(&counts, &padded, rng)?);
                let (x, y) = (random::tensor(&[batch.rows, WIDTH], rng)?, random::tensor(&[batch.rows, WIDTH], rng)?);
                group.throughput(Throughput::Elements(batch.flops().max(1)));
                for (kind, batch) in [("true", &batch), ("padded", &control)] {
                    let segments = batch.segments();
                    ops.add_segments(&x, &y, &segments)?;
                    let run = |b: &mut criterion::Bencher| b.iter(|| ops.add_segments(&x, &y, &segments));
                    group.bench_function(BenchmarkId::new(kind, texts), run);
                }
            }
            group.finish();
        }
    }
    Ok(())
}
