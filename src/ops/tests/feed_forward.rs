//! Feed-forward blocks of many adapters, whose kernel runs from 2,112 rows on.

use super::*;

/// A segment's rows, and its inner and outer rank.
type Run = (usize, usize, usize);

/// The deltas of runs for linears of `[width, out]`, where the rank is not 0.
fn deltas(
    runs: &[Run],
    rank: impl Fn(&Run) -> usize,
    (width, out): (usize, usize),
    seed: u64,
) -> Vec<(std::ops::Range<usize>, Delta)> {
    let mut start = 0;
    let mut all = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let (rank, seed) = (rank(run), seed ^ (i as u64) << 8);
        let delta = |rank: usize| Delta {
            a: tensor(seed, &[rank, width]),
            b: tensor(seed ^ 1, &[rank, out]).t().unwrap(),
            scale: 0.5 / rank as f64,
        };
        if rank > 0 {
            all.push((start..start + run.0, delta(rank)));
        }
        start += run.0;
    }
    all
}

fn added(deltas: &[(std::ops::Range<usize>, Delta)]) -> Added<'_> {
    Added::Segments(deltas.iter().map(|(rows, delta)| Segment { rows: rows.clone(), delta }).collect())
}

/// Weights, biases and deltas of a block.
struct Block {
    weights: [Param; 2],
    biases: [Param; 2],
    inner: Vec<(std::ops::Range<usize>, Delta)>,
    outer: Vec<(std::ops::Range<usize>, Delta)>,
}

impl Block {
    fn new(runs: &[Run], [width, middle, out]: [usize; 3], seed: u64) -> Self {
        Self {
            weights: [frozen(seed ^ 2, &[middle, width]), frozen(seed ^ 3, &[out, middle])],
            biases: [frozen(seed ^ 4, &[middle]), frozen(seed ^ 5, &[out])],
            inner: deltas(runs, |run| run.1, (width, middle), seed ^ 6),
            outer: deltas(runs, |run| run.2, (middle, out), seed ^ 7),
        }
    }

    fn linears(&self) -> [Linear<'_>; 2] {
        let of = |i: usize, added, gelu| Linear {
            weight: self.weights[i].clone(),
            bias: self.biases[i].clone(),
            added,
            gelu,
        };
        [of(0, added(&self.inner), true), of(1, added(&self.outer), false)]
    }

    fn run(&self, ops: &dyn Ops, x: &Tensor) -> Tensor {
        let [inner, outer] = self.linears();
        ops.feed_forward(x, &inner, &outer).unwrap()
    }
}

/// Runs of at least 2,112 rows in total, with ranks on both sides of a tile, of 24 and of 0.
fn runs() -> impl Strategy<Value = Vec<Run>> {
    let rank = || prop_oneof![Just(0), 1usize..10, 10usize..30];
    prop::collection::vec((1usize..400, rank(), rank()), 4..9).prop_map(|mut runs| {
        let rows: usize = runs.iter().map(|run| run.0).sum();
        runs.push((2112_usize.saturating_sub(rows).max(7), 5, 0));
        runs
    })
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn block_matches_reference(runs in runs(), (width, middle, out) in (1usize..9, 1usize..9, 1usize..9), seed: u64) {
        let rows = runs.iter().map(|run| run.0).sum();
        let (block, x) = (Block::new(&runs, [8 * width, 32 * middle, 8 * out], seed), tensor(seed, &[rows, 8 * width]));
        let reference = block.run(&Reference, &x);
        let largest = reference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        for ops in [&Cpu as &dyn Ops, cuda()] {
            let worst = max_difference(&block.run(ops, &x), &reference);
            prop_assert!(worst <= 2e-5 * largest.max(1.0), "{ops:?}: off by {worst} of {largest}");
        }
    }
}

/// The same rows in another batch, with tiles of another height, give the same bits.
#[test]
fn neighbours_and_the_height_of_tiles_do_not_change_bits_on_a_gpu() {
    let sizes = [16, 96, 24];
    let few = [(100, 3, 17), (2100, 9, 8), (9, 0, 24)];
    let many: Vec<Run> = few.into_iter().chain([(7000, 4, 0), (13, 0, 1)]).collect();
    let (small, large) = (Block::new(&few, sizes, 1), Block::new(&many, sizes, 1));
    let x = tensor(3, &[many.iter().map(|run| run.0).sum(), sizes[0]]);
    let first = x.narrow(0, 0, 2209).unwrap();
    let (alone, beside) = (small.run(cuda(), &first), large.run(cuda(), &x));
    assert_eq!(bits(&alone), bits(&beside.narrow(0, 0, 2209).unwrap()));
}

/// Rows without a delta are bit-identical to the base's, for which there is no such kernel.
#[test]
fn rows_without_deltas_are_bit_identical_to_the_base_on_a_gpu() {
    let block = Block::new(&[(40, 3, 2), (2100, 0, 0), (20, 30, 30)], [24, 64, 16], 5);
    let x = tensor(6, &[2160, 24]);
    let [inner, outer] = block.linears().map(|linear| Linear { added: Added::Nothing, ..linear });
    let bare = cuda().feed_forward(&x, &inner, &outer).unwrap();
    let part = |y: &Tensor| bits(&y.narrow(0, 40, 2100).unwrap());
    assert_eq!(part(&block.run(cuda(), &x)), part(&bare));
}

/// Many bands travel in a table.
#[test]
fn many_adapters_match_reference_on_a_gpu() {
    let runs: Vec<Run> = (0..90).map(|i| (24, i % 5, 1 + i % 26)).collect();
    let block = Block::new(&runs, [16, 64, 16], 7);
    let x = tensor(8, &[24 * 90, 16]);
    let reference = block.run(&Reference, &x);
    assert!(max_difference(&block.run(cuda(), &x), &reference) <= 1e-4);
    for dtype in [DType::BF16, DType::F16] {
        let converted = |t: &Tensor| t.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        let mut rounded = Block::new(&runs, [16, 64, 16], 7);
        for (_, delta) in rounded.inner.iter_mut().chain(&mut rounded.outer) {
            *delta = Delta { a: converted(&delta.a), b: converted(&delta.b), scale: delta.scale };
        }
        rounded.weights = rounded.weights.map(|weight| {
            let data = converted(&weight.tensor().unwrap());
            Param::Frozen(Frozen::host("w", data.dims(), data.flatten_all().unwrap().to_vec1().unwrap()))
        });
        same_rounded(dtype, std::slice::from_ref(&x), 0.03, |ops, inputs| rounded.run(ops, &inputs[0]));
    }
}

/// A width that bands cannot have, and one linear's trained delta, take separate launches.
#[test]
fn other_blocks_match_reference_on_a_gpu() {
    let block = Block::new(&[(2200, 3, 4)], [8, 40, 8], 9);
    let x = tensor(10, &[2200, 8]);
    assert!(max_difference(&block.run(cuda(), &x), &block.run(&Reference, &x)) <= 1e-4);
    let (block, x) = (Block::new(&[(2200, 3, 4)], [8, 32, 8], 11), var(12, &[2200, 8]));
    let run = |ops: &dyn Ops| block.run(ops, &x);
    same(&run(cuda()), &run(&Reference), &[&x], 2e-3);
}
