//! Tiles of a few rows: their products with vectors of columns, and their softmax.

use pulp::Simd;

use crate::cpu::math;
use crate::cpu::simd::array;

/// The largest number of rows in a tile.
pub(super) const ROWS: usize = 8;

/// The number of f32 in the widest vectors.
pub(super) const WIDEST: usize = 16;

/// The distance between rows of at least `len` elements of which the same columns are read together: an odd number of cache lines. The
/// rows of a distance that is a power of two lie in a few sets of the cache, and push each other out.
pub(super) fn spaced(len: usize) -> usize {
    /// f32 in a cache line.
    const LINE: usize = 16;
    (len.div_ceil(LINE) | 1) * LINE
}

/// Calls `f` with the height and the first row of each tile, until the tiles cover `len` rows.
#[inline(always)]
pub(super) fn tiles<S: Simd>(len: usize, mut f: impl FnMut(usize, usize)) {
    // Two vectors of sums for each row must fit in the registers.
    let most = if S::REGISTER_COUNT >= 32 { ROWS } else { 4 };
    let mut at = 0;
    while at < len {
        let left = (len - at).min(most);
        let rows = 1 << left.ilog2();
        f(rows, at);
        at += rows;
    }
}

/// `size` elements of each row; rows are `row` elements apart.
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) size: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(super) fn tile<const R: usize>(&self, at: usize) -> [&'a [f32]; R] {
        array(
            #[inline(always)]
            |r| &self.data[(at + r) * self.row..][..self.size],
        )
    }
}

/// Multiplies `R` rows with `vectors` vectors of columns of `right`, whose rows are `row` elements apart. `put` receives each sum
/// with the index of its vector and of its row.
#[inline(always)]
pub(super) fn columns<S: Simd, const R: usize>(
    simd: S,
    left: [&[f32]; R],
    right: &[f32],
    row: usize,
    vectors: usize,
    mut put: impl FnMut(usize, usize, S::f32s),
) {
    let mut at = 0;
    while at + 2 <= vectors {
        let sums = product::<S, R, 2>(simd, left, &right[at * S::F32_LANES..], row);
        for (r, sums) in sums.into_iter().enumerate() {
            put(at, r, sums[0]);
            put(at + 1, r, sums[1]);
        }
        at += 2;
    }
    if at < vectors {
        let sums = product::<S, R, 1>(simd, left, &right[at * S::F32_LANES..], row);
        for (r, [sum]) in sums.into_iter().enumerate() {
            put(at, r, sum);
        }
    }
}

/// Multiplies `R` rows with the first `C` vectors of columns, with the sums in registers.
#[inline(always)]
fn product<S: Simd, const R: usize, const C: usize>(
    simd: S,
    left: [&[f32]; R],
    right: &[f32],
    row: usize,
) -> [[S::f32s; C]; R] {
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    let depth = left[0].len();
    let left: [&[f32]; R] = array(
        #[inline(always)]
        |r| &left[r][..depth],
    );
    for l in 0..depth {
        let right = S::as_simd_f32s(&right[l * row..][..C * S::F32_LANES]).0;
        let right: [S::f32s; C] = array(
            #[inline(always)]
            |c| right[c],
        );
        for r in 0..R {
            let left = simd.splat_f32s(left[r][l]);
            for c in 0..C {
                sums[r][c] = simd.mul_add_e_f32s(left, right[c], sums[r][c]);
            }
        }
    }
    sums
}

/// Replaces `R` rows of scores by `e^(scale (x - max))`, where `most` holds each row's largest score, lane by lane. Returns 1 / sum
/// of each row.
#[inline(always)]
pub(super) fn exponentials<S: Simd, const R: usize>(
    simd: S,
    scores: &mut [S::f32s],
    most: [S::f32s; R],
    scale: f32,
) -> [f32; R] {
    let mut shifts = [simd.splat_f32s(0.0); R];
    for (shift, most) in shifts.iter_mut().zip(most) {
        *shift = simd.splat_f32s(-scale * simd.reduce_max_f32s(most));
    }
    let scale = simd.splat_f32s(scale);
    let mut sums = [simd.splat_f32s(0.0); R];
    let vectors = scores.len() / R;
    for vector in 0..vectors {
        // Alternates between the rows, so that one row's instructions run while another's wait for their operands.
        for (r, (sum, shift)) in sums.iter_mut().zip(shifts).enumerate() {
            let score = &mut scores[r * vectors + vector];
            // Scores past the end become e^-87, which vanishes beside the largest, 1.
            *score = math::exps(simd, simd.mul_add_e_f32s(*score, scale, shift));
            *sum = simd.add_f32s(*sum, *score);
        }
    }
    let mut scales = [0.0; R];
    for (scale, sum) in scales.iter_mut().zip(sums) {
        *scale = 1.0 / simd.reduce_sum_f32s(sum);
    }
    scales
}
