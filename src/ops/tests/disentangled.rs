//! DeBERTa's attention.

use super::*;
use crate::ops::disentangled;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn disentangled_scores_match_reference(
        offsets in spans(), heads in 1usize..4, size in 1usize..9, rows in 1usize..7, sides in prop::collection::vec(0usize..4, 6),
        seed: u64,
    ) {
        let shape = [*offsets.last().unwrap(), heads * size];
        let (q, k, p) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &[3 * rows, heads * size]));
        let texts = sides.iter().take(offsets.len() - 1).enumerate().map(|(i, sides)| TextPositions {
            keys: (sides & 1 == 0).then_some(i % 3 * rows),
            queries: (sides & 2 == 0).then_some((i + 1) % 3 * rows),
        });
        let distances = (0..39).map(|d| d * rows / 39).collect();
        let how = Disentangled { texts: texts.collect(), offsets, heads, scale: 0.6, distances, rows };
        let reference = disentangled::scores_reference(&q, &k, &p, &how).unwrap();
        let scores = disentangled::scores(&q, &k, &p, &how).unwrap();
        prop_assert!(max_difference(&scores, &reference) <= 2e-5);
        // If no text uses positions on a side, their gradient is absent.
        let zeros = |gradient: Option<&Tensor>| gradient.cloned().unwrap_or_else(|| p.zeros_like().unwrap());
        let weighting = Tensor::from_vec(random(99, scores.dims()), scores.dims(), CPU).unwrap();
        let gradients = |y: &Tensor| (y * &weighting).unwrap().sum_all().unwrap().backward().unwrap();
        let (ours, theirs) = (gradients(&scores), gradients(&reference));
        for var in [&q, &k] {
            prop_assert!(max_difference(ours.get(var).unwrap(), theirs.get(var).unwrap()) <= 1e-4);
        }
        prop_assert!(max_difference(&zeros(ours.get(&p)), &zeros(theirs.get(&p))) <= 1e-4);
    }

    #[test]
    fn disentangled_attention_matches_reference(
        lengths in lengths(), heads in 1usize..4, size in 1usize..=80, rows in 1usize..40,
        sides in prop::collection::vec(0usize..4, 4), seed: u64,
    ) {
        let offsets = offsets_of(&lengths);
        let random = |seed, shape: &[usize]| Tensor::from_vec(random(seed, shape), shape, CPU).unwrap();
        let shape = [*offsets.last().unwrap(), heads * size];
        let [q, k, v] = [0, 1, 2].map(|i| random(seed ^ i, &shape));
        let p = random(seed ^ 3, &[3 * rows, heads * size]);
        let texts = sides.iter().take(lengths.len()).enumerate().map(|(i, sides)| TextPositions {
            keys: (sides & 1 == 0).then_some(i % 3 * rows),
            queries: (sides & 2 == 0).then_some((i + 1) % 3 * rows),
        });
        let distances = (0..1099).map(|d| d * rows / 1099).collect();
        let how = Disentangled { texts: texts.collect(), offsets, heads, scale: 0.2, distances, rows };
        let reference = Reference.disentangled_attention([&q, &k, &v], &p, &how, None).unwrap();
        simd::each(|| {
            let whole = Cpu.disentangled_attention([&q, &k, &v], &p, &how, None).unwrap();
            assert!(max_difference(&whole, &reference) <= 5e-5);
            for (span, text) in how.offsets.windows(2).zip(&how.texts).filter(|(span, _)| span[1] - span[0] <= MAX_FUSED_LEN) {
                let part = |x: &Tensor| x.narrow(0, span[0], span[1] - span[0]).unwrap();
                let how = Disentangled { offsets: vec![0, span[1] - span[0]], texts: vec![*text], ..how.clone() };
                let alone = Cpu.disentangled_attention([&part(&q), &part(&k), &part(&v)], &p, &how, None).unwrap();
                assert_eq!(bits(&alone), bits(&part(&whole)));
            }
        });
    }

    #[test]
    fn attend_matches_reference(offsets in spans(), heads in 1usize..4, size in 1usize..9, p in 0f32..0.6, seed: u64) {
        let total = offsets.windows(2).map(|span| heads * (span[1] - span[0]).pow(2)).sum();
        let (s, v) = (var(seed, &[total]), var(seed ^ 1, &[*offsets.last().unwrap(), heads * size]));
        for dropout in [None, Some(Dropout { p, seed })] {
            let how = disentangled::Attend { offsets: offsets.clone(), heads, dropout };
            same(&disentangled::attend(&s, &v, &how).unwrap(), &disentangled::attend_reference(&s, &v, &how).unwrap(), &[&s, &v], 2e-5);
        }
    }
}

