//! `y = x W` with a weight `[k, n]` as it is stored, row by row: the gradient of a linear's input.
//!
//! In this direction, a panel's columns already lie side by side in every row of the weight. One panel after another is copied to a
//! buffer that stays in a core's cache while all rows of `x` are multiplied by it. So the weight needs no second packed form in memory.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::activations::{Activations, Form};
use super::tile::{Output, Span, Tile};
use crate::cpu::host;
use crate::cpu::prefetch::{LINE, fetch};
use crate::params::{COLUMNS, Precision};

/// The number of multiplications that outweighs waking other threads.
const WORTH_THREADS: usize = 1 << 17;

/// Returns `x W`, `[rows, n]`, for `x [rows, k]` and `w [k, n]`, both f32. A row's result does not depend on the other rows.
///
/// # Panics
/// If a slice does not consist of whole rows: a caller's bug.
pub(crate) fn times_stored(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let (rows, n) = (x.len() / k.max(1), w.len() / k.max(1));
    assert!(rows * k == x.len() && n * k == w.len(), "times_stored: {} and {} are not rows of {k}", x.len(), w.len());
    // SAFETY: `fill` writes every row of every panel.
    unsafe { host::written(rows * n, |room| fill(room, x, (w, n), k)) }
}

/// Writes all of `y [rows, n]`.
fn fill(y: &mut [MaybeUninit<f32>], x: &[f32], (w, n): (&[f32], usize), k: usize) {
    if n == 0 || k == 0 {
        host::zeroed(y);
        return;
    }
    let rows = x.len() / k;
    let (x, output) = (Activations::new(x, k, Precision::F32, Form::Groups), Output { y: y.as_mut_ptr(), out: n });
    let tile = Tile { precision: Precision::F32, groups: k, scales: &[], sums: &[] };
    let run = |words: &mut Vec<u32>, panel: usize| {
        copy(words, w, n, panel);
        // SAFETY: `y` has room for all rows, and each call writes another panel.
        unsafe { tile.run(words, &x, None, Span { rows: 0..rows, panels: panel..panel + 1 }, output) };
    };
    let (panels, words) = (n.div_ceil(COLUMNS), || vec![0; k * COLUMNS]);
    if rayon::current_num_threads() > 1 && rows * k * n > WORTH_THREADS {
        (0..panels).into_par_iter().for_each_init(words, run);
    } else {
        let mut words = words();
        (0..panels).for_each(|panel| run(&mut words, panel));
    }
}

/// The number of rows between the row that is copied and the row that is fetched. The rows lie too far apart for the hardware to fetch
/// them by itself.
const AHEAD: usize = 16;

/// Copies the panel's columns of all rows of the weight. Columns beyond the weight keep their values, because nothing reads their sums.
fn copy(words: &mut [u32], w: &[f32], n: usize, panel: usize) {
    let first = panel * COLUMNS;
    let w: &[u32] = bytemuck::cast_slice(w);
    if first + COLUMNS <= n {
        for (i, (words, row)) in words.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(w.chunks_exact(n)).enumerate() {
            if let Some(ahead) = w.get((i + AHEAD) * n + first..) {
                fetch(ahead);
                fetch(&ahead[ahead.len().min(LINE)..]);
            }
            if let Some(columns) = row[first..].first_chunk() {
                *words = *columns;
            }
        }
        return;
    }
    for (words, row) in words.chunks_exact_mut(COLUMNS).zip(w.chunks_exact(n)) {
        words[..n - first].copy_from_slice(&row[first..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    proptest! {
        #[test]
        fn rows_match_f64_and_do_not_depend_on_other_rows(
            rows in 0usize..25, k in 0usize..70, n in 1usize..100, threads in 1usize..3, seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut random = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
            let (x, w) = (random(rows * k), random(k * n));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let y = pool.install(|| times_stored(&x, &w, k));
            prop_assert_eq!(y.len(), if k == 0 { 0 } else { rows * n });
            for (at, y) in y.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let exact: f64 = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[p * n + j])).sum();
                prop_assert!((f64::from(*y) - exact).abs() < 1e-5, "{} is not {}", y, exact);
            }
            for i in 0..if k == 0 { 0 } else { rows } {
                prop_assert_eq!(&times_stored(&x[i * k..(i + 1) * k], &w, k)[..], &y[i * n..(i + 1) * n]);
            }
        }
    }
}
