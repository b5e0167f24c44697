//! Compares the CPU's form of each operation with the reference, forward and backward, over random shapes and data.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Result, Tensor, Var};
use proptest::prelude::*;

use super::attention::MAX_FUSED_LEN;
use super::*;
use crate::cpu::simd;
use crate::params::{Delta, Frozen};

const CPU: &Device = &Device::Cpu;

/// Random values, uniform in [-1, 1], from a seed.
fn random(seed: u64, shape: &[usize]) -> Vec<f32> {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let mut rng = StdRng::seed_from_u64(seed);
    (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn var(seed: u64, shape: &[usize]) -> Var {
    Var::from_vec(random(seed, shape), shape, CPU).unwrap()
}

fn frozen(seed: u64, shape: &[usize]) -> Param {
    Param::Frozen(Frozen::host("w", shape, random(seed, shape)))
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    if a.elem_count() == 0 {
        return 0.0;
    }
    let differences: Vec<f32> = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    // `f32::max` would skip NaN.
    differences.into_iter().max_by(f32::total_cmp).unwrap()
}

/// An attention bias for texts of up to `longest` tokens, larger than the scores it is added to.
fn table(seed: u64, heads: usize, longest: usize) -> Tensor {
    let shape = [heads, 2 * longest - 1];
    (Tensor::from_vec(random(seed, &shape), &shape[..], CPU).unwrap() * 3.0).unwrap()
}

/// Checks that two results agree, and that the gradients of their sum, weighted at random, agree in `vars`.
fn same(kernel: &Tensor, reference: &Tensor, vars: &[&Var], tolerance: f32) {
    let worst = max_difference(kernel, reference);
    assert!(worst <= tolerance, "forward differs by {worst}");
    let weighting = Tensor::from_vec(random(99, kernel.dims()), kernel.dims(), CPU).unwrap();
    let gradients = |y: &Tensor| (y * &weighting).unwrap().sum_all().unwrap().backward().unwrap();
    let (ours, theirs) = (gradients(kernel), gradients(reference));
    for (i, var) in vars.iter().enumerate() {
        let worst = max_difference(ours.get(var).unwrap(), theirs.get(var).unwrap());
        assert!(worst <= tolerance, "gradient {i} differs by {worst}");
    }
}

/// The offsets of texts of these lengths.
fn offsets_of(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |sum, len| {
        *sum += len;
        Some(*sum)
    });
    std::iter::once(0).chain(ends).collect()
}

/// A rank: mostly as small as pruning leaves it, sometimes larger.
fn rank() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..9, 1 => 9usize..257]
}

fn spans() -> impl Strategy<Value = Vec<usize>> {
    // At least one text is not empty: an empty result has no gradients to compare.
    let lengths = prop::collection::vec(prop_oneof![1 => Just(0), 9 => 1usize..20], 0..6);
    (lengths, 1usize..20, any::<prop::sample::Index>()).prop_map(|(mut lengths, some, at)| {
        lengths.insert(at.index(lengths.len() + 1), some);
        offsets_of(&lengths)
    })
}

/// Lengths of mostly short texts, and of some just below and above the limit of the fused kernel.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(
        prop_oneof![1 => Just(0), 8 => 1usize..=300, 1 => MAX_FUSED_LEN - 20..=MAX_FUSED_LEN + 30],
        1..4,
    )
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn ops() -> [&'static dyn Ops; 2] {
    [&Cpu, &Reference]
}

/// Runs one linear on `x`.
fn linear(ops: &dyn Ops, x: &Tensor, weight: &Param, bias: &Param, added: Added, gelu: bool) -> Result<Tensor> {
    let linear = Linear { weight: weight.clone(), bias: bias.clone(), added, gelu };
    ops.linears(x, &[linear]).map(|mut all| all.remove(0))
}

