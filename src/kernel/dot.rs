//! `y = x W^T` for few rows: dot products along the rows of both, straight from where they lie.
//!
//! A general product first packs its operands, which for a short text costs more than the product itself; here every element of
//! `W` is read once for four rows of `x`, which stay in the cache.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::product::Threads;

/// Rows of `x` that share a pass over `W`.
const ROWS: usize = 4;
/// Rows of `W` that one step takes.
const COLUMNS: usize = 4;

/// More rows of x than this and packing pays.
pub(super) const FEW: usize = 64;

/// `y[i, j] = sum_k x[i, k] w[j, k] + b[j]` for `x [m, k]`, `w [n, k]`, `b [n]`: `[m, n]`.
///
/// # Panics
/// If a slice's length is not a multiple of `k`, or `b` is not of `n`: a caller's bug.
pub(super) fn few_rows(x: &[f32], w: &[f32], b: Option<&[f32]>, k: usize, threads: Threads) -> Vec<f32> {
    let (m, n) = (x.len() / k.max(1), w.len() / k.max(1));
    assert!(m * k == x.len() && n * k == w.len() && b.is_none_or(|b| b.len() == n), "few_rows: shapes do not fit");
    let mut y = vec![0.0; m * n];
    let tasks = if threads == Threads::All { rayon::current_num_threads() } else { 1 };
    if tasks < 2 || m * n * k < 1 << 18 {
        Arch::new().dispatch(Dots { y: Columns::whole(&mut y, n), x, w, b, k });
        return y;
    }
    // Each thread has its share of W's rows, which are y's columns: a part of its own, put in place afterwards.
    let share = n.div_ceil(tasks).next_multiple_of(COLUMNS);
    let parts: Vec<(usize, Vec<f32>)> = (0..n.div_ceil(share))
        .into_par_iter()
        .map(|task| {
            let (start, end) = (task * share, ((task + 1) * share).min(n));
            let mut part = vec![0.0; m * (end - start)];
            let (w, b) = (&w[start * k..end * k], b.map(|b| &b[start..end]));
            Arch::new().dispatch(Dots { y: Columns::whole(&mut part, end - start), x, w, b, k });
            (start, part)
        })
        .collect();
    for (start, part) in parts {
        let width = part.len() / m;
        for (y, part) in y.chunks_exact_mut(n).zip(part.chunks_exact(width)) {
            y[start..start + width].copy_from_slice(part);
        }
    }
    y
}

/// Rows of `row` elements that are written.
struct Columns<'a> {
    data: &'a mut [f32],
    row: usize,
}

impl<'a> Columns<'a> {
    fn whole(data: &'a mut [f32], row: usize) -> Self {
        Self { data, row }
    }
}

struct Dots<'a> {
    y: Columns<'a>,
    x: &'a [f32],
    w: &'a [f32],
    b: Option<&'a [f32]>,
    k: usize,
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { y, x, w, b, k } = self;
        if k == 0 {
            return;
        }
        for (block, w) in w.chunks(COLUMNS * k).enumerate() {
            let columns = block * COLUMNS;
            for (i, x) in x.chunks(ROWS * k).enumerate() {
                let mut sums = [[0.0; COLUMNS]; ROWS];
                match (x.len() / k, w.len() / k) {
                    (4, 4) => tile::<S, 4, 4>(simd, x, w, k, &mut sums),
                    (3, 4) => tile::<S, 3, 4>(simd, x, w, k, &mut sums),
                    (2, 4) => tile::<S, 2, 4>(simd, x, w, k, &mut sums),
                    (1, 4) => tile::<S, 1, 4>(simd, x, w, k, &mut sums),
                    (rows, width) => {
                        for r in 0..rows {
                            for c in 0..width {
                                let mut one = [[0.0; COLUMNS]; ROWS];
                                tile::<S, 1, 1>(simd, &x[r * k..(r + 1) * k], &w[c * k..(c + 1) * k], k, &mut one);
                                sums[r][c] = one[0][0];
                            }
                        }
                    }
                }
                let rows = y.data[i * ROWS * y.row..].chunks_mut(y.row);
                for (y, sums) in rows.zip(&sums).take(x.len() / k) {
                    for (c, (y, sum)) in y[columns..].iter_mut().zip(sums).enumerate() {
                        *y = sum + b.map_or(0.0, |b| b[columns + c]);
                    }
                }
            }
        }
    }
}

/// `R` rows of x times `C` rows of w, each of `k` elements.
#[inline(always)]
fn tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    k: usize,
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    let mut lanes = [[simd.splat_f32s(0.0); C]; R];
    let x: [_; R] = std::array::from_fn(|r| S::as_simd_f32s(&x[r * k..(r + 1) * k]));
    let w: [_; C] = std::array::from_fn(|c| S::as_simd_f32s(&w[c * k..(c + 1) * k]));
    let steps = k / S::F32_LANES;
    let x_steps: [&[S::f32s]; R] = std::array::from_fn(|r| &x[r].0[..steps]);
    let w_steps: [&[S::f32s]; C] = std::array::from_fn(|c| &w[c].0[..steps]);
    for step in 0..steps {
        let w: [S::f32s; C] = std::array::from_fn(|c| w_steps[c][step]);
        for r in 0..R {
            let x = x_steps[r][step];
            for c in 0..C {
                lanes[r][c] = simd.mul_add_e_f32s(x, w[c], lanes[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            let tail: f32 = x[r].1.iter().zip(w[c].1).map(|(x, w)| x * w).sum();
            sums[r][c] = simd.reduce_sum_f32s(lanes[r][c]) + tail;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    proptest! {
        #[test]
        fn few_rows_are_the_dot_products(m in 0usize..10, n in 0usize..70, k in 0usize..80, seed: u64, threads: bool) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut random = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
            let (k, threads) = (k + 1, if threads { Threads::All } else { Threads::One });
            let (x, w, b) = (random(m * k), random(n * k), random(n));
            for bias in [None, Some(&b[..])] {
                let y = few_rows(&x, &w, bias, k, threads);
                prop_assert_eq!(y.len(), m * n);
                for (at, y) in y.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let exact: f64 = (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(w[j * k + l])).sum();
                    let exact = exact + bias.map_or(0.0, |b| f64::from(b[j]));
                    prop_assert!((f64::from(*y) - exact).abs() < 1e-5, "{} is not {}", y, exact);
                }
            }
        }
    }
}
