//! DeBERTa's attention.

use super::*;
use crate::ops::disentangled;

proptest! {
    #![proptest_config(cases(48))]

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