/// Checks that the kernel matches the reference, and that rows in no segment are bit-identical to the base's.
fn assert_segments(x: &Tensor, linears: &[Linear], reference: &[Tensor]) {
    let ours = Cpu.linears(x, linears).unwrap();
    for ((ours, reference), one) in ours.iter().zip(reference).zip(linears) {
        assert!(max_difference(ours, reference) <= 1e-4);
        let bare = linear(&Cpu, x, &one.weight, &one.bias, Added::Nothing, one.gelu).unwrap();
        let Added::Segments(segments) = &one.added else { unreachable!() };
        let free = |row: &usize| !segments.iter().any(|segment| segment.rows.contains(row));
        for row in (0..x.dim(0).unwrap()).filter(free) {
            assert_eq!(bits(&ours.get(row).unwrap()), bits(&bare.get(row).unwrap()));
        }
    }
}

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_vec(random(seed, shape), shape, CPU).unwrap()
}

/// Attention of a batch matches the reference, and each text gets the same bits alone.
fn assert_attention_matches(qkv: [&Tensor; 3], how: &Heads, tolerance: f32) {
    let reference = Reference.attention(qkv, how).unwrap();
    simd::each(|| {
        let whole = Cpu.attention(qkv, how).unwrap();
        assert!(max_difference(&whole, &reference) <= tolerance);
        for span in how.offsets.windows(2) {
            let part = |x: &Tensor| x.narrow(0, span[0], span[1] - span[0]).unwrap();
            let how = Heads { offsets: &[0, span[1] - span[0]], ..how.clone() };
            let [q, k, v] = qkv.map(part);
            let alone = Cpu.attention([&q, &k, &v], &how).unwrap();
            assert_eq!(bits(&alone), bits(&part(&whole)));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear_matches_reference(rows in 0usize..40, width in 1usize..70, out in 1usize..70, gelu: bool, seed: u64) {
        let x = var(seed, &[rows, width]);
        let (w, b) = (frozen(seed ^ 1, &[out, width]), frozen(seed ^ 2, &[out]));
        // Tracked, as in training, then untracked, as in inference: the kernel takes different paths.
        let [ours, reference] = ops().map(|ops| linear(ops, &x, &w, &b, Added::Nothing, gelu).unwrap());
        same(&ours, &reference, &[&x], 2e-5);
        let plain = x.as_detached_tensor();
        let ours = linear(&Cpu, &plain, &w, &b, Added::Nothing, gelu).unwrap();
        assert!(max_difference(&ours, &reference) <= 2e-5);
    }

    #[test]
    fn linear_with_a_trained_bias_matches_reference(rows in 1usize..20, width in 1usize..40, out in 1usize..40, gelu: bool, seed: u64) {
        let (x, b) = (var(seed, &[rows, width]), var(seed ^ 2, &[out]));
        let (w, bias) = (frozen(seed ^ 1, &[out, width]), Param::Tensor(b.as_tensor().clone()));
        let [ours, reference] = ops().map(|ops| linear(ops, &x, &w, &bias, Added::Nothing, gelu).unwrap());
        same(&ours, &reference, &[&x, &b], 2e-5);
    }

    #[test]
    fn gelu_matches_reference(n in 1usize..20_000, scale in 0.1f64..8.0, seed: u64) {
        let x = var(seed, &[n]);
        let scaled = (x.as_tensor() * scale).unwrap();
        let reference = Reference.gelu(&scaled).unwrap();
        simd::each(|| same(&Cpu.gelu(&scaled).unwrap(), &reference, &[&x], 1e-5));
    }

    #[test]
    fn gated_gelu_matches_reference(rows in 0usize..40, wide in 1usize..300, scale in 0.1f64..8.0, seed: u64) {
        let x = var(seed, &[rows, 2 * wide]);
        let scaled = (x.as_tensor() * scale).unwrap();
        let reference = Reference.gated_gelu(&scaled).unwrap();
        simd::each(|| same(&Cpu.gated_gelu(&scaled).unwrap(), &reference, &[&x], 1e-4));
    }

    #[test]
    fn norm_matches_reference(rows in 1usize..60, width in 2usize..200, seed: u64) {
        let (h, r) = (var(seed, &[rows, width]), var(seed ^ 1, &[rows, width]));
        let (weight, bias) = (frozen(seed ^ 2, &[width]), frozen(seed ^ 3, &[width]));
        let norm = Norm { weight: &weight, bias: &bias, eps: 1e-5 };
        let reference = Reference.norm(&h, Some(&r), &norm).unwrap();
        simd::each(|| same(&Cpu.norm(&h, Some(&r), &norm).unwrap(), &reference, &[&h, &r], 2e-4));
        let reference = Reference.norm(&h, None, &norm).unwrap();
        simd::each(|| same(&Cpu.norm(&h, None, &norm).unwrap(), &reference, &[&h], 2e-4));
    }

    #[test]
    fn attention_matches_reference(offsets in spans(), heads in 1usize..5, size in 1usize..20, p in 0f32..0.6, seed: u64) {
        let shape = [*offsets.last().unwrap(), heads * size];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        for dropout in [None, Some(Dropout { p, seed })] {
            let how = Heads { offsets: &offsets, heads, scale: 0.7, window: None, bias: None, dropout };
            let reference = Reference.attention([&q, &k, &v], &how).unwrap();
            simd::each(|| same(&Cpu.attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 2e-5));
        }
    }

    #[test]
    fn attention_matches_reference_at_any_length_and_size(
        lengths in lengths(), heads in 1usize..4, size in 1usize..=80, seed: u64,
    ) {
        let offsets = offsets_of(&lengths);
        let shape = [*offsets.last().unwrap(), heads * size];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        let how = Heads { offsets: &offsets, heads, scale: 0.7, window: None, bias: None, dropout: None };
        assert_attention_matches([&q, &k, &v], &how, 2e-5);
    }

    #[test]
    fn windowed_attention_matches_reference(offsets in spans(), window in 0usize..6, p in 0f32..0.6, seed: u64) {
        let shape = [*offsets.last().unwrap(), 12];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        for dropout in [None, Some(Dropout { p, seed })] {
            let how = Heads { offsets: &offsets, heads: 3, scale: 0.7, window: Some(window), bias: None, dropout };
            let reference = Reference.attention([&q, &k, &v], &how).unwrap();
            simd::each(|| same(&Cpu.attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 2e-5));
        }
    }

    #[test]
    fn biased_attention_matches_reference(
        offsets in spans(), heads in 1usize..5, size in 1usize..20, window in prop::option::of(0usize..6), beyond in 0usize..4,
        p in 0f32..0.6, seed: u64,
    ) {
        let shape = [*offsets.last().unwrap(), heads * size];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        // The bias may cover longer texts than the longest here.
        let bias = table(seed ^ 3, heads, 19 + beyond);
        for dropout in [None, Some(Dropout { p, seed })] {
            let how = Heads { offsets: &offsets, heads, scale: 0.7, window, bias: Some(&bias), dropout };
            let reference = Reference.attention([&q, &k, &v], &how).unwrap();
            simd::each(|| same(&Cpu.attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 5e-5));
        }
    }

    #[test]
    fn biased_attention_matches_reference_at_any_length_and_size(
        lengths in lengths(), heads in 1usize..4, size in 1usize..=80, scale in 0.05f64..1.5, seed: u64,
    ) {
        let offsets = offsets_of(&lengths);
        let shape = [*offsets.last().unwrap(), heads * size];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        let bias = table(seed ^ 3, heads, MAX_FUSED_LEN + 30);
        let how = Heads { offsets: &offsets, heads, scale, window: None, bias: Some(&bias), dropout: None };
        assert_attention_matches([&q, &k, &v], &how, 5e-5);
    }

    /// The gradient of a trained bias matches a finite difference of the result.
    #[test]
    fn bias_gradient_matches_finite_differences(offsets in spans(), heads in 1usize..4, size in 1usize..8, seed: u64) {
        let shape = [*offsets.last().unwrap(), heads * size];
        let [q, k, v, weighting] = [0, 1, 2, 3].map(|i| Tensor::from_vec(random(seed ^ i, &shape), &shape[..], CPU).unwrap());
        let (bias, direction) = (var(seed ^ 4, &[heads, 37]), table(seed ^ 5, heads, 19));
        let value = |bias: &Tensor| {
            let how = Heads { offsets: &offsets, heads, scale: 0.7, window: None, bias: Some(bias), dropout: None };
            (Cpu.attention([&q, &k, &v], &how).unwrap() * &weighting).unwrap().sum_all().unwrap()
        };
        let gradients = value(&bias).backward().unwrap();
        let along = (gradients.get(&bias).unwrap() * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let step = 1e-2;
        let [above, below] = [step, -step].map(|step| {
            let moved = (bias.as_detached_tensor() + (&direction * step).unwrap()).unwrap();
            value(&moved).to_scalar::<f32>().unwrap()
        });
        let slope = (above - below) / (2.0 * step as f32);
        prop_assert!((slope - along).abs() <= 0.02 * along.abs() + 3e-3, "slope {slope}, gradient {along}");
    }

    #[test]
    fn rotary_matches_reference(offsets in spans(), heads in 1usize..4, half in 1usize..9, seed: u64) {
        let x = var(seed, &[*offsets.last().unwrap(), heads * 2 * half]);
        let rotary = Rotary::new(&offsets, 2 * half, 10_000.0).unwrap();
        let [ours, reference] = ops().map(|ops| ops.rotate(&x, &rotary).unwrap());
        same(&ours, &reference, &[&x], 1e-5);
    }

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

    #[test]
    fn attention_of_a_text_does_not_depend_on_other_texts(offsets in spans(), seed: u64) {
        let shape = [*offsets.last().unwrap(), 12];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        let how = Heads { offsets: &offsets, heads: 3, scale: 0.5, window: None, bias: None, dropout: None };
        let whole = Cpu.attention([&q, &k, &v], &how).unwrap();
        for span in offsets.windows(2) {
            let part = |x: &Var| x.narrow(0, span[0], span[1] - span[0]).unwrap();
            let how = Heads { offsets: &[0, span[1] - span[0]], ..how.clone() };
            let alone = Cpu.attention([&part(&q), &part(&k), &part(&v)], &how).unwrap();
            prop_assert!(max_difference(&alone, &whole.narrow(0, span[0], span[1] - span[0]).unwrap()) <= 1e-5);
        }
    }

    #[test]
    fn linear_with_a_trained_delta_matches_reference(
        rows in 1usize..40, width in 1usize..60, out in 1usize..60, rank in 1usize..17, gelu: bool, seed: u64,
    ) {
        let (x, a, b) = (var(seed, &[rows, width]), var(seed ^ 1, &[rank, width]), var(seed ^ 2, &[out, rank]));
        let (weight, bias) = (frozen(seed ^ 3, &[out, width]), frozen(seed ^ 4, &[out]));
        let delta = Delta { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale: 0.5 };
        let [ours, reference] = ops().map(|ops| linear(ops, &x, &weight, &bias, Added::Whole(delta.clone()), gelu).unwrap());
        same(&ours, &reference, &[&x, &a, &b], 2e-4);
    }

    #[test]
    fn dropout_matches_reference(n in 1usize..20_000, p in 0f32..0.9, seed: u64) {
        let x = var(seed, &[n]);
        let how = Dropout { p, seed };
        let y = Cpu.dropout(&x, how).unwrap();
        same(&y, &Reference.dropout(&x, how).unwrap(), &[&x], 0.0);
        let dropped = y.to_vec1::<f32>().unwrap().iter().filter(|y| **y == 0.0).count();
        // Five standard deviations of a binomial count.
        let (expected, spread) = (f64::from(p) * n as f64, (f64::from(p) * f64::from(1.0 - p) * n as f64).sqrt());
        prop_assert!((dropped as f64 - expected).abs() <= 5.0 * spread + 1.0, "{dropped} of {n} at {p}");
    }

    #[test]
    fn ragged_deltas_match_reference_and_do_not_depend_on_other_segments(
        runs in prop::collection::vec((0usize..3, 0usize..30, prop::array::uniform3(rank())), 1..6),
        width in 1usize..80, outs in prop::array::uniform3(1usize..80), by_rank: bool, gelu: bool, seed: u64,
    ) {
        let (mut start, mut deltas) = (0, [const { Vec::new() }; 3]);
        for (run, &(gap, rows, ranks)) in runs.iter().enumerate() {
            for (linear, &rank) in ranks.iter().enumerate().filter(|(_, rank)| **rank > 0) {
                let seed = seed ^ (8 * run + linear) as u64;
                let (a, b) = (tensor(seed, &[rank, width]), tensor(seed ^ 1 << 32, &[rank, outs[linear]]).t().unwrap());
                let b = if by_rank { b } else { b.contiguous().unwrap() };
                deltas[linear].push((start + gap..start + gap + rows, Delta { a, b, scale: 1.5 / (rank as f64) }));
            }
            start += gap + rows;
        }
        let x = tensor(seed, &[start + 2, width]);
        let linears: Vec<Linear> = (0..3)
            .map(|i| {
                let segments = deltas[i].iter().map(|(rows, delta)| Segment { rows: rows.clone(), delta });
                let (weight, bias) = (frozen(seed ^ 7, &[outs[i], width]), frozen(seed ^ 8, &[outs[i]]));
                Linear { weight, bias, added: Added::Segments(segments.collect()), gelu }
            })
            .collect();
        let reference = Reference.linears(&x, &linears).unwrap();
        simd::each(|| assert_segments(&x, &linears, &reference));
        // Deltas alone: a segment's rows do not depend on the other segments.
        for (one, out) in linears.iter().zip(outs) {
            let (y, Added::Segments(segments)) = (tensor(seed ^ 9, &[start + 2, out]), &one.added) else { unreachable!() };
            let before = bits(&y);
            let [ours, reference] = ops().map(|ops| ops.add_segments(&x, &y, segments).unwrap());
            prop_assert!(max_difference(&ours, &reference) <= 1e-4);
            prop_assert_eq!(bits(&y), before, "an operation changed its input");
            for Segment { rows, delta } in segments.iter().filter(|segment| !segment.rows.is_empty()) {
                let part = |t: &Tensor| t.narrow(0, rows.start, rows.len()).unwrap();
                let alone = Cpu.add_segments(&part(&x), &part(&y), &[Segment { rows: 0..rows.len(), delta }]).unwrap();
                prop_assert_eq!(bits(&alone), bits(&part(&ours)));
            }
        }
    }

    #[test]
    fn embed_matches_reference(ids in prop::collection::vec((0u32..11, 0u32..5), 1..300), seed: u64) {
        let (first, second): (Vec<u32>, Vec<u32>) = ids.into_iter().unzip();
        let (words, types) = (frozen(seed, &[11, 9]), frozen(seed ^ 1, &[5, 9]));
        let lookups = [(&words, &first[..]), (&types, &second[..])];
        let reference = Reference.embed(&lookups, CPU).unwrap();
        prop_assert!(max_difference(&Cpu.embed(&lookups, CPU).unwrap(), &reference) <= 1e-6);
    }
}

/// NaN and infinity propagate; they must not become an ordinary weight.
#[test]
fn attention_propagates_nan_and_infinity() {
    for len in [7, 40, MAX_FUSED_LEN + 3] {
        for (bad, at) in [(f32::NAN, 0), (f32::INFINITY, 3)] {
            let mut q = random(1, &[len, 8]);
            q[8 * (len - 2) + at] = bad;
            let q = Tensor::from_vec(q, (len, 8), CPU).unwrap();
            let [k, v] = [2, 3].map(|seed| Tensor::from_vec(random(seed, &[len, 8]), (len, 8), CPU).unwrap());
            let how = Heads { offsets: &[0, len], heads: 2, scale: 0.7, window: None, bias: None, dropout: None };
            simd::each(|| {
                let y = Cpu.attention([&q, &k, &v], &how).unwrap().to_vec2::<f32>().unwrap();
                assert!(
                    y[len - 2][..4].iter().all(|x| x.is_nan()),
                    "{bad} in a text of {len} tokens: {:?}",
                    y[len - 2]
                );
                assert!(y[0].iter().chain(&y[len - 2][4..]).all(|x| x.is_finite()));
            });
        }
    }
}

/// A long text is divided among threads; a longer or windowed one is divided into blocks that see only their keys. The result must
/// not depend on the division.
#[test]
fn attention_of_long_texts_does_not_depend_on_threads() {
    let dropout = Some(Dropout { p: 0.3, seed: 5 });
    let bias = &table(4, 3, 700);
    for (offsets, window, bias, dropout) in [
        (&[0, 200][..], None, None, None),
        (&[0, 512], None, None, None),
        (&[0, 512], None, Some(bias), None),
        (&[0, 301, 512], None, None, None),
        (&[0, 700, 701], None, None, None),
        (&[0, 700, 701], None, Some(bias), None),
        (&[0, 600, 1200], Some(40), None, None),
        (&[0, 600, 1200], Some(40), Some(bias), None),
        (&[0, 300, 310], Some(300), None, None),
        (&[0, 530], Some(70), None, dropout),
        (&[0, 530], Some(70), Some(bias), dropout),
    ] {
        let shape = [*offsets.last().unwrap(), 3 * 8];
        let (q, k, v) = (var(1, &shape), var(2, &shape), var(3, &shape));
        let how = Heads { offsets, heads: 3, scale: 0.7, window, bias, dropout };
        let attended = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Cpu.attention([&q, &k, &v], &how).unwrap())
        };
        let reference = Reference.attention([&q, &k, &v], &how).unwrap();
        simd::each(|| {
            let alone = attended(1);
            same(&alone, &reference, &[&q, &k, &v], 2e-4);
            assert!(max_difference(&alone, &reference) <= 2e-5, "{how:?}");
            for threads in [2, 3, 8] {
                assert_eq!(bits(&attended(threads)), bits(&alone), "{how:?}, {threads} threads");
            }
        });
    }
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

#[test]
fn an_empty_list_of_segments_is_bit_identical_to_the_base() {
    let (x, w, b) = (tensor(3, &[5, 4]), frozen(1, &[7, 4]), frozen(2, &[7]));
    for ops in ops() {
        let [bare, empty] =
            [Added::Nothing, Added::Segments(Vec::new())].map(|added| linear(ops, &x, &w, &b, added, false));
        assert_eq!(bits(&bare.unwrap()), bits(&empty.unwrap()));
    }
}

/// The inputs of an operation may be shared, so it must not change them.
#[test]
fn operations_do_not_change_their_inputs() {
    let (x, shape) = (tensor(1, &[6, 8]), [6, 8]);
    let before = bits(&x);
    let (weight, bias) = (frozen(2, &[8, 8]), frozen(3, &[8]));
    let delta = Delta { a: tensor(4, &[2, 8]), b: tensor(5, &[8, 2]), scale: 1.0 };
    let heads = Heads { offsets: &[0, 4, 6], heads: 2, scale: 0.5, window: None, bias: None, dropout: None };
    let rotary = Rotary::new(&[0, 4, 6], 4, 100.0).unwrap();
    for ops in ops() {
        let segments = Added::Segments(vec![Segment { rows: 1..5, delta: &delta }]);
        let results = [
            linear(ops, &x, &weight, &bias, segments, true).unwrap(),
            ops.add_segments(&x, &x, &[Segment { rows: 2..6, delta: &delta }]).unwrap(),
            ops.norm(&x, Some(&x), &Norm { weight: &bias, bias: &bias, eps: 1e-5 }).unwrap(),
            ops.gelu(&x).unwrap(),
            ops.rotate(&x, &rotary).unwrap(),
            ops.attention([&x, &x, &x], &heads).unwrap(),
            ops.dropout(&x, Dropout { p: 0.5, seed: 1 }).unwrap(),
        ];
        for (i, result) in results.iter().enumerate() {
            assert_eq!(result.dims(), shape, "operation {i}");
            assert_eq!(bits(&x), before, "operation {i} of {ops:?} changed its input");
        }
    }
}

#[test]
fn mismatched_shapes_are_errors_not_panics() {
    let x = tensor(1, &[3, 4]);
    let assert_error = |result: Result<Tensor>, words: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let bare = |w: &Param, b: &Param| linear(&Cpu, &x, w, b, Added::Nothing, false);
    assert_error(bare(&frozen(1, &[2, 5]), &frozen(2, &[2])), "expected rows of 5, found 4");
    assert_error(Cpu.embed(&[(&frozen(1, &[4, 2]), &[4])], CPU), "4 rows, asked for row 4");
    let heads = |offsets| Heads { offsets, heads: 2, scale: 1.0, window: None, bias: None, dropout: None };
    for ops in ops() {
        let attention = |heads: Heads| ops.attention([&x, &x, &x], &heads);
        assert_error(attention(heads(&[0, 2])), "do not span 3 tokens");
        assert_error(attention(Heads { heads: 3, ..heads(&[0, 3]) }), "3 heads");
        let biased = |bias: Tensor, scale| attention(Heads { bias: Some(&bias), scale, ..heads(&[0, 3]) });
        assert_error(biased(table(1, 2, 2), 1.0), "expected a bias of [2, 5] or more columns, found [2, 3]");
        assert_error(biased(table(1, 3, 3), 1.0), "found [3, 5]");
        assert_error(biased(table(1, 2, 4).narrow(1, 0, 6).unwrap(), 1.0), "found [2, 6]");
        assert_error(biased(table(1, 2, 3), 0.0), "scale 0");
        assert_error(ops.gated_gelu(&tensor(1, &[2, 3])), "even width");
        let rotary = Rotary::new(&[0, 2], 4, 100.0).unwrap();
        assert_error(ops.rotate(&x, &rotary), "expected 2 tokens and heads of size 4, found [3, 4]");
    }
    assert!(Rotary::new(&[0, 2], 3, 100.0).is_err() && Rotary::new(&[0, 2, 1], 4, 100.0).is_err());
    let delta = Delta { a: tensor(1, &[1, 4]), b: tensor(1, &[4, 1]), scale: 1.0 };
    let adapted = |out: usize, delta: &Delta| {
        linear(&Cpu, &x, &frozen(1, &[out, 4]), &frozen(2, &[out]), Added::Whole(delta.clone()), false)
    };
    assert_error(adapted(5, &delta), "expected B of 5 rows, found 4");
    let transposed = Delta { a: delta.b.clone(), b: delta.a.clone(), scale: 1.0 };
    assert_error(adapted(4, &transposed), "expected x [T, in]");
    for ops in ops() {
        let segments = |segments: &[std::ops::Range<usize>]| {
            let segments = segments.iter().map(|rows| Segment { rows: rows.clone(), delta: &delta }).collect();
            linear(ops, &x, &frozen(1, &[4, 4]), &frozen(2, &[4]), Added::Segments(segments), false)
        };
        assert_error(segments(&[2..9]), "lie outside");
        assert_error(segments(&[0..2, 1..3]), "overlap others");
    }
}