/// A batch of texts of these lengths, of which text i uses the positions that the bits of `sides[i]` say, in up to three sets. The rows of
/// far distances repeat, as in DeBERTa's log buckets.
fn batch(lengths: &[usize], heads: usize, rows: usize, sides: &[usize]) -> Disentangled {
    let texts = sides.iter().take(lengths.len()).enumerate().map(|(i, sides)| TextPositions {
        keys: (sides & 1 == 0).then_some(i % 3 * rows),
        queries: (sides & 2 == 0).then_some((i + 1) % 3 * rows),
    });
    let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
    let distances = (0..2 * longest - 1).map(|d| d * rows / (2 * longest)).collect();
    Disentangled { texts: texts.collect(), offsets: offsets_of(lengths), heads, scale: 0.4, distances, rows }
}

/// Checks the GPU's form against the reference, with its gradients, on inputs with rows that lie apart.
fn gpu_same(how: &Disentangled, size: usize, dropout: Option<Dropout>, seed: u64) {
    let (tokens, hidden) = (*how.offsets.last().unwrap(), how.heads * size);
    let (x, p) = (var(seed, &[tokens, 3 * hidden + 1]), var(seed ^ 1, &[3 * how.rows, hidden + 2]));
    let [q, k, v] = [0, 1, 2].map(|at| x.narrow(1, at * hidden + 1, hidden).unwrap());
    let positions = p.narrow(1, 1, hidden).unwrap();
    let run = |ops: &dyn Ops| ops.disentangled_attention([&q, &k, &v], &positions, how, dropout).unwrap();
    let (ours, reference) = (run(cuda()), run(&Reference));
    let worst = max_difference(&ours, &reference);
    assert!(worst <= 2e-5, "forward differs by {worst}");
    let detached = [&q, &k, &v].map(Tensor::detach);
    let [q, k, v] = &detached;
    let inferred = cuda().disentangled_attention([q, k, v], &positions.detach(), how, dropout).unwrap();
    assert_eq!(bits(&inferred), bits(&ours), "without a gradient");
    let weighting = tensor(99, ours.dims());
    let gradients = |y: &Tensor| (y * &weighting).unwrap().sum_all().unwrap().backward().unwrap();
    let (ours, again, theirs) = (gradients(&ours), gradients(&ours), gradients(&reference));
    for var in [&x, &p] {
        // If no text uses positions, their gradient may be absent.
        let of =
            |all: &candle_core::backprop::GradStore| all.get(var).cloned().unwrap_or_else(|| var.zeros_like().unwrap());
        let worst = max_difference(&of(&ours), &of(&theirs));
        assert!(worst <= 1e-4, "gradient of {:?} differs by {worst}", var.dims());
        assert_eq!(bits(&of(&ours)), bits(&of(&again)), "gradients vary");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gpu_disentangled_attention_matches_reference(
        lengths in prop::collection::vec(prop_oneof![1 => Just(0), 8 => 1usize..40, 2 => 60usize..140], 0..4),
        last in 1usize..20, heads in 1usize..3, size in 1usize..=20, rows in 1usize..60,
        sides in prop::collection::vec(0usize..4, 4), p in prop_oneof![Just(None), (0f32..0.6).prop_map(Some)], seed: u64,
    ) {
        let lengths = [lengths, vec![last]].concat();
        gpu_same(&batch(&lengths, heads, rows, &sides), size, p.map(|p| Dropout { p, seed }), seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn gpu_disentangled_attention_in_bf16_and_f16(
        lengths in prop::collection::vec(1usize..80, 1..4), heads in 1usize..3, eighths in 1usize..5, odd in 0usize..2,
        sides in prop::collection::vec(0usize..4, 4), seed: u64,
    ) {
        // Heads of whole 16 bytes, and others.
        let size = 8 * eighths - odd;
        let how = batch(&lengths, heads, 9, &sides);
        let shape = [*how.offsets.last().unwrap(), heads * size];
        let inputs = [tensor(seed, &shape), tensor(seed ^ 1, &shape), tensor(seed ^ 2, &shape), tensor(seed ^ 3, &[27, heads * size])];
        for dtype in [DType::BF16, DType::F16] {
            let run = |ops: &dyn Ops, x: &[Tensor]| ops.disentangled_attention([&x[0], &x[1], &x[2]], &x[3], &how, None).unwrap();
            same_rounded(dtype, &inputs, 0.02, run);
            let gradients = |ops: &dyn Ops, x: &[Tensor]| {
                let x: Vec<Var> = x.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
                let y = ops.disentangled_attention([&x[0], &x[1], &x[2]], &x[3], &how, None).unwrap();
                let weighting = tensor(99, y.dims()).to_dtype(dtype).unwrap().to_dtype(y.dtype()).unwrap();
                let all = (y * weighting).unwrap().sum_all().unwrap().backward().unwrap();
                let of = |x: &Var| all.get(x).cloned().unwrap_or_else(|| x.zeros_like().unwrap()).flatten_all().unwrap();
                Tensor::cat(&x.iter().map(of).collect::<Vec<_>>(), 0).unwrap()
            };
            same_rounded(dtype, &inputs, 0.02, gradients);
        }
    }
}

/// Heads that fill a tile, wider heads, and a long text whose far distances share rows.
#[test]
fn gpu_disentangled_attention_of_full_heads_and_long_texts() {
    gpu_same(&batch(&[65, 3], 1, 40, &[0, 0]), 64, None, 1);
    gpu_same(&batch(&[66], 1, 40, &[0]), 128, None, 2);
    gpu_same(&batch(&[20, 70], 1, 40, &[1, 2]), 81, Some(Dropout { p: 0.2, seed: 5 }), 3);
    gpu_same(&batch(&[310, 20], 1, 30, &[0, 0]), 8, None, 4);
}

/// A text's result has the same bits whatever texts are beside it. Several parts of a set's texts are summed.
#[test]
fn gpu_disentangled_attention_of_a_text_does_not_depend_on_its_neighbours() {
    let lengths: Vec<usize> = (0..24).map(|text| 7 + 31 * text % 80).collect();
    let how = batch(&lengths, 2, 12, &[0; 24]);
    gpu_same(&how, 8, None, 7);
    let shape = [*how.offsets.last().unwrap(), 16];
    let [q, k, v, p] = [tensor(1, &shape), tensor(2, &shape), tensor(3, &shape), tensor(4, &[36, 16])];
    let whole = cuda().disentangled_attention([&q, &k, &v], &p, &how, None).unwrap();
    for (span, text) in how.offsets.windows(2).zip(&how.texts) {
        let part = |x: &Tensor| x.narrow(0, span[0], span[1] - span[0]).unwrap();
        let alone = Disentangled { offsets: vec![0, span[1] - span[0]], texts: vec![*text], ..how.clone() };
        let alone = cuda().disentangled_attention([&part(&q), &part(&k), &part(&v)], &p, &alone, None).unwrap();
        assert_eq!(bits(&alone), bits(&part(&whole)));
    }
}

#[test]
fn gpu_disentangled_attention_refuses_what_it_cannot_compute() {
    let nothing = Tensor::zeros((0, 4), DType::F32, CPU).unwrap();
    let empty =
        cuda().disentangled_attention([&nothing; 3], &tensor(1, &[12, 4]), &batch(&[0, 0], 1, 4, &[0, 0]), None);
    assert_eq!(empty.unwrap().dims(), [0, 4]);
    let how = batch(&[3], 1, 4, &[0]);
    let error = |q: &[usize], v: &[usize], p: &[usize]| {
        let (q, v, p) = (tensor(1, q), tensor(2, v), tensor(3, p));
        cuda().disentangled_attention([&q, &q, &v], &p, &how, None).unwrap_err().to_string()
    };
    assert!(error(&[3, 130], &[3, 130], &[12, 130]).contains("heads of 130"));
    assert!(error(&[3, 4], &[3, 5], &[12, 4]).contains("v [3, 5]"));
    assert!(error(&[4, 4], &[4, 4], &[12, 4]).contains("offsets [0, 3]"));
    assert!(error(&[3, 4], &[3, 4], &[3, 4]).contains("sets of 4 rows in 3 rows"));
}

/// The sums must not depend on the threads: a run gives the same adapter on any number of them.
#[test]
fn disentangled_gradients_do_not_depend_on_threads() {
    let offsets: Vec<usize> = (0..=14).map(|text| 9 * text).collect();
    let shape = [126, 8];
    let (q, k, p) = (var(1, &shape), var(2, &shape), var(3, &[6, 8]));
    let texts = vec![TextPositions { keys: Some(0), queries: Some(3) }; 14];
    let distances = (0..17).map(|d| d * 3 / 17).collect();
    let how = Disentangled { texts, offsets, heads: 2, scale: 0.6, distances, rows: 3 };
    let gradient = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let scores = disentangled::scores(&q, &k, &p, &how).unwrap();
            let weighting = Tensor::from_vec(random(99, scores.dims()), scores.dims(), CPU).unwrap();
            bits((scores * weighting).unwrap().sum_all().unwrap().backward().unwrap().get(&p).unwrap())
        })
    };
    let alone = gradient(1);
    for threads in [2, 3, 8] {
        assert_eq!(gradient(threads), alone, "{threads} threads");
    }
}

