//! Linears, with and without deltas.

use super::*;

use crate::cuda::{LAUNCHES, address};

/// The number of launches of kernels while `run` runs.
fn launches(run: impl FnOnce()) -> usize {
    let before = LAUNCHES.get();
    run();
    LAUNCHES.get() - before
}

/// Checks that the kernel matches the reference, and that rows in no segment are bit-identical to the base's.
fn assert_segments(ops: &dyn Ops, x: &Tensor, linears: &[Linear], reference: &[Tensor]) {
    let ours = ops.linears(x, linears).unwrap();
    for ((ours, reference), one) in ours.iter().zip(reference).zip(linears) {
        // Sums of many products are large, and a GPU's products of f32 are exact to about 2^-21 of each.
        let largest =
            reference.abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().fold(1.0, f32::max);
        let worst = max_difference(ours, reference);
        assert!(worst <= 1e-4 * (largest / 8.0).max(1.0), "differs by {worst}, the largest is {largest}");
        let bare = linear(ops, x, &one.weight, &one.bias, Added::Nothing, one.gelu).unwrap();
        let Added::Segments(segments) = &one.added else { unreachable!() };
        let free = |row: &usize| !segments.iter().any(|segment| segment.rows.contains(row));
        for row in (0..x.dim(0).unwrap()).filter(free) {
            assert_eq!(bits(&ours.get(row).unwrap()), bits(&bare.get(row).unwrap()));
        }
    }
}

