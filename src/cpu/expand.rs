//! `y += h B` for a thin `h`: the second product of a low-rank delta.
//!
//! `B` is stored as `[rank, n]`, one row for each rank. A tile of several rows of y stays in registers while the loop goes over the
//! ranks, so y is read and written only once. The loop runs over the true rank; nothing is padded.

use std::ops::Range;

use pulp::Simd;

use super::prefetch::Prefetch;
use super::simd::{Sums, Vectorized, vectorized};

/// The largest number of rows in a tile.
const ROWS: usize = 8;
/// The number of columns of y between two prefetches: a tile of the widest vectors.
const STEP: usize = 48;

/// A thin matrix: rows of `rank` elements, each row `stride` elements after the previous one.
#[derive(Clone, Copy)]
pub(crate) struct Thin<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) rank: usize,
}

/// Computes `y[i, j] += sum_p h[i, p] b[p, j]` for `h [m, r]`, `b [r, n]` and `y [m, n]`, on the calling thread. Meanwhile it
/// prefetches `next`, which the caller reads after `b`.
///
/// Every element is summed in the order of the ranks, for any `m`, so a row's result does not depend on the rows beside it.
///
/// # Panics
/// If a slice has the wrong length: a caller's bug.
pub(crate) fn expand(y: &mut [f32], h: Thin, b: &[f32], next: &[f32]) {
    if y.is_empty() || h.rank == 0 {
        return;
    }
    let n = b.len() / h.rank;
    let m = y.len() / n.max(1);
    assert!(m * n == y.len() && n * h.rank == b.len(), "expand: shapes do not fit");
    assert!(h.rank <= h.stride && (m - 1) * h.stride + h.rank <= h.data.len(), "expand: h is too short");
    let (next, steps) = (&[next], m.div_ceil(ROWS) * n.div_ceil(STEP));
    vectorized(Expand { y, h, b, m, n, prefetch: Prefetch::new(next, steps) });
}

struct Expand<'a> {
    y: &'a mut [f32],
    h: Thin<'a>,
    b: &'a [f32],
    m: usize,
    n: usize,
    prefetch: Prefetch<'a>,
}

impl Vectorized for Expand<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S, _: impl Sums<S>) {
        let wide = S::REGISTER_COUNT >= 32;
        let mut i = 0;
        while i < self.m {
            i += match self.m - i {
                ROWS.. if wide => self.rows::<S, ROWS>(simd, i),
                4.. => self.rows::<S, 4>(simd, i),
                2.. => self.rows::<S, 2>(simd, i),
                _ => self.rows::<S, 1>(simd, i),
            };
        }
    }
}

impl Expand<'_> {
    /// Computes `R` whole rows from row `i` and returns `R`.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, i: usize) -> usize {
        assert!(i + R <= self.m);
        let mut j = 0;
        while j + 3 * S::F32_LANES <= self.n {
            self.prefetch.step();
            // SAFETY: the assertion above promises the rows, and the loop's condition three vectors from column j.
            unsafe { self.tile::<S, R, 3>(simd, i, j) };
            j += 3 * S::F32_LANES;
        }
        while j + S::F32_LANES <= self.n {
            // SAFETY: the assertion above promises the rows, and the loop's condition one vector from column j.
            unsafe { self.tile::<S, R, 1>(simd, i, j) };
            j += S::F32_LANES;
        }
        if j < self.n {
            self.edge::<S, R>(simd, i, j..self.n);
        }
        R
    }

    /// Computes a tile: `R` rows from row `i` by `V` vectors from column `j`.
    ///
    /// # Safety
    /// `i + R` must be at most `m`, and `j` plus the elements of `V` vectors at most `n`.
    #[expect(
        clippy::needless_range_loop,
        reason = "sums stay in registers when they are indexed, but not when they are iterated over"
    )]
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, i: usize, j: usize) {
        let Self { h, n, .. } = *self;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        // SAFETY: `expand` asserts that y is [m, n], b [rank, n], and that h holds m rows; the caller promises the rest.
        unsafe {
            let y = self.y.as_mut_ptr().add(i * n + j);
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = y.add(r * n + v * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                }
            }
            let h_rows = h.data.as_ptr().add(i * h.stride);
            for p in 0..h.rank {
                let b_row = self.b.as_ptr().add(p * n + j);
                let mut b = [simd.splat_f32s(0.0); V];
                for v in 0..V {
                    b[v] = b_row.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                }
                for r in 0..R {
                    let h = simd.splat_f32s(*h_rows.add(r * h.stride + p));
                    for v in 0..V {
                        sums[r][v] = simd.mul_add_e_f32s(h, b[v], sums[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    y.add(r * n + v * S::F32_LANES).cast::<S::f32s>().write_unaligned(sums[r][v]);
                }
            }
        }
    }

    /// Computes `R` rows from row `i` by the last `columns`, which are fewer than a vector holds.
    #[inline(always)]
    fn edge<S: Simd, const R: usize>(&mut self, simd: S, i: usize, columns: Range<usize>) {
        let Self { h, n, .. } = *self;
        let at = |r: usize| r * n + columns.start..r * n + columns.end;
        let mut sums = [simd.splat_f32s(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = simd.partial_load_f32s(&self.y[at(i + r)]);
        }
        for p in 0..h.rank {
            let b = simd.partial_load_f32s(&self.b[at(p)]);
            for (r, sum) in sums.iter_mut().enumerate() {
                let h = simd.splat_f32s(h.data[(i + r) * h.stride + p]);
                *sum = simd.mul_add_e_f32s(h, b, *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            simd.partial_store_f32s(&mut self.y[at(i + r)], sum);
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
    use crate::cpu::simd::{kinds, on};

    proptest! {
        #[test]
        fn rows_match_f64_and_do_not_depend_on_other_rows(
            m in 1usize..20, n in 1usize..130, rank in 1usize..20, more in 0usize..3, seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut random = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
            let (before, data, b) = (random(m * n), random(m * (rank + more)), random(rank * n));
            let h = Thin { data: &data, stride: rank + more, rank };
            for kind in kinds() {
                let mut y = before.clone();
                on(kind, Expand { y: &mut y, h, b: &b, m, n, prefetch: Prefetch::new(&[&b], 3) });
                for (at, y) in y.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let added: f64 = (0..rank).map(|p| f64::from(data[i * h.stride + p]) * f64::from(b[p * n + j])).sum();
                    prop_assert!((f64::from(*y) - f64::from(before[at]) - added).abs() < 1e-5);
                }
                for i in 0..m {
                    let mut alone = before[i * n..(i + 1) * n].to_vec();
                    let h = Thin { data: &data[i * h.stride..], ..h };
                    on(kind, Expand { y: &mut alone, h, b: &b, m: 1, n, prefetch: Prefetch::new(&[], 1) });
                    prop_assert_eq!(&alone[..], &y[i * n..(i + 1) * n]);
                }
            }
        }
    }
}
