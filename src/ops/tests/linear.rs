//! Linears, with and without deltas.

use super::*;

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

proptest! {
    #![proptest_config(cases(48))]

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
