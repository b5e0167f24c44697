//! `y = x W^T` where `x` or `W` has few rows: dot products of their rows, read in place.
//!
//! A GEMM first packs its operands. For a short text, or for the few rows of a low-rank `A`, packing costs more than the product
//! itself. Here a tile of several rows of x by several rows of W keeps its sums in registers, and a tree of shuffles reduces each
//! vector of sums to one number at the end.

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::gemm::Threads;
use super::prefetch::Prefetch;
use super::simd::{Sums, VECTORS, Vectorized, array, vectorized};

/// The largest number of rows of x for which this beats packing the operands.
pub(crate) const FEW: usize = 64;
/// The number of elements of a row that one pass reads: the rows of a tile, and the rows of W that they share, stay in the L1
/// cache.
const DEPTH: usize = 512;
/// The number of rows of x, and of rows of W, in one block of a pass.
const BLOCK: usize = 8;
/// The largest number of rows of W in a tile.
const MOST: usize = 4;

/// Returns `y [m, n]` with `y[i, j] = sum_k x[i, k] w[j, k] + b[j]` for `x [m, k]`, `w [n, k]`, `b [n]`.
///
/// # Panics
/// If a slice's length is not a multiple of `k`, or `b` does not have `n` elements: a caller's bug.
pub(crate) fn few_rows(x: &[f32], w: &[f32], b: Option<&[f32]>, k: usize, threads: Threads) -> Vec<f32> {
    let (m, n) = (x.len() / k.max(1), w.len() / k.max(1));
    assert!(m * k == x.len() && n * k == w.len() && b.is_none_or(|b| b.len() == n), "few_rows: shapes do not fit");
    let mut y = vec![0.0; m * n];
    let tasks = if threads == Threads::All { rayon::current_num_threads() } else { 1 };
    if n == 0 {
        return y;
    }
    if tasks < 2 || m * n * k < 1 << 18 {
        dots(&mut y, x, |j| &w[j * k..(j + 1) * k], b, (n, k), &[]);
        return y;
    }
    // Each thread takes a share of W's rows, which are columns of y. It writes them to a buffer of its own, which is copied into y
    // afterwards.
    let share = n.div_ceil(tasks).next_multiple_of(BLOCK);
    let parts: Vec<(usize, Vec<f32>)> = (0..n.div_ceil(share))
        .into_par_iter()
        .map(|task| {
            let (start, end) = (task * share, ((task + 1) * share).min(n));
            let mut part = vec![0.0; m * (end - start)];
            let b = b.map(|b| &b[start..end]);
            dots(&mut part, x, |j| &w[(start + j) * k..(start + j + 1) * k], b, (end - start, k), &[]);
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

/// Computes `y[i, j] = sum_k x[i, k] w(j)[k] + b[j]` for `x [m, k]`, `n` rows `w(j)` of `k` elements, `b [n]` and `y [m, n]`, on
/// the calling thread. Meanwhile it prefetches the rows `next`, which the caller reads after `w`.
///
/// Every sum runs in the same order for any `m` and `n`, so a row's result does not depend on the rows beside it.
///
/// # Panics
/// If a slice has the wrong length: a caller's bug.
pub(crate) fn dots<'w, W>(y: &mut [f32], x: &[f32], w: W, b: Option<&[f32]>, (n, k): (usize, usize), next: &[&[f32]])
where
    W: Fn(usize) -> &'w [f32] + Copy,
{
    let m = y.len() / n.max(1);
    assert!(m * n == y.len() && m * k == x.len() && b.is_none_or(|b| b.len() == n), "dots: shapes do not fit");
    match b {
        Some(b) => y.chunks_exact_mut(n.max(1)).for_each(|y| y.copy_from_slice(b)),
        None => y.fill(0.0),
    }
    let prefetch = Prefetch::new(next, m.div_ceil(BLOCK) * n.div_ceil(MOST) * k.div_ceil(DEPTH));
    vectorized(Dots { y, x, w, m, n, k, prefetch });
}

struct Dots<'a, W> {
    y: &'a mut [f32],
    x: &'a [f32],
    w: W,
    m: usize,
    n: usize,
    k: usize,
    prefetch: Prefetch<'a>,
}

impl<'w, W: Fn(usize) -> &'w [f32] + Copy> Vectorized for Dots<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S, sums: impl Sums<S>) {
        let most = if S::REGISTER_COUNT < 32 { 3 } else { MOST };
        for start in (0..self.k).step_by(DEPTH) {
            let part = start..self.k.min(start + DEPTH);
            for block in (0..self.n).step_by(BLOCK) {
                for i in (0..self.m).step_by(BLOCK) {
                    let rows = i..self.m.min(i + BLOCK);
                    for j in (block..self.n.min(block + BLOCK)).step_by(most) {
                        match (self.n.min(block + BLOCK) - j).min(most) {
                            4 => self.rows::<S, 4>(simd, sums, &part, rows.clone(), j),
                            3 => self.rows::<S, 3>(simd, sums, &part, rows.clone(), j),
                            2 => self.rows::<S, 2>(simd, sums, &part, rows.clone(), j),
                            _ => self.rows::<S, 1>(simd, sums, &part, rows.clone(), j),
                        }
                    }
                }
            }
        }
    }
}

