//! The backward pass of the fused attention: one text, one head at a time, without a GEMM.
//!
//! With `P` the weights and `Y = P V`: `dV = P^T dY`, `dP = dY V^T`, `dS = P (dP - sum(dP P))`, `dQ = scale dS K`, `dK = scale dS^T Q`.
//! `P` and `dS` are computed a few rows at a time. Then both are transposed, so that the products over the queries read rows again.

use pulp::{Simd, WithSimd};

use super::positions::packed_row;
use super::tile::{Rows, WIDEST, columns, exponentials, tiles};
use super::{split, with_scratch};
use crate::cpu::simd;
use crate::cpu::transpose::{Submatrix, transpose};

/// The largest number of tokens of a text for this kernel, whose scores and their transposes must stay in a core's cache.
pub(in crate::ops) const MAX_GRADIENT_LEN: usize = 256;

/// The backward pass of one text of `len` tokens.
pub(in crate::ops) struct TextGradient<'a> {
    /// `q`, `k`, `v` and `dy`, each `[len, heads * size]`.
    pub(in crate::ops) inputs: [&'a [f32]; 4],
    pub(in crate::ops) heads: usize,
    pub(in crate::ops) size: usize,
    pub(in crate::ops) scale: f32,
    /// What is added to the scores by distance: a row of [`packed_row`] for each head, and the column of distance 0.
    pub(in crate::ops) bias: Option<(&'a [f32], usize)>,
    /// `dq`, `dk` and `dv`, in the shape of the inputs, all zero.
    pub(in crate::ops) gradients: [&'a mut [f32]; 3],
}

impl TextGradient<'_> {
    /// Computes the gradients.
    pub(in crate::ops) fn run(self) {
        let hidden = self.heads * self.size;
        // Rows of zeros at the end contribute nothing. In the last layer, often only the first token has a gradient.
        let end = self.inputs[3].iter().rposition(|&dy| dy != 0.0).map_or(0, |last| last + 1);
        let rows = end.div_ceil(hidden.max(1));
        if rows == 0 {
            return;
        }
        // Enough scratch for the widest vectors, because only the dispatch knows which ones the machine has.
        with_scratch(Sizes::new(&self, rows, WIDEST).scratch(), |scratch| {
            simd::widest().dispatch(Kernel { text: self, rows, scratch });
        });
    }
}

/// Sizes in elements. The last three are rounded up to whole vectors.
#[derive(Clone, Copy)]
struct Sizes {
    /// The number of queries whose `dy` is not zero.
    rows: usize,
    /// The number of keys.
    len: usize,
    hidden: usize,
    /// `rows`, rounded up.
    queries: usize,
    /// `len`, rounded up.
    keys: usize,
    /// The size of a head.
    values: usize,
}

impl Sizes {
    #[inline(always)]
    fn new(text: &TextGradient, rows: usize, lanes: usize) -> Self {
        let hidden = text.heads * text.size;
        let len = text.inputs[0].len() / hidden;
        let whole = |n: usize| n.next_multiple_of(lanes);
        Self { rows, len, hidden, queries: whole(rows), keys: whole(len), values: whole(text.size) }
    }

    /// The scratch buffers, in the order in which [`TextGradient::head`] names them.
    fn parts(self) -> [usize; 9] {
        let Self { rows, len, queries, keys, values, .. } = self;
        let (scores, transposed) = (rows * keys, len * queries);
        [
            values * keys,
            values * keys,
            rows * values,
            len * values,
            rows * values,
            scores,
            scores,
            transposed,
            transposed,
        ]
    }

    fn scratch(self) -> usize {
        self.parts().iter().sum()
    }
}

struct Kernel<'a, 'b> {
    text: TextGradient<'a>,
    rows: usize,
    scratch: &'b mut [f32],
}

impl WithSimd for Kernel<'_, '_> {
    type Output = ();

    // Everything below, closures included, must be inlined here: only then is it compiled for the machine's vectors.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut text, rows, scratch } = self;
        let sizes = Sizes::new(&text, rows, S::F32_LANES);
        for head in 0..text.heads {
            text.head(simd, sizes, head, scratch);
        }
    }
}