/// A frozen parameter whose values `dtype` can hold.
fn frozen_as(dtype: DType, param: &Param) -> Param {
    let rounded = param.tensor().unwrap().to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
    let data = rounded.flatten_all().unwrap().to_vec1().unwrap();
    Param::Frozen(Frozen::host("w", rounded.dims(), data))
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn linear_matches_reference(rows in 0usize..40, width in 1usize..70, out in 1usize..70, gelu: bool, seed: u64) {
        let x = var(seed, &[rows, width]);
        let (w, b) = (frozen(seed ^ 1, &[out, width]), frozen(seed ^ 2, &[out]));
        // Tracked, as in training, then untracked, as in inference: the kernel takes different paths.
        let [ours, reference] = ops().map(|ops| linear(ops, &x, &w, &b, Added::Nothing, gelu).unwrap());
        same(&ours, &reference, &[&x], 2e-5);
        same(&linear(cuda(), &x, &w, &b, Added::Nothing, gelu).unwrap(), &reference, &[&x], 2e-5);
        let plain = x.as_detached_tensor();
        for ops in [&Cpu as &dyn Ops, cuda()] {
            let ours = linear(ops, &plain, &w, &b, Added::Nothing, gelu).unwrap();
            assert!(max_difference(&ours, &reference) <= 2e-5);
        }
        // An empty result has no largest element.
        for dtype in [DType::BF16, DType::F16].into_iter().filter(|_| rows > 0) {
            let rounded = frozen_as(dtype, &w);
            same_rounded(dtype, std::slice::from_ref(&plain), 0.01, |ops, inputs| linear(ops, &inputs[0], &rounded, &b, Added::Nothing, gelu).unwrap());
        }
    }

    #[test]
    fn linear_with_a_trained_bias_matches_reference(rows in 1usize..20, width in 1usize..40, out in 1usize..40, gelu: bool, seed: u64) {
        let (x, b) = (var(seed, &[rows, width]), var(seed ^ 2, &[out]));
        let (w, bias) = (frozen(seed ^ 1, &[out, width]), Param::Tensor(b.as_tensor().clone()));
        let [ours, reference] = ops().map(|ops| linear(ops, &x, &w, &bias, Added::Nothing, gelu).unwrap());
        same(&ours, &reference, &[&x, &b], 2e-5);
        same(&linear(cuda(), &x, &w, &bias, Added::Nothing, gelu).unwrap(), &reference, &[&x, &b], 2e-5);
    }

    #[test]
    fn trained_parameters_of_every_mix_match_reference_on_a_gpu(
        rows in 1usize..20, width in 1usize..40, out in 1usize..40, rank in 1usize..20, which in prop::array::uniform5(any::<bool>()), gelu: bool, seed: u64,
    ) {
        let shapes = [vec![rows, width], vec![out, width], vec![out], vec![rank, width], vec![out, rank]];
        let vars: Vec<Var> = shapes.iter().enumerate().map(|(i, shape)| var(seed ^ i as u64, shape)).collect();
        // Which inputs are trained. At least one is, or there would be no gradient.
        let tracked = |i: usize| which[i] || i == 3;
        let tensor = |i: usize| if tracked(i) { vars[i].as_tensor().clone() } else { vars[i].as_detached_tensor() };
        let [x, w, b, delta_a, delta_b] = [0, 1, 2, 3, 4].map(tensor);
        let delta = Delta { a: delta_a, b: delta_b, scale: 0.5 };
        let half = rows / 2;
        let segments = || Added::Segments(vec![Segment { rows: 0..half, delta: &delta }, Segment { rows: half..rows, delta: &delta }]);
        let trained: Vec<&Var> = (0..5).filter(|i| tracked(*i)).map(|i| &vars[i]).collect();
        for added in [Added::Whole(delta.clone()), segments()] {
            let run = |ops: &dyn Ops| linear(ops, &x, &Param::Tensor(w.clone()), &Param::Tensor(b.clone()), added.clone(), gelu).unwrap();
            same(&run(cuda()), &run(&Reference), &trained, 2e-4);
        }
        let sum = |ops: &dyn Ops| {
            let Added::Segments(segments) = segments() else { unreachable!() };
            ops.add_segments(&x, &w.narrow(0, 0, 1).unwrap().broadcast_as((rows, width)).unwrap(), &segments)
        };
        if out == width {
            same(&sum(cuda()).unwrap(), &sum(&Reference).unwrap(), &[&vars[3]], 2e-4);
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
        let ours = linear(cuda(), &x, &weight, &bias, Added::Whole(delta.clone()), gelu).unwrap();
        same(&ours, &reference, &[&x, &a, &b], 2e-4);
        let plain = Delta { a: a.as_detached_tensor(), b: b.as_detached_tensor(), scale: 0.5 };
        let ours = linear(cuda(), &x.as_detached_tensor(), &weight, &bias, Added::Whole(plain), gelu).unwrap();
        assert!(max_difference(&ours, &reference) <= 1e-4);
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
        simd::each(|| assert_segments(&Cpu, &x, &linears, &reference));
        let count = launches(|| assert_segments(cuda(), &x, &linears, &reference));
        // Two with the deltas, and one for each bare linear.
        prop_assert!(count <= 2 + 3, "{count} launches");
        {
            let dtype = if seed.is_multiple_of(2) { DType::BF16 } else { DType::F16 };
            let converted = |t: &Tensor| t.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
            let same_delta = |delta: &Delta| Delta { a: converted(&delta.a), b: converted(&delta.b), scale: delta.scale };
            let rounded: Vec<Vec<(std::ops::Range<usize>, Delta)>> = deltas
                .iter()
                .map(|deltas| deltas.iter().map(|(rows, delta)| (rows.clone(), same_delta(delta))).collect())
                .collect();
            for (i, one) in linears.iter().enumerate() {
                let added = || Added::Segments(rounded[i].iter().map(|(rows, delta)| Segment { rows: rows.clone(), delta }).collect());
                let weight = frozen_as(dtype, &one.weight);
                same_rounded(dtype, std::slice::from_ref(&x), 0.02, |ops, inputs| {
                    linear(ops, &inputs[0], &weight, &one.bias, added(), gelu).unwrap()
                });
            }
        }
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
            let ours = cuda().add_segments(&x, &y, segments).unwrap();
            prop_assert!(max_difference(&ours, &reference) <= 1e-4);
            prop_assert_eq!(bits(&y), bits(&tensor(seed ^ 9, &[start + 2, out])), "an operation changed its input");
            for Segment { rows, delta } in segments.iter().filter(|segment| !segment.rows.is_empty()) {
                let part = |t: &Tensor| t.narrow(0, rows.start, rows.len()).unwrap();
                let alone = cuda().add_segments(&part(&x), &part(&y), &[Segment { rows: 0..rows.len(), delta }]).unwrap();
                prop_assert_eq!(bits(&alone), bits(&part(&ours)));
            }
        }
    }
}

#[test]
fn an_empty_list_of_segments_is_bit_identical_to_the_base() {
    let (x, w, b) = (tensor(3, &[5, 4]), frozen(1, &[7, 4]), frozen(2, &[7]));
    for ops in ops().into_iter().chain([cuda()]) {
        let [bare, empty] =
            [Added::Nothing, Added::Segments(Vec::new())].map(|added| linear(ops, &x, &w, &b, added, false));
        assert_eq!(bits(&bare.unwrap()), bits(&empty.unwrap()));
    }
}

