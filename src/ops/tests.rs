//! Compares the CPU's form of each operation with the reference, forward and backward, over random shapes and data.
#![allow(clippy::unwrap_used)]

mod attention;
mod disentangled;
mod flat;
mod linear;
mod on_device;

use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;

use super::attention::MAX_FUSED_LEN;
use super::*;
use crate::cpu::simd;
use crate::params::{Delta, Frozen};

const CPU: &Device = &Device::Cpu;

/// `most` random cases, or as many as `PROPTEST_CASES` says if it says fewer: under a sanitizer, kernels are slow.
fn cases(most: u32) -> ProptestConfig {
    ProptestConfig::with_cases(most.min(ProptestConfig::default().cases))
}

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

/// The GPU's form. Its kernels run on the CPU, or on a GPU where the environment names one.
fn cuda() -> &'static dyn Ops {
    crate::cuda::run_on_host(polyrank_on_host::launch);
    match on_device::asked() {
        Some(ops) => ops,
        None => &Cuda,
    }
}

/// Checks that the GPU's form of an operation computes in `dtype` what the reference computes in f32 from the same rounded inputs, up
/// to `tolerance` times the largest result.
fn same_rounded(dtype: DType, inputs: &[Tensor], tolerance: f32, run: impl Fn(&dyn Ops, &[Tensor]) -> Tensor) {
    let rounded: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(dtype).unwrap()).collect();
    let wide: Vec<Tensor> = rounded.iter().map(|input| input.to_dtype(DType::F32).unwrap()).collect();
    let (ours, reference) = (run(cuda(), &rounded), run(&Reference, &wide));
    assert_eq!((ours.dtype(), ours.dims()), (dtype, reference.dims()));
    if reference.elem_count() == 0 {
        return;
    }
    let largest = reference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let worst = max_difference(&ours.to_dtype(DType::F32).unwrap(), &reference);
    assert!(worst <= tolerance * largest.max(1.0), "{dtype:?} differs by {worst}, the largest is {largest}");
}

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_vec(random(seed, shape), shape, CPU).unwrap()
}

/// Runs one linear on `x`.
fn linear(ops: &dyn Ops, x: &Tensor, weight: &Param, bias: &Param, added: Added, gelu: bool) -> Result<Tensor> {
    let linear = Linear { weight: weight.clone(), bias: bias.clone(), added, gelu };
    ops.linears(x, &[linear]).map(|mut all| all.remove(0))
}

