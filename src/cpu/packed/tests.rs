#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::tile::every_sums;
use super::*;

fn random(rng: &mut StdRng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The product in f64.
fn exact(x: &[f32], w: &[f32], b: Option<&[f32]>, width: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
    let row = |x: &[f32]| -> Vec<f64> {
        w.chunks(width).enumerate().map(|(j, w)| dot(x, w) + b.map_or(0.0, |b| f64::from(b[j]))).collect()
    };
    x.chunks(width).flat_map(row).collect()
}

/// The error allowed for each precision, for products of `width` terms in [-1, 1]: the rounding error of one element times the
/// square root of the number of terms, with a margin for the largest of many errors.
fn tolerance(precision: Precision, width: usize) -> f64 {
    let step = match precision {
        Precision::F32 => 1e-6,
        Precision::Bf16 => 2.0f64.powi(-9),
        Precision::Int8 => 0.5 / 127.0,
    };
    6.0 * step * (width as f64).sqrt() + 1e-6
}

const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn apply_matches_f64_within_tolerance(rows in 0usize..40, out in 1usize..100, width in 1usize..130, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (x, w, b) = (random(&mut rng, rows * width), random(&mut rng, out * width), random(&mut rng, out));
        for precision in ALL {
            let packed = Prepacked::new(&w, out, width, precision);
            for bias in [None, Some(&b[..])] {
                let y = packed.apply(&x, bias);
                let expected = exact(&x, &w, bias, width);
                prop_assert_eq!(y.len(), expected.len());
                for (y, expected) in y.iter().zip(expected) {
                    let error = (f64::from(*y) - expected).abs();
                    prop_assert!(error < tolerance(precision, width), "{}: {} for {}", precision, y, expected);
                }
            }
        }
    }

    /// A row's result does not depend on the number of rows beside it or on the threads, bit for bit.
    #[test]
    fn rows_do_not_depend_on_other_rows(rows in 1usize..30, out in 1usize..80, width in 1usize..90, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (x, w) = (random(&mut rng, rows * width), random(&mut rng, out * width));
        for precision in ALL {
            let packed = Prepacked::new(&w, out, width, precision);
            let together = packed.apply(&x, None);
            for (x, y) in x.chunks(width).zip(together.chunks(out)) {
                prop_assert_eq!(&packed.apply(x, None)[..], y);
            }
        }
    }

    /// A NaN in `x` makes its own row NaN and changes no other row.
    #[test]
    fn nan_in_x_spoils_only_its_row(rows in 1usize..12, width in 1usize..90, at in any::<prop::sample::Index>(), seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut x, w) = (random(&mut rng, rows * width), random(&mut rng, 40 * width));
        let at = at.index(x.len());
        x[at] = f32::NAN;
        for precision in ALL {
            let y = Prepacked::new(&w, 40, width, precision).apply(&x, None);
            for (row, y) in y.chunks(40).enumerate() {
                prop_assert!(y.iter().all(|y| y.is_nan() == (row == at / width)), "{}, row {}: {:?}", precision, row, y);
            }
        }
    }

    /// A NaN or an infinity among the weights makes its own column non-finite and changes no other column.
    #[test]
    fn non_finite_weights_spoil_only_their_column(out in 1usize..40, width in 1usize..90, at in any::<prop::sample::Index>(), seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (x, mut w) = (random(&mut rng, 3 * width), random(&mut rng, out * width));
        let at = at.index(w.len());
        for bad in [f32::NAN, f32::INFINITY] {
            w[at] = bad;
            for precision in ALL {
                for y in Prepacked::new(&w, out, width, precision).apply(&x, None).chunks(out) {
                    let columns = y.iter().enumerate();
                    for (column, y) in columns {
                        prop_assert_eq!(!y.is_finite(), column == at / width, "{}, column {}: {}", precision, column, y);
                    }
                }
            }
        }
    }

    /// All loops that this machine can run agree: exactly for integers, up to the order of summation for floats.
    #[test]
    fn all_loops_agree(rows in 1usize..=10, groups in 1usize..60, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        for precision in ALL {
            let per_group = precision.per_group();
            let (w, x) = (random(&mut rng, COLUMNS * groups * per_group), random(&mut rng, rows * groups * per_group));
            let panel = pack::pack(&w, COLUMNS, groups * per_group, precision);
            let results = every_sums(precision, &x, &panel[..COLUMNS * groups], groups);
            for result in &results[1..] {
                for (a, b) in result.iter().zip(&results[0]) {
                    match precision {
                        Precision::Int8 => prop_assert_eq!(a, b),
                        _ => prop_assert!((f32::from_bits(*a) - f32::from_bits(*b)).abs() < 1e-4),
                    }
                }
            }
        }
    }
}

#[test]
fn splits_large_products_by_blocks_and_by_panels() {
    let mut rng = StdRng::seed_from_u64(7);
    for (rows, out, width) in [(1100, 40, 33), (3, 2000, 200), (300, 500, 64)] {
        let (x, w, b) = (random(&mut rng, rows * width), random(&mut rng, out * width), random(&mut rng, out));
        let expected = exact(&x, &w, Some(&b), width);
        for precision in ALL {
            let packed = Prepacked::new(&w, out, width, precision);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let y = pool.install(|| packed.apply(&x, Some(&b)));
                assert_eq!(y.len(), expected.len());
                for (y, e) in y.iter().zip(&expected) {
                    let error = (f64::from(*y) - e).abs();
                    assert!(error < tolerance(precision, width), "{precision} {rows}x{out}x{width}: {y} for {e}");
                }
            }
        }
    }
}

#[test]
fn int8_does_not_saturate_at_the_largest_magnitudes() {
    // Rows of the largest magnitudes of both signs: no sum saturates, and values that int8 can represent are exact.
    let width = 512;
    for (a, b) in [(1.0f32, 1.0f32), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)] {
        let y = Prepacked::new(&vec![b; 33 * width], 33, width, Precision::Int8).apply(&vec![a; 2 * width], None);
        assert!(y.iter().all(|y| (y - a * b * width as f32).abs() < 1e-3), "{a} {b}: {}", y[0]);
    }
    let zeros = Prepacked::new(&[0.0; 64], 1, 64, Precision::Int8).apply(&[0.0; 64], None);
    assert_eq!(zeros, [0.0]);
}