/// One head, packed for its tiles. Columns beyond the keys and beyond the head are zero.
struct PackedHead<'a> {
    sizes: Sizes,
    /// The first column of the head.
    column: usize,
    /// Transposed keys and values, `[values, keys]`.
    keys: &'a [f32],
    values: &'a [f32],
    /// Rows of q and dy, `[rows, values]`, and of k, `[len, values]`.
    q: &'a [f32],
    k: &'a [f32],
    dy: &'a [f32],
    /// The head's row of the bias, and the column of distance 0.
    bias: Option<(&'a [f32], usize)>,
}

impl TextGradient<'_> {
    #[inline(always)]
    fn head<S: Simd>(&mut self, simd: S, sizes: Sizes, head: usize, scratch: &mut [f32]) {
        let [keys, values, q, k, dy, weights, slopes, of_values, of_keys] = split(scratch, sizes.parts());
        let Sizes { rows, len, hidden, .. } = sizes;
        let (size, column) = (self.size, head * self.size);
        let [all_q, all_k, all_v, all_dy] = self.inputs.map(
            #[inline(always)]
            |x| &x[column..],
        );
        for (transposed, x) in [(&mut *keys, all_k), (&mut *values, all_v)] {
            transposed.fill(0.0);
            transpose(transposed, sizes.keys, x, Submatrix { len, size, row: hidden });
        }
        for (packed, x) in [(&mut *q, all_q), (&mut *k, all_k), (&mut *dy, all_dy)] {
            for (packed, x) in packed.chunks_exact_mut(sizes.values).zip(x.chunks(hidden)) {
                packed[..size].copy_from_slice(&x[..size]);
                packed[size..].fill(0.0);
            }
        }
        let bias = self.bias.map(
            #[inline(always)]
            |(bias, middle)| (&bias[head * packed_row(middle)..][..packed_row(middle)], middle),
        );
        let packed = PackedHead { sizes, column, keys, values, q, k, dy, bias };
        tiles::<S>(
            rows,
            #[inline(always)]
            |count, i| match count {
                8 => self.queries::<S, 8>(simd, &packed, i, weights, slopes),
                4 => self.queries::<S, 4>(simd, &packed, i, weights, slopes),
                2 => self.queries::<S, 2>(simd, &packed, i, weights, slopes),
                _ => self.queries::<S, 1>(simd, &packed, i, weights, slopes),
            },
        );
        let part = Submatrix { len: rows, size: len, row: sizes.keys };
        transpose(of_values, sizes.queries, weights, part);
        transpose(of_keys, sizes.queries, slopes, part);
        let [_, dk, dv] = &mut self.gradients;
        for (target, left, right, scale) in [(dv, &*of_values, packed.dy, 1.0), (dk, &*of_keys, packed.q, self.scale)] {
            let left = Rows { data: left, row: sizes.queries, size: rows };
            let to = Place { x: target, hidden, column, size, scale };
            products(simd, left, len, (right, sizes.values), to);
        }
    }

    /// Computes the weights, the slopes and dq of the queries `i..i + R`.
    #[inline(always)]
    fn queries<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        head: &PackedHead,
        i: usize,
        weights: &mut [f32],
        slopes: &mut [f32],
    ) {
        let Sizes { len, hidden, keys, values, .. } = head.sizes;
        let (weights, slopes) = (&mut weights[i * keys..][..R * keys], &mut slopes[i * keys..][..R * keys]);
        let rows = |data| Rows { data, row: values, size: self.size }.tile::<R>(i);
        let (q, dy) = (rows(head.q), rows(head.dy));
        let vectors = keys / S::F32_LANES;
        let inside = simd.mask_between_m32s(0, (len - (vectors - 1) * S::F32_LANES) as u32).mask();
        // The scale multiplies the sum later, and a bias must not be scaled.
        let unit = simd.splat_f32s(1.0 / self.scale);
        let mut most = [simd.splat_f32s(f32::NEG_INFINITY); R];
        columns(
            simd,
            q,
            head.keys,
            keys,
            vectors,
            #[inline(always)]
            |vector, r, mut sum| {
                if let Some((bias, middle)) = head.bias {
                    let bias = S::as_simd_f32s(&bias[middle - (i + r)..][..keys]).0[vector];
                    sum = simd.mul_add_e_f32s(bias, unit, sum);
                }
                if vector + 1 == vectors {
                    sum = simd.select_f32s(inside, sum, simd.splat_f32s(f32::NEG_INFINITY));
                }
                most[r] = simd.max_f32s(most[r], sum);
                S::as_mut_simd_f32s(&mut weights[r * keys..][..keys]).0[vector] = sum;
            },
        );
        let scales = exponentials(simd, S::as_mut_simd_f32s(weights).0, most, self.scale);
        let mut means = [simd.splat_f32s(0.0); R];
        columns(
            simd,
            dy,
            head.values,
            keys,
            vectors,
            #[inline(always)]
            |vector, r, sum| {
                let weight = &mut S::as_mut_simd_f32s(&mut weights[r * keys..][..keys]).0[vector];
                *weight = simd.mul_f32s(*weight, simd.splat_f32s(scales[r]));
                means[r] = simd.mul_add_e_f32s(*weight, sum, means[r]);
                S::as_mut_simd_f32s(&mut slopes[r * keys..][..keys]).0[vector] = sum;
            },
        );
        for (r, mean) in means.into_iter().enumerate() {
            let mean = simd.splat_f32s(simd.reduce_sum_f32s(mean));
            let slopes = S::as_mut_simd_f32s(&mut slopes[r * keys..][..keys]).0;
            for (slope, &weight) in slopes.iter_mut().zip(S::as_simd_f32s(&weights[r * keys..][..keys]).0) {
                *slope = simd.mul_f32s(weight, simd.sub_f32s(*slope, mean));
            }
        }
        let left = Rows { data: slopes, row: keys, size: len }.tile::<R>(0);
        let mut to =
            Place { x: &mut *self.gradients[0], hidden, column: head.column, size: self.size, scale: self.scale };
        columns(
            simd,
            left,
            head.k,
            values,
            values / S::F32_LANES,
            #[inline(always)]
            |vector, r, sum| to.put(simd, i + r, vector, sum),
        );
    }
}