#[test]
fn disentangled_attention_does_not_depend_on_threads() {
    for offsets in [vec![0, 150], vec![0, 512], vec![0, 301, 512], vec![0, 600]] {
        let tokens = *offsets.last().unwrap();
        let random = |seed, rows| Tensor::from_vec(random(seed, &[rows, 24]), (rows, 24), CPU).unwrap();
        let [q, k, v] = [0, 1, 2].map(|seed| random(seed, tokens));
        let p = random(3, 60);
        for (keys, queries) in [(Some(0), Some(30)), (Some(30), None), (None, Some(0))] {
            let texts = vec![TextPositions { keys, queries }; offsets.len() - 1];
            let distances = (0..1199).map(|d| d * 30 / 1199).collect();
            let how = Disentangled { texts, offsets: offsets.clone(), heads: 3, scale: 0.2, distances, rows: 30 };
            let attended = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| Cpu.disentangled_attention([&q, &k, &v], &p, &how, None).unwrap())
            };
            let reference = Reference.disentangled_attention([&q, &k, &v], &p, &how, None).unwrap();
            simd::each(|| {
                let alone = attended(1);
                assert!(max_difference(&alone, &reference) <= 5e-5);
                for threads in [2, 3, 8] {
                    assert_eq!(bits(&attended(threads)), bits(&alone), "{offsets:?}, {threads} threads");
                }
            });
        }
    }
}