/// The GPU's GELU approximates the tail of the normal distribution by a polynomial, which overflows.
#[test]
fn gelu_of_huge_numbers_and_nan_on_a_gpu() {
    let x = Tensor::new(&[f32::INFINITY, 1e30, -1e30, 0.0, f32::NAN], CPU).unwrap();
    let y = cuda().gelu(&x).unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(y[..4], [f32::INFINITY, 1e30, 0.0, 0.0]);
    assert!(y[4].is_nan());
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn gelu_matches_reference(n in 1usize..20_000, scale in 0.1f64..8.0, seed: u64) {
        let x = var(seed, &[n]);
        let scaled = (x.as_tensor() * scale).unwrap();
        let reference = Reference.gelu(&scaled).unwrap();
        simd::each(|| same(&Cpu.gelu(&scaled).unwrap(), &reference, &[&x], 1e-5));
        same(&cuda().gelu(&scaled).unwrap(), &reference, &[&x], 1e-5);
        for dtype in [DType::BF16, DType::F16] {
            same_rounded(dtype, &[scaled.detach()], 0.01, |ops, inputs| ops.gelu(&inputs[0]).unwrap());
        }
    }

    #[test]
    fn gated_gelu_matches_reference(rows in 0usize..40, wide in 1usize..300, scale in 0.1f64..8.0, seed: u64) {
        let x = var(seed, &[rows, 2 * wide]);
        let scaled = (x.as_tensor() * scale).unwrap();
        let reference = Reference.gated_gelu(&scaled).unwrap();
        simd::each(|| same(&Cpu.gated_gelu(&scaled).unwrap(), &reference, &[&x], 1e-4));
        same(&cuda().gated_gelu(&scaled).unwrap(), &reference, &[&x], 1e-4);
        for dtype in [DType::BF16, DType::F16] {
            same_rounded(dtype, &[scaled.detach()], 0.01, |ops, inputs| ops.gated_gelu(&inputs[0]).unwrap());
        }
    }

    #[test]
    fn gated_gelu_reads_parts_of_rows(rows in 1usize..9, wide in 1usize..40, (before, after) in (0usize..17, 0usize..17), seed: u64) {
        let x = var(seed, &[rows, before + 2 * wide + after]);
        let part = x.narrow(1, before, 2 * wide).unwrap();
        same(&cuda().gated_gelu(&part).unwrap(), &Reference.gated_gelu(&part).unwrap(), &[&x], 1e-4);
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
    fn norm_on_a_gpu_matches_reference(
        rows in 1usize..20,
        width in prop_oneof![4 => 2usize..200, 2 => (1usize..140).prop_map(|eights| 8 * eights), 1 => 1000usize..5000],
        (before, residual, trained) in (0usize..2, any::<bool>(), any::<bool>()),
        seed: u64,
    ) {
        // Wide rows vary less about their mean, and rows of two elements much more, than what rounding adds.
        let (h, r) = (var(seed, &[rows, before * 8 + width]), var(seed ^ 1, &[rows, width]));
        let (weight, bias) = (var(seed ^ 2, &[width]), var(seed ^ 3, &[width]));
        let param = |var: &Var| Param::Tensor(if trained { var.as_tensor().clone() } else { var.detach() });
        let (weights, biases) = (param(&weight), param(&bias));
        let norm = Norm { weight: &weights, bias: &biases, eps: 1e-3 };
        let part = h.narrow(1, before * 8, width).unwrap();
        let run = |ops: &dyn Ops| ops.norm(&part, residual.then_some(r.as_tensor()), &norm).unwrap();
        let vars = [(&h, true), (&r, residual), (&weight, trained), (&bias, trained)];
        let vars: Vec<&Var> = vars.into_iter().filter(|(_, used)| *used).map(|(var, _)| var).collect();
        same(&run(cuda()), &run(&Reference), &vars, 2e-4);
        let weight = frozen(seed ^ 2, &[width]);
        let norm = Norm { weight: &weight, bias: &weight, eps: 1e-3 };
        for dtype in [DType::BF16, DType::F16] {
            same_rounded(dtype, &[part.detach(), r.detach()], 0.01, |ops, inputs| {
                ops.norm(&inputs[0], residual.then_some(&inputs[1]), &norm).unwrap()
            });
        }
    }

    #[test]
    fn rotary_matches_reference(offsets in spans(), heads in 1usize..4, half in 1usize..9, seed: u64) {
        let x = var(seed, &[*offsets.last().unwrap(), heads * 2 * half]);
        let rotary = Rotary::new(&offsets, 2 * half, 10_000.0).unwrap();
        let [ours, reference] = ops().map(|ops| ops.rotate(&x, &rotary).unwrap());
        same(&ours, &reference, &[&x], 1e-5);
    }

    #[test]
    fn rotary_on_a_gpu_reads_parts_of_rows(
        offsets in spans(),
        heads in 1usize..4,
        half in prop_oneof![3 => 1usize..9, 1 => Just(16usize), 1 => Just(32usize)],
        before in 0usize..10,
        seed: u64,
    ) {
        let (tokens, hidden) = (*offsets.last().unwrap(), heads * 2 * half);
        let x = var(seed, &[tokens, before + hidden]);
        let part = x.narrow(1, before, hidden).unwrap();
        let rotary = Rotary::new(&offsets, 2 * half, 10_000.0).unwrap();
        same(&cuda().rotate(&part, &rotary).unwrap(), &Reference.rotate(&part, &rotary).unwrap(), &[&x], 1e-5);
        for dtype in [DType::BF16, DType::F16] {
            same_rounded(dtype, &[part.detach()], 0.01, |ops, inputs| ops.rotate(&inputs[0], &rotary).unwrap());
        }
    }

    #[test]
    fn dropout_matches_reference(n in 1usize..20_000, p in 0f32..0.9, seed: u64) {
        let x = var(seed, &[n]);
        let how = Dropout { p, seed };
        let y = Cpu.dropout(&x, how).unwrap();
        let reference = Reference.dropout(&x, how).unwrap();
        same(&y, &reference, &[&x], 0.0);
        same(&cuda().dropout(&x, how).unwrap(), &reference, &[&x], 0.0);
        for dtype in [DType::BF16, DType::F16] {
            same_rounded(dtype, &[x.detach()], 0.01, |ops, inputs| ops.dropout(&inputs[0], how).unwrap());
        }
        let dropped = y.to_vec1::<f32>().unwrap().iter().filter(|y| **y == 0.0).count();
        // Five standard deviations of a binomial count.
        let (expected, spread) = (f64::from(p) * n as f64, (f64::from(p) * f64::from(1.0 - p) * n as f64).sqrt());
        prop_assert!((dropped as f64 - expected).abs() <= 5.0 * spread + 1.0, "{dropped} of {n} at {p}");
    }

    #[test]
    fn embed_matches_reference(ids in prop::collection::vec((0u32..11, 0u32..5), 1..300), seed: u64) {
        let (first, second): (Vec<u32>, Vec<u32>) = ids.into_iter().unzip();
        let (words, types) = (frozen(seed, &[11, 9]), frozen(seed ^ 1, &[5, 9]));
        let lookups = [(&words, &first[..]), (&types, &second[..])];
        let reference = Reference.embed(&lookups, CPU).unwrap();
        prop_assert!(max_difference(&Cpu.embed(&lookups, CPU).unwrap(), &reference) <= 1e-6);
        prop_assert!(max_difference(&cuda().embed(&lookups, CPU).unwrap(), &reference) <= 1e-6);
    }

    #[test]
    fn embed_on_a_gpu_has_the_gradients_of_trained_tables(
        ids in prop::collection::vec((0u32..11, 0u32..5, 0u32..3), 1..100),
        width in prop_oneof![1usize..30, Just(16usize), Just(264usize)],
        trained in prop::array::uniform3(any::<bool>()),
        seed: u64,
    ) {
        let ids = [0, 1, 2].map(|k| ids.iter().map(|id| [id.0, id.1, id.2][k]).collect::<Vec<u32>>());
        let tables = [11, 5, 3].map(|rows| var(seed ^ rows as u64, &[rows, width]));
        let param = |k: usize| Param::Tensor(if trained[k] { tables[k].as_tensor().clone() } else { tables[k].detach() });
        let params = [0, 1, 2].map(param);
        let lookups = [0, 1, 2].map(|k| (&params[k], &ids[k][..]));
        let vars: Vec<&Var> = tables.iter().zip(trained).filter(|(_, trained)| *trained).map(|(var, _)| var).collect();
        same(&cuda().embed(&lookups, CPU).unwrap(), &Reference.embed(&lookups, CPU).unwrap(), &vars, 1e-4);
        // Trained tables may be f32 while the others, and the result, are bf16.
        let rounded = |k: usize| tables[k].detach().to_dtype(DType::BF16).unwrap();
        let mixed = [Param::Tensor(rounded(0)), Param::Tensor(rounded(1)), Param::Tensor(tables[2].detach())];
        let wide = [0, 1].map(|k| Param::Tensor(rounded(k).to_dtype(DType::F32).unwrap()));
        let sum = |tables: [&Param; 3], ops: &dyn Ops| ops.embed(&[0, 1, 2].map(|k| (tables[k], &ids[k][..])), CPU).unwrap();
        let ours = sum([&mixed[0], &mixed[1], &mixed[2]], cuda());
        prop_assert_eq!(ours.dtype(), DType::BF16);
        let reference = sum([&wide[0], &wide[1], &mixed[2]], &Reference);
        prop_assert!(max_difference(&ours.to_dtype(DType::F32).unwrap(), &reference) <= 0.01);
    }

    #[test]
    fn gather_matches_reference(
        n in 1usize..20,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
        (before, width) in (0usize..9, 1usize..40),
        seed: u64,
    ) {
        let x = var(seed, &[n, before + width]);
        let part = x.narrow(1, before, width).unwrap();
        let rows: Vec<u32> = picks.iter().map(|pick| pick.index(n) as u32).collect();
        same(&cuda().gather(&part, &rows).unwrap(), &Reference.gather(&part, &rows).unwrap(), &[&x], 1e-4);
        for dtype in [DType::BF16, DType::F16] {
            same_rounded(dtype, &[part.detach()], 0.0, |ops, inputs| ops.gather(&inputs[0], &rows).unwrap());
        }
    }

    #[test]
    fn mean_matches_reference(
        offsets in spans(),
        width in prop_oneof![1usize..30, Just(16usize), 250usize..270],
        (first, last) in (0usize..3, 0usize..3),
        seed: u64,
    ) {
        // Rows before the first text and after the last belong to no text.
        let offsets: Vec<usize> = offsets.into_iter().map(|offset| offset + first).collect();
        let x = var(seed, &[offsets.last().unwrap() + last, width]);
        let reference = Reference.mean(&x, &offsets).unwrap();
        same(&cuda().mean(&x, &offsets).unwrap(), &reference, &[&x], 1e-5);
        for dtype in [DType::BF16, DType::F16] {
            same_rounded(dtype, &[x.detach()], 0.01, |ops, inputs| ops.mean(&inputs[0], &offsets).unwrap());
        }
    }

    #[test]
    fn heads_of_mixed_sizes_match_each_head_alone(
        n in 1usize..20,
        heads in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 0..20), 1usize..40), 1..6),
        width in prop_oneof![1usize..30, Just(32usize), 200usize..300],
        seed: u64,
    ) {
        let x = tensor(seed, &[n, width]);
        let rows: Vec<Vec<u32>> =
            heads.iter().map(|(picks, _)| picks.iter().map(|pick| pick.index(n) as u32).collect()).collect();
        let linear = |(i, rows): (usize, &Vec<u32>)| {
            let (out, seed) = (heads[i].1, seed ^ (2 * i as u64 + 1));
            (rows.clone(), frozen(seed, &[out, width]), Param::Tensor(tensor(seed ^ 1, &[out])))
        };
        let parts: Vec<_> = rows.iter().enumerate().map(linear).collect();
        let linears: Vec<HeadLinear> = parts
            .iter()
            .map(|(rows, weight, bias)| HeadLinear { rows, weight: weight.clone(), bias: bias.clone() })
            .collect();
        let ours = HeadLinear::split(&cuda().head_linears(&x, &linears).unwrap(), &linears).unwrap();
        for (i, (ours, linear)) in ours.iter().zip(&linears).enumerate() {
            prop_assert_eq!(ours.dims(), [linear.rows.len(), heads[i].1]);
            let alone = |ops: &dyn Ops| ops.head_linears(&x, std::slice::from_ref(linear)).unwrap();
            prop_assert_eq!(bits(ours), bits(&alone(cuda())), "the other heads changed head {}", i);
            for reference in ops().map(alone) {
                prop_assert!(max_difference(&ours.flatten_all().unwrap(), &reference) <= 1e-4);
            }
        }
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
    for ops in [&Cpu, &Reference, cuda()] as [&dyn Ops; 3] {
        let segments = Added::Segments(vec![Segment { rows: 1..5, delta: &delta }]);
        let results = [
            linear(ops, &x, &weight, &bias, segments, true).unwrap(),
            ops.add_segments(&x, &x, &[Segment { rows: 2..6, delta: &delta }]).unwrap(),
            ops.norm(&x, Some(&x), &Norm { weight: &bias, bias: &bias, eps: 1e-5 }).unwrap(),
            ops.gelu(&x).unwrap(),
            ops.rotate(&x, &rotary).unwrap(),
            ops.attention([&x, &x, &x], &heads).unwrap(),
            ops.dropout(&x, Dropout { p: 0.5, seed: 1 }).unwrap(),
            ops.gather(&x, &[0, 1, 2, 3, 3, 0]).unwrap(),
            ops.mean(&x, &[0, 1, 2, 3, 4, 5, 6]).unwrap(),
            ops.head_linears(
                &x,
                &[HeadLinear { rows: &[0, 1, 2, 5, 4, 3], weight: weight.clone(), bias: bias.clone() }],
            )
            .unwrap()
            .reshape(&shape)
            .unwrap(),
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
    for ops in [&Cpu, cuda()] as [&dyn Ops; 2] {
        assert_error(ops.embed(&[(&frozen(1, &[4, 2]), &[4])], CPU), "4 rows, asked for row 4");
        let (narrow, wide) = (frozen(1, &[4, 2]), frozen(1, &[4, 3]));
        assert_error(ops.embed(&[(&narrow, &[1]), (&wide, &[1])], CPU), "different width");
        assert_error(ops.embed(&[(&narrow, &[1]), (&narrow, &[1, 2])], CPU), "different length");
        assert_error(ops.embed(&[], CPU), "no table");
    }
    assert_error(cuda().gather(&x, &[3]), "3 rows, asked for row 3");
    let vector = frozen(2, &[4]);
    let norm = |width: usize, h: &Tensor, r: Option<&Tensor>| {
        let weight = frozen(1, &[width]);
        cuda().norm(h, r, &Norm { weight: &weight, bias: &vector, eps: 1e-5 })
    };
    assert_error(norm(5, &x, None), "expected rows of 5");
    assert_error(norm(4, &x, Some(&tensor(1, &[2, 4]))), "residual of Some((2, 4, F32))");
    let head = |rows: &[u32], width: usize| {
        cuda().head_linears(&x, &[HeadLinear { rows, weight: frozen(1, &[4, width]), bias: vector.clone() }])
    };
    assert_error(head(&[3], 4), "row 3 of 3");
    assert_error(head(&[0], 5), "do not fit rows of 4");
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
    }
    for ops in [&Cpu, &Reference, cuda()] as [&dyn Ops; 3] {
        assert_error(ops.gated_gelu(&tensor(1, &[2, 3])), "even width");
        let rotary = Rotary::new(&[0, 2], 4, 100.0).unwrap();
        assert_error(ops.rotate(&x, &rotary), "expected 2 tokens and heads of size 4, found [3, 4]");
        assert_error(ops.mean(&x, &[0, 4]), "do not lie in 3 rows");
        assert_error(ops.mean(&x, &[2, 1]), "do not lie in 3 rows");
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
        let segments = |spans: &[(usize, usize)]| {
            let segments = spans.iter().map(|&(start, end)| Segment { rows: start..end, delta: &delta }).collect();
            linear(ops, &x, &frozen(1, &[4, 4]), &frozen(2, &[4]), Added::Segments(segments), false)
        };
        assert_error(segments(&[(2, 9)]), "lie outside");
        assert_error(segments(&[(0, 2), (1, 3)]), "overlap others");
    }
}