/// Widths that the GPU's kernels read in words of 16 bytes: several blocks and warps across, ranks above 16 and above 24, rows between
/// segments, more rows than a tile has, and outputs side by side.
#[test]
fn aligned_widths_match_reference_on_a_gpu() {
    let (rows, width, outs) = (75, 552, [328, 64, 16]);
    let x = tensor(1, &[rows, width]);
    let delta = |seed, rank: usize, out| Delta {
        a: tensor(seed, &[rank, width]),
        b: tensor(seed + 50, &[rank, out]).t().unwrap(),
        scale: 0.3,
    };
    let ranks = [[9, 40, 3], [16, 1, 2], [17, 8, 24]];
    let deltas: Vec<Vec<Delta>> =
        (0..3).map(|i| (0..3).map(|j| delta((10 * i + j) as u64, ranks[i][j], outs[i])).collect()).collect();
    for gelu in [false, true] {
        let linears: Vec<Linear> = (0..3)
            .map(|i| {
                let spans = [3..8, 20..45, 45..75].into_iter().zip(&deltas[i]);
                let segments = spans.map(|(rows, delta)| Segment { rows, delta }).collect();
                let (weight, bias) = (frozen(70 + i as u64, &[outs[i], width]), frozen(80 + i as u64, &[outs[i]]));
                Linear { weight, bias, added: Added::Segments(segments), gelu }
            })
            .collect();
        assert_segments(cuda(), &x, &linears, &Reference.linears(&x, &linears).unwrap());
    }
}

/// Matrices that cannot be read in words of 16 bytes give the same bits.
#[test]
fn unaligned_matrices_do_not_change_bits_on_a_gpu() {
    let (rows, width, out, rank) = (40, 72, 264, 19);
    let (x, weight, bias) = (tensor(1, &[rows, width]), frozen(2, &[out, width]), frozen(3, &[out]));
    // A matrix behind some elements of other memory.
    let matrix = |seed, columns: usize, before: usize| {
        let front = Tensor::zeros(before, DType::F32, CPU).unwrap();
        let all = Tensor::cat(&[front, tensor(seed, &[rank * columns])], 0).unwrap();
        all.narrow(0, before, rank * columns).unwrap().reshape((rank, columns)).unwrap()
    };
    let run = |before| {
        let delta = Delta { a: matrix(4, width, before), b: matrix(5, out, before).t().unwrap(), scale: 0.5 };
        assert_eq!(address(&delta.a).unwrap().is_multiple_of(16), before == 4);
        let added = Added::Segments(vec![Segment { rows: 5..rows, delta: &delta }]);
        linear(cuda(), &x, &weight, &bias, added, true).unwrap()
    };
    assert_eq!(bits(&run(1)), bits(&run(4)));
}

/// Tall tiles, as large batches have, give the same bits as tiles of 16 rows. Many segments travel in a table.
#[test]
fn tall_tiles_and_many_segments_do_not_change_bits_on_a_gpu() {
    let (rows, width, out) = (700 * 16 + 40, 24, 16);
    let (x, y) = (tensor(1, &[rows, width]), tensor(2, &[rows, out]));
    let deltas: Vec<Delta> = (0..100u64)
        .map(|i| Delta {
            a: tensor(i + 3, &[i as usize % 9 + 1, width]),
            b: tensor(i + 200, &[out, i as usize % 9 + 1]),
            scale: 0.7,
        })
        .collect();
    let each = rows / deltas.len();
    let segments: Vec<Segment> =
        deltas.iter().enumerate().map(|(i, delta)| Segment { rows: i * each..(i + 1) * each, delta }).collect();
    let all = cuda().add_segments(&x, &y, &segments).unwrap();
    for Segment { rows, delta } in segments.iter().step_by(7) {
        let part = |t: &Tensor| t.narrow(0, rows.start + 3, 20).unwrap();
        let alone = cuda().add_segments(&part(&x), &part(&y), &[Segment { rows: 0..20, delta }]).unwrap();
        assert_eq!(bits(&alone), bits(&part(&all)));
    }
    assert!(max_difference(&all, &Reference.add_segments(&x, &y, &segments).unwrap()) <= 1e-4);
}