/// The columns of a head in a gradient `[len, hidden]`, and the factor of what is written there.
struct Place<'a> {
    x: &'a mut [f32],
    hidden: usize,
    column: usize,
    size: usize,
    scale: f32,
}

impl Place<'_> {
    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::f32s) {
        let room = &mut self.x[row * self.hidden + self.column..][..self.size][vector * S::F32_LANES..];
        let value = simd.mul_f32s(sum, simd.splat_f32s(self.scale));
        let (whole, rest) = S::as_mut_simd_f32s(room);
        match whole.first_mut() {
            Some(room) => *room = value,
            None => simd.partial_store_f32s(rest, value),
        }
    }
}

/// Writes the products of `len` rows with `right`, whose rows are `width` elements long.
#[inline(always)]
fn products<S: Simd>(simd: S, left: Rows, len: usize, (right, width): (&[f32], usize), mut to: Place) {
    macro_rules! tile {
        ($rows:literal, $at:ident) => {
            columns(
                simd,
                left.tile::<$rows>($at),
                right,
                width,
                width / S::F32_LANES,
                #[inline(always)]
                |vector, r, sum| to.put(simd, $at + r, vector, sum),
            )
        };
    }
    tiles::<S>(
        len,
        #[inline(always)]
        |count, at| match count {
            8 => tile!(8, at),
            4 => tile!(4, at),
            2 => tile!(2, at),
            _ => tile!(1, at),
        },
    );
}
