//! Attention, with and without a window or a bias.

use super::*;

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
    #![proptest_config(cases(48))]

    #[test]
    fn attention_matches_reference(offsets in spans(), heads in 1usize..5, size in 1usize..20, p in 0f32..0.6, seed: u64) {
        let shape = [*offsets.last().unwrap(), heads * size];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        for dropout in [None, Some(Dropout { p, seed })] {
            let how = Heads { offsets: &offsets, heads, scale: 0.7, window: None, bias: None, dropout };
            let reference = Reference.attention([&q, &k, &v], &how).unwrap();
            simd::each(|| same(&Cpu.attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 2e-5));
            same(&cuda().attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 2e-5);
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
    fn windowed_attention_matches_reference(
        offsets in spans(), window in prop_oneof![6 => 0usize..6, 1 => Just(usize::MAX)], p in 0f32..0.6, seed: u64,
    ) {
        let shape = [*offsets.last().unwrap(), 12];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        for dropout in [None, Some(Dropout { p, seed })] {
            let how = Heads { offsets: &offsets, heads: 3, scale: 0.7, window: Some(window), bias: None, dropout };
            let reference = Reference.attention([&q, &k, &v], &how).unwrap();
            simd::each(|| same(&Cpu.attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 2e-5));
            same(&cuda().attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 2e-5);
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
            same(&cuda().attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v], 5e-5);
            let trained = Var::from_tensor(&bias).unwrap();
            let how = Heads { bias: Some(&trained), ..how };
            let reference = Reference.attention([&q, &k, &v], &how).unwrap();
            same(&cuda().attention([&q, &k, &v], &how).unwrap(), &reference, &[&q, &k, &v, &trained], 1e-4);
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

    /// Also where only the first token of each text has a gradient.
    #[test]
    fn attention_gradients_match_reference_at_any_length_and_size(
        lengths in prop::collection::vec(prop_oneof![6 => 0usize..60, 1 => 240usize..=270], 1..3), heads in 1usize..4, size in 1usize..=80, biased: bool, first: bool, seed: u64,
    ) {
        let offsets = offsets_of(&lengths);
        let starts: Vec<u32> = offsets.windows(2).filter(|span| span[0] < span[1]).map(|span| span[0] as u32).collect();
        prop_assume!(!starts.is_empty());
        let shape = [offsets[lengths.len()], heads * size];
        let (q, k, v) = (var(seed, &shape), var(seed ^ 1, &shape), var(seed ^ 2, &shape));
        let bias = table(seed ^ 3, heads, 280);
        let how = Heads { offsets: &offsets, heads, scale: 0.4, window: None, bias: biased.then_some(&bias), dropout: None };
        let some = |y: Tensor| if first { y.index_select(&Tensor::new(&starts[..], CPU).unwrap(), 0).unwrap() } else { y };
        let reference = some(Reference.attention([&q, &k, &v], &how).unwrap());
        simd::each(|| same(&some(Cpu.attention([&q, &k, &v], &how).unwrap()), &reference, &[&q, &k, &v], 1e-4));
    }

    /// The gradient of a trained bias matches a finite difference of the result.
    #[test]
    fn bias_gradient_matches_finite_differences(offsets in spans(), heads in 1usize..4, size in 1usize..8, seed: u64) {
        let shape = [*offsets.last().unwrap(), heads * size];
        let [q, k, v, weighting] = [0, 1, 2, 3].map(|i| Tensor::from_vec(random(seed ^ i, &shape), &shape[..], CPU).unwrap());
        let (bias, direction) = (var(seed ^ 4, &[heads, 37]), table(seed ^ 5, heads, 19));
        for ops in [&Cpu, cuda()] {
            let value = |bias: &Tensor| {
                let how = Heads { offsets: &offsets, heads, scale: 0.7, window: None, bias: Some(bias), dropout: None };
                (ops.attention([&q, &k, &v], &how).unwrap() * &weighting).unwrap().sum_all().unwrap()
            };
            let gradients = value(&bias).backward().unwrap();
            let along = (gradients.get(&bias).unwrap() * &direction).unwrap().sum_all().unwrap();
            let along = along.to_scalar::<f32>().unwrap();
            let step = 1e-2;
            let [above, below] = [step, -step].map(|step| {
                let moved = (bias.as_detached_tensor() + (&direction * step).unwrap()).unwrap();
                value(&moved).to_scalar::<f32>().unwrap()
            });
            let slope = (above - below) / (2.0 * step as f32);
            prop_assert!((slope - along).abs() <= 0.02 * along.abs() + 3e-3, "{ops:?}: slope {slope}, gradient {along}");
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
}

/// A head size: one for which there is a kernel, or any other.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![2 => prop::sample::select(&[8usize, 16, 32, 64][..]), 2 => 1usize..100, 1 => prop::sample::select(&[128usize, 256][..])]
}

proptest! {
    // A GPU's kernel takes long on the CPU.
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The inputs are narrow views of one tensor, as a product of three linears gives them. With `apart`, rows are not aligned.
    #[test]
    fn attention_on_a_gpu_matches_reference_at_any_length_and_size(
        lengths in prop::collection::vec(prop_oneof![1 => Just(0), 8 => 1usize..=140], 1..4), heads in 1usize..3, size in size(),
        window in prop::option::of(0usize..90), biased: bool, p in prop::option::of(0f32..0.6), apart in 0usize..2, seed: u64,
    ) {
        let offsets = offsets_of(&lengths);
        prop_assume!(offsets[lengths.len()] > 0);
        let hidden = heads * size;
        let qkv = var(seed, &[offsets[lengths.len()], 3 * hidden + apart]);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.narrow(1, i * hidden, hidden).unwrap());
        let bias = table(seed ^ 3, heads, 140);
        let dropout = p.map(|p| Dropout { p, seed });
        let how = Heads { offsets: &offsets, heads, scale: 0.5, window, bias: biased.then_some(&bias), dropout };
        let ours = cuda().attention([&q, &k, &v], &how).unwrap();
        same(&ours, &Reference.attention([&q, &k, &v], &how).unwrap(), &[&qkv], 1e-4);
        let how = Heads { dropout: None, ..how };
        let whole = cuda().attention([&q, &k, &v], &how).unwrap().detach();
        for span in offsets.windows(2) {
            let part = |x: &Tensor| x.narrow(0, span[0], span[1] - span[0]).unwrap().detach();
            let how = Heads { offsets: &[0, span[1] - span[0]], ..how.clone() };
            let alone = cuda().attention([&part(&q), &part(&k), &part(&v)], &how).unwrap();
            prop_assert_eq!(bits(&alone), bits(&part(&whole)));
        }
    }

    /// In the types of 16 bits, forward and backward.
    #[test]
    fn attention_on_a_gpu_rounds_only(
        lengths in prop::collection::vec(0usize..100, 1..3), size in size(), window in prop::option::of(0usize..90), biased: bool,
        seed: u64,
    ) {
        let offsets = offsets_of(&lengths);
        prop_assume!(offsets[lengths.len()] > 0);
        let shape = [offsets[lengths.len()], 2 * size];
        let inputs = [seed, seed ^ 1, seed ^ 2].map(|seed| tensor(seed, &shape));
        let bias = table(seed ^ 3, 2, 100);
        let bias = biased.then_some(&bias);
        let scale = 1.0 / (size as f64).sqrt();
        let how = Heads { offsets: &offsets, heads: 2, scale, window, bias, dropout: None };
        let results = |ops: &dyn Ops, inputs: &[Tensor]| {
            let vars = [0, 1, 2].map(|i| Var::from_tensor(&inputs[i]).unwrap());
            let y = ops.attention([&vars[0], &vars[1], &vars[2]], &how).unwrap();
            let weighting = tensor(99, &shape).to_dtype(y.dtype()).unwrap();
            let gradients = (&y * weighting).unwrap().sum_all().unwrap().backward().unwrap();
            let [dq, dk, dv] = [0, 1, 2].map(|i| gradients.get(&vars[i]).unwrap());
            Tensor::cat(&[&y, dq, dk, dv], 1).unwrap().detach()
        };
        for (dtype, tolerance) in [(DType::BF16, 0.02), (DType::F16, 0.003)] {
            same_rounded(dtype, &inputs, tolerance, results);
        }
    }
}

/// A text gets the same bits beside short texts, which small blocks compute, and beside long ones.
#[test]
fn attention_on_a_gpu_does_not_depend_on_the_size_of_blocks() {
    for (size, window) in [(64, None), (64, Some(9)), (32, None), (128, None)] {
        for dtype in [DType::F32, DType::BF16] {
            let qkv = [1, 2, 3].map(|seed| tensor(seed, &[40 + 3 * 140, 2 * size]).to_dtype(dtype).unwrap());
            let attended = |offsets: &[usize]| {
                let how = Heads { offsets, heads: 2, scale: 0.3, window, bias: None, dropout: None };
                let [q, k, v] = [0, 1, 2].map(|i| qkv[i].narrow(0, 0, offsets[offsets.len() - 1]).unwrap());
                let y = cuda().attention([&q, &k, &v], &how).unwrap().narrow(0, 0, 40).unwrap();
                bits(&y.to_dtype(DType::F32).unwrap())
            };
            assert_eq!(attended(&[0, 25, 40]), attended(&[0, 25, 40, 180, 320, 460]), "{size} {window:?} {dtype:?}");
        }
    }
}

/// What only the GPU's form refuses.
#[test]
fn attention_on_a_gpu_names_what_it_cannot_do() {
    let how = Heads { offsets: &[0, 2], heads: 1, scale: 1.0, window: None, bias: None, dropout: None };
    let error = |q: &Tensor, k: &Tensor| cuda().attention([q, k, k], &how).unwrap_err().to_string();
    let wide = tensor(1, &[2, 257]);
    assert!(error(&wide, &wide).contains("heads of size 257, but on a GPU they may have at most 256"));
    let narrow = wide.to_dtype(DType::BF16).unwrap();
    assert!(error(&narrow, &wide).contains("q BF16, k F32, v F32 differ in type"));
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
            let check = |ops: &dyn Ops| {
                let y = ops.attention([&q, &k, &v], &how).unwrap().to_vec2::<f32>().unwrap();
                assert!(
                    y[len - 2][..4].iter().all(|x| x.is_nan()),
                    "{bad} in a text of {len} tokens: {:?}",
                    y[len - 2]
                );
                assert!(y[0].iter().chain(&y[len - 2][4..]).all(|x| x.is_finite()));
            };
            simd::each(|| check(&Cpu));
            if len < MAX_FUSED_LEN {
                check(cuda());
            }
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