/// Weights that lie one after the other in memory take one product, whose parts are views.
#[test]
fn neighbouring_weights_share_a_product_on_a_gpu() {
    // All on the device itself: copies of the weights would not be neighbours.
    crate::cuda::run_on_host(polyrank_on_host::launch);
    let tensor = |seed, shape: &[usize]| tensor(seed, shape).to_device(on_device::device()).unwrap();
    let (x, outs) = (tensor(1, &[7, 16]), [8, 24, 16]);
    let (weights, bias) = (tensor(2, &[48, 16]), tensor(3, &[48]));
    let delta = Delta { a: tensor(4, &[3, 16]), b: tensor(5, &[24, 3]), scale: 0.5 };
    let linears = [0, 1, 2].map(|i| {
        let part = |t: &Tensor| Param::Tensor(t.narrow(0, outs[..i].iter().sum(), outs[i]).unwrap());
        let added = if i == 1 { Added::Segments(vec![Segment { rows: 2..5, delta: &delta }]) } else { Added::Nothing };
        Linear { weight: part(&weights), bias: part(&bias), added, gelu: i == 2 }
    });
    let mut ours = Vec::new();
    assert_eq!(launches(|| ours = Cuda.linears(&x, &linears).unwrap()), 2);
    for (ours, reference) in ours.iter().zip(Reference.linears(&x, &linears).unwrap()) {
        assert_eq!(ours.stride(), [48, 1]);
        assert!(max_difference(&on_host(ours), &on_host(&reference)) <= 1e-5);
    }
    assert_eq!(address(&ours[1]).unwrap() - address(&ours[0]).unwrap(), 4 * 8);
    // A view is an input like others.
    let (w, b) = (Param::Tensor(tensor(6, &[5, 24])), Param::Tensor(tensor(7, &[5])));
    let [viewed, copied] = [ours[1].clone(), ours[1].contiguous().unwrap()]
        .map(|x| linear(&Cuda, &x, &w, &b, Added::Nothing, true).unwrap());
    assert_eq!(bits(&viewed), bits(&copied));
    // Others do not.
    let apart = [&linears[2], &linears[0]].map(Clone::clone);
    for (ours, reference) in Cuda.linears(&x, &apart).unwrap().iter().zip(Reference.linears(&x, &apart).unwrap()) {
        assert!(ours.is_contiguous());
        assert!(max_difference(&on_host(ours), &on_host(&reference)) <= 1e-5);
    }
}

/// A copy on the CPU.
fn on_host(tensor: &Tensor) -> Tensor {
    tensor.to_device(CPU).unwrap()
}

/// A launch happens only if there is something to add.
#[test]
fn linears_without_bias_delta_and_gelu_launch_nothing_on_a_gpu() {
    let (x, w, delta) =
        (tensor(1, &[5, 8]), frozen(1, &[8, 8]), Delta { a: tensor(2, &[1, 8]), b: tensor(3, &[8, 1]), scale: 1.0 });
    let absent = Param::Frozen(Frozen::zeros(&[8], &Backend::cpu()).unwrap());
    let segments = |rows| Added::Segments(vec![Segment { rows, delta: &delta }]);
    for (bias, added, gelu, expected) in [
        (&absent, Added::Nothing, false, 0),
        (&absent, segments(3..3), false, 0),
        (&absent, Added::Nothing, true, 1),
        (&frozen(4, &[8]), Added::Nothing, false, 1),
        (&absent, segments(1..3), false, 2),
        (&frozen(4, &[8]), segments(1..3), true, 2),
    ] {
        assert_eq!(launches(|| drop(linear(cuda(), &x, &w, bias, added.clone(), gelu).unwrap())), expected);
    }
    let five = vec![Linear { weight: w.clone(), bias: frozen(4, &[8]), added: segments(0..5), gelu: false }; 5];
    let (ours, reference) = (cuda().linears(&x, &five).unwrap(), Reference.linears(&x, &five).unwrap());
    assert!(ours.iter().zip(&reference).all(|(ours, reference)| max_difference(ours, reference) <= 1e-5));
}