impl<'w, W: Fn(usize) -> &'w [f32] + Copy> Dots<'_, W> {
    /// Computes `rows` of x by `C` rows of W from row `j`, in the tallest tiles whose sums fit in the registers.
    #[inline(always)]
    fn rows<S: Simd, const C: usize>(
        &mut self,
        simd: S,
        sums: impl Sums<S>,
        part: &Range<usize>,
        mut rows: Range<usize>,
        j: usize,
    ) {
        let w: [&[f32]; C] = array(
            #[inline(always)]
            |c| &(self.w)(j + c)[part.clone()],
        );
        self.prefetch.step();
        while !rows.is_empty() {
            rows.start += match rows.len() {
                8.. if C == 1 || (C == 2 && S::REGISTER_COUNT >= 32) => {
                    self.tile::<S, 8, C>(simd, sums, part, w, rows.start, j)
                }
                4.. => self.tile::<S, 4, C>(simd, sums, part, w, rows.start, j),
                2.. => self.tile::<S, 2, C>(simd, sums, part, w, rows.start, j),
                _ => self.tile::<S, 1, C>(simd, sums, part, w, rows.start, j),
            };
        }
    }

    /// Computes a tile, `R` rows of x from row `i` by `C` rows of W, and returns `R`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        sums: impl Sums<S>,
        part: &Range<usize>,
        w: [&[f32]; C],
        i: usize,
        j: usize,
    ) -> usize {
        let x: [&[f32]; R] = array(
            #[inline(always)]
            |r| &self.x[(i + r) * self.k..][part.clone()],
        );
        let (x, x_tail) = split::<S, R>(x, part.len());
        let (w, w_tail) = split::<S, C>(w, part.len());
        let mut acc = [[simd.splat_f32s(0.0); C]; R];
        for step in 0..part.len() / S::F32_LANES {
            let w: [S::f32s; C] = array(
                #[inline(always)]
                |c| w[c][step],
            );
            for r in 0..R {
                let x = x[r][step];
                for c in 0..C {
                    acc[r][c] = simd.mul_add_e_f32s(x, w[c], acc[r][c]);
                }
            }
        }
        if !part.len().is_multiple_of(S::F32_LANES) {
            let w: [S::f32s; C] = array(
                #[inline(always)]
                |c| simd.partial_load_f32s(w_tail[c]),
            );
            for r in 0..R {
                let x = simd.partial_load_f32s(x_tail[r]);
                for c in 0..C {
                    acc[r][c] = simd.mul_add_e_f32s(x, w[c], acc[r][c]);
                }
            }
        }
        let mut vectors = [simd.splat_f32s(0.0); VECTORS];
        for r in 0..R {
            for c in 0..C {
                vectors[r * C + c] = acc[r][c];
            }
        }
        let sums = sums.sums(vectors);
        for r in 0..R {
            let y = &mut self.y[(i + r) * self.n + j..][..C];
            for c in 0..C {
                y[c] += sums[r * C + c];
            }
        }
        R
    }
}

/// Splits rows of `len` elements into whole vectors and the elements that remain.
#[inline(always)]
fn split<S: Simd, const N: usize>(rows: [&[f32]; N], len: usize) -> ([&[S::f32s]; N], [&[f32]; N]) {
    let whole = array(
        #[inline(always)]
        |i| &S::as_simd_f32s(&rows[i][..len]).0[..len / S::F32_LANES],
    );
    let tails = array(
        #[inline(always)]
        |i| S::as_simd_f32s(&rows[i][..len]).1,
    );
    (whole, tails)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::cpu::simd::{kinds, on};

    proptest! {
        #[test]
        fn rows_match_f64_and_do_not_depend_on_other_rows(
            m in 1usize..20, n in 1usize..20, k in prop_oneof![1usize..80, 500usize..1100], seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut random = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
            let (x, w) = (random(m * k), random(n * k));
            let row = |j: usize| &w[j * k..(j + 1) * k];
            for kind in kinds() {
                let mut y = vec![0.0; m * n];
                let next = [row(0)];
                on(kind, Dots { y: &mut y, x: &x, w: row, m, n, k, prefetch: Prefetch::new(&next, 2) });
                for (at, y) in y.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let exact: f64 = (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(w[j * k + l])).sum();
                    prop_assert!((f64::from(*y) - exact).abs() < 1e-4, "{} is not {}", y, exact);
                    let mut alone = [0.0];
                    let prefetch = Prefetch::new(&[], 1);
                    on(kind, Dots { y: &mut alone, x: &x[i * k..(i + 1) * k], w: |_| row(j), m: 1, n: 1, k, prefetch });
                    prop_assert_eq!(alone[0].to_bits(), y.to_bits());
                }
            }
        }

        #[test]
        fn few_rows_matches_dot_products_in_f64(m in 0usize..10, n in 0usize..70, k in 0usize..80, seed: u64, threads: bool) {
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