#[test]
fn mismatched_shapes_are_errors_on_a_gpu() {
    let x = tensor(1, &[3, 4]);
    let assert_error = |result: Result<Tensor>, words: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let run = |out: usize, width: usize, added| {
        linear(cuda(), &x, &frozen(1, &[out, width]), &frozen(2, &[out]), added, false)
    };
    assert_error(run(2, 5, Added::Nothing), "linear w: expected rows of 5, found 4");
    let delta = Delta { a: tensor(1, &[1, 4]), b: tensor(1, &[4, 1]), scale: 1.0 };
    assert_error(run(5, 4, Added::Whole(delta.clone())), "expected B of 5 rows, found 4");
    let transposed = Delta { a: delta.b.clone(), b: delta.a.clone(), scale: 1.0 };
    assert_error(run(4, 4, Added::Whole(transposed)), "expected x [T, in]");
    let segments = |spans: &[(usize, usize)]| {
        Added::Segments(spans.iter().map(|&(start, end)| Segment { rows: start..end, delta: &delta }).collect())
    };
    assert_error(run(4, 4, segments(&[(2, 9)])), "lie outside");
    assert_error(run(4, 4, segments(&[(0, 2), (1, 3)])), "overlap others");
    assert_error(
        linear(cuda(), &x, &frozen(1, &[4, 4]), &frozen(2, &[3]), Added::Nothing, false),
        "bias of 4 elements",
    );
    let Added::Segments(outside) = segments(&[(2, 9)]) else { unreachable!() };
    assert_error(cuda().add_segments(&x, &x, &outside), "lie outside");
}

/// In bf16, trained matrices are f32 masters, and their gradients are f32.
#[test]
fn training_in_bf16_gives_f32_gradients_close_to_the_reference() {
    let (x, a, b) = (tensor(1, &[30, 40]).to_dtype(DType::BF16).unwrap(), var(2, &[5, 40]), var(3, &[24, 5]));
    let (weight, bias) = (frozen_as(DType::BF16, &frozen(4, &[24, 40])), var(5, &[24]));
    let delta = Delta { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale: 0.5 };
    let frozen_bias = Param::Frozen(Frozen::host("b", &[24], bias.to_vec1().unwrap()));
    for bias_param in [frozen_bias, Param::Tensor(bias.as_tensor().clone())] {
        let run = |ops: &dyn Ops, x: &Tensor| {
            let y = linear(ops, x, &weight, &bias_param, Added::Whole(delta.clone()), true).unwrap();
            assert_eq!(y.dtype(), x.dtype());
            let y = y.to_dtype(DType::F32).unwrap();
            (y.clone(), y.sqr().unwrap().sum_all().unwrap().backward().unwrap())
        };
        let ((ours, gradients), (reference, expected)) =
            (run(cuda(), &x), run(&Reference, &x.to_dtype(DType::F32).unwrap()));
        assert!(max_difference(&ours, &reference) <= 0.1);
        for var in [&a, &b] {
            let (ours, expected) = (gradients.get(var).unwrap(), expected.get(var).unwrap());
            assert_eq!(ours.dtype(), DType::F32);
            let largest = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(max_difference(ours, expected) <= 0.03 * largest);
        }
    }
}

/// Linears that read the same x, in training on a GPU: what a proptest varies.
#[derive(Debug, Clone)]
struct Adapted {
    rows: usize,
    width: usize,
    /// The columns and the rank of each linear; `None` for one without a delta.
    outs: Vec<(usize, Option<usize>)>,
    neighbours: bool,
    tracked: bool,
    gelu: bool,
    /// Which outputs the loss depends on. Others than the first may be left out.
    used: [bool; 3],
    seed: u64,
}

fn adapted() -> impl Strategy<Value = Adapted> {
    let outs = prop::collection::vec((1usize..70, prop::option::weighted(0.8, 1usize..20)), 1..4);
    (1usize..90, 1usize..70, outs, any::<[bool; 3]>(), any::<[bool; 3]>(), any::<u64>()).prop_map(
        |(rows, width, mut outs, [neighbours, tracked, gelu], mut used, seed)| {
            outs[0].1.get_or_insert(3);
            used[0] = true;
            Adapted { rows, width, outs, neighbours, tracked, gelu, used, seed }
        },
    )
}

impl Adapted {
    /// Weights that lie one after another in memory if they are neighbours.
    fn weights(&self, dtype: DType) -> Vec<Tensor> {
        let all: usize = self.outs.iter().map(|(out, _)| out).sum();
        let whole = tensor(self.seed ^ 1, &[all, self.width]).to_dtype(dtype).unwrap();
        let mut next = 0;
        let part = |(out, _): &(usize, _)| {
            next += out;
            let part = whole.narrow(0, next - out, *out).unwrap();
            if self.neighbours { part } else { part.copy().unwrap() }
        };
        self.outs.iter().map(part).collect()
    }

    /// Compares outputs and gradients in `dtype` with the reference in f32, up to `tolerance` of the largest.
    fn check(&self, dtype: DType, tolerance: f32) {
        let device = on_device::device();
        let weights = self.weights(dtype);
        let x = Var::from_tensor(&tensor(self.seed, &[self.rows, self.width]).to_dtype(dtype).unwrap()).unwrap();
        let x = if self.tracked { x.as_tensor().clone() } else { x.as_detached_tensor() };
        let rounded = |t: &Tensor| t.to_dtype(dtype).unwrap();
        let (mut ours, mut theirs, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for (i, ((out, rank), weight)) in self.outs.iter().zip(&weights).enumerate() {
            let seed = self.seed ^ (10 * i as u64 + 2);
            let bias = frozen(seed, &[*out]);
            let one =
                |weight, added| Linear { weight: Param::Tensor(weight), bias: bias.clone(), added, gelu: self.gelu };
            let Some(rank) = rank else {
                ours.push(one(weight.clone(), Added::Nothing));
                theirs.push(one(weight.to_dtype(DType::F32).unwrap(), Added::Nothing));
                continue;
            };
            let (a, bt) =
                (rounded(&tensor(seed ^ 3, &[*rank, self.width])), rounded(&tensor(seed ^ 4, &[*rank, *out])));
            let wide = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F32).unwrap()).unwrap();
            let (wide_a, wide_b) = (wide(&a), wide(&bt.t().unwrap().contiguous().unwrap()));
            let of = |a: &Tensor, b: &Tensor| Delta { a: a.clone(), b: b.clone(), scale: 0.5 };
            // What is there is added to.
            let gradients = [&a, &bt].map(|t| Tensor::ones(t.shape(), DType::F32, device).unwrap());
            let delta = of(&a.to_device(device).unwrap(), &bt.to_device(device).unwrap().t().unwrap());
            let anchor = Var::zeros(1, DType::F32, device).unwrap().into_inner();
            ours.push(one(
                weight.clone(),
                Added::Trained(TrainedDelta { delta, gradients: gradients.clone(), anchor }),
            ));
            theirs.push(one(
                weight.to_dtype(DType::F32).unwrap(),
                Added::Whole(of(wide_a.as_tensor(), wide_b.as_tensor())),
            ));
            sums.push((self.used[i], gradients, wide_a, wide_b));
        }
        let wide_x = Var::from_tensor(&x.to_dtype(DType::F32).unwrap()).unwrap();
        let run = |ops: &dyn Ops, x: &Tensor, linears: &[Linear]| {
            let ys = ops.linears(x, linears).unwrap();
            let loss = |(y, used): (&Tensor, &bool)| {
                used.then(|| y.to_dtype(DType::F32).unwrap().sqr().unwrap().sum_all().unwrap())
            };
            let loss = ys.iter().zip(&self.used).filter_map(loss).reduce(|a, b| (a + b).unwrap()).unwrap();
            (ys, loss.backward().unwrap())
        };
        let (ys, gradients) = run(cuda(), &x, &ours);
        let (expected, wide) = run(&Reference, &wide_x, &theirs);
        let close = |ours: &Tensor, theirs: &Tensor| {
            let largest = theirs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1.0);
            let worst = max_difference(&ours.to_device(CPU).unwrap().to_dtype(DType::F32).unwrap(), theirs);
            assert!(worst <= tolerance * largest, "off by {worst} of {largest}");
        };
        ys.iter().zip(&expected).for_each(|(ours, theirs)| close(ours, theirs));
        if self.tracked {
            close(gradients.get(&x).unwrap(), wide.get(&wide_x).unwrap());
        }
        for (used, [da, dbt], a, b) in sums {
            let of = |var: &Var| if used { wide.get(var).unwrap().clone() } else { var.zeros_like().unwrap() };
            close(&(da - 1.0).unwrap(), &of(&a));
            close(&(dbt - 1.0).unwrap().t().unwrap(), &of(&b));
        }
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn trained_deltas_match_reference_on_a_gpu(adapted in adapted()) {
        adapted.check(DType::F32, 1e-4);
        adapted.check(DType::BF16, 0.03);
    }
}

/// Query, key and value, as in RoBERTa: the launches of the kernels, without cuBLAS's products.
#[test]
fn trained_linears_share_launches() {
    let outs = vec![(64, Some(8)); 3];
    let adapted =
        Adapted { rows: 20, width: 64, outs, neighbours: true, tracked: true, gelu: false, used: [true; 3], seed: 7 };
    // Shrink and expand, then the small products of the backward pass and the sums.
    assert!(launches(|| adapted.check(DType::F32, 1e-4)) <= 4);
    let one = Adapted { outs: vec![(64, Some(8))], gelu: true, ..adapted };
    assert!(launches(|| one.check(DType::BF16, 0.03)) <= 6);
}
