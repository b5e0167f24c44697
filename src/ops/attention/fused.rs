//! Fused softmax attention: one text, one head at a time, without a GEMM. It is for texts whose scores fit in the L1 cache.
//!
//! A GEMM packs its operands at every call, which for a head of a short text costs more than the product. Here the keys of a head
//! are transposed once, so that vectors run along the keys. Then a few rows of scores are computed, normalized and multiplied with
//! the values while they are in the cache. A row's sums always run in the same order, whichever rows are computed beside it.

mod gradient;
mod positions;
mod tile;

use std::cell::RefCell;
use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

pub(in crate::ops) use self::gradient::{MAX_GRADIENT_LEN, TextGradient};
pub(in crate::ops) use self::positions::{Keys, Positions, pack, packed_row};
use self::tile::{ROWS, Rows, WIDEST, columns, exponentials, spaced, tiles};
use crate::cpu::simd::array;
use crate::cpu::transpose::{Submatrix, transpose};
use crate::cpu::{host, simd};

/// The largest number of tokens of a text for this kernel. Longer texts run by GEMM, which blocks its operands for the caches.
pub(in crate::ops) const MAX_FUSED_LEN: usize = 512;

/// The width of the batch's rows and the length of texts from which the values of a head are copied, because rows are far apart.
const COPIED_FROM: (usize, usize) = (768, 32);

/// The smallest number of rows that is worth a thread.
const MIN_ROWS: usize = 64;

/// The number of rows of a text of `len` tokens, in a batch of `texts`, that are computed together: fewer than `len` if there are
/// fewer texts than threads. A row's result does not depend on it.
pub(in crate::ops) fn rows_per_block(len: usize, texts: usize) -> usize {
    len.div_ceil(rayon::current_num_threads().div_ceil(texts.max(1))).next_multiple_of(ROWS).max(MIN_ROWS)
}

/// The attention of one text, or of some of its rows, over `k`, `v` `[len, heads * size]`.
pub(in crate::ops) struct TextAttention<'a> {
    /// The rows to compute.
    pub(in crate::ops) q: &'a [f32],
    /// The index in the text of the first of them.
    pub(in crate::ops) first: usize,
    pub(in crate::ops) k: &'a [f32],
    pub(in crate::ops) v: &'a [f32],
    pub(in crate::ops) heads: usize,
    pub(in crate::ops) size: usize,
    pub(in crate::ops) scale: f32,
    pub(in crate::ops) positions: Positions<'a>,
    /// The result, with the shape of `q`. Every element is written.
    pub(in crate::ops) y: &'a mut [MaybeUninit<f32>],
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of this thread's scratch memory, aligned to a cache line, with arbitrary contents.
fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    const LINE: usize = 64;
    SCRATCH.with_borrow_mut(|scratch| {
        let most = len + LINE / size_of::<f32>();
        if scratch.len() < most {
            scratch.resize(most, 0.0);
        }
        let start = scratch.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        f(&mut scratch[start..start + len])
    })
}

impl TextAttention<'_> {
    /// Computes `y`.
    pub(in crate::ops) fn attend(self) {
        if self.q.is_empty() {
            return;
        }
        // Enough scratch for the widest vectors, because only the dispatch knows which ones the machine has.
        with_scratch(Sizes::new(&self, WIDEST).scratch(), |scratch| {
            simd::widest().dispatch(Kernel { text: self, scratch })
        });
    }
}

/// A text with its scratch memory, for the dispatch.
struct Kernel<'a, 'b> {
    text: TextAttention<'a>,
    scratch: &'b mut [f32],
}

impl WithSimd for Kernel<'_, '_> {
    type Output = ();

    // Everything below, closures included, must be inlined here: only then is it compiled for the machine's vectors.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut text, scratch } = self;
        let sizes = Sizes::new(&text, S::F32_LANES);
        for head in 0..text.heads {
            text.head(simd, sizes, head, scratch);
        }
    }
}

/// Sizes in elements. Rows of scores and of values are padded to whole vectors.
#[derive(Clone, Copy)]
struct Sizes {
    /// The number of queries.
    rows: usize,
    /// The number of keys.
    len: usize,
    hidden: usize,
    /// The number of keys, rounded up to whole vectors.
    scores: usize,
    /// The distance between rows with a column for each key.
    spaced: usize,
    /// The size of a head, rounded up to whole vectors.
    values: usize,
    /// The length of a row of position scores before it is shifted into place; 0 without positions.
    shifted: usize,
}

impl Sizes {
    #[inline(always)]
    fn new(text: &TextAttention, lanes: usize) -> Self {
        let hidden = text.heads * text.size;
        let [rows, len] = [text.q, text.k].map(|x| x.len() / hidden.max(1));
        let whole = |n: usize| n.next_multiple_of(lanes);
        let positions = matches!(text.positions.keys, Some(Keys::Products(_))) || text.positions.queries.is_some();
        // A shifted row is read in whole vectors from an offset of up to ROWS - 1.
        let shifted = if positions { whole(len + ROWS - 1) + lanes } else { 0 };
        Self { rows, len, hidden, scores: whole(len), spaced: spaced(len), values: whole(text.size), shifted }
    }

    /// The scratch buffers: transposed keys, values, scores of a tile, shifted scores of a tile, transposed position scores.
    fn parts(self) -> [usize; 5] {
        let transposed = if self.shifted > 0 { self.rows * self.spaced } else { 0 };
        [self.values * self.spaced, self.len * self.values, ROWS * self.scores, ROWS * self.shifted, transposed]
    }

    fn scratch(self) -> usize {
        self.parts().iter().sum()
    }
}

/// Rows `at..` of a text against packed positions: which products to compute with the distances to its rows `from..from + count`.
#[derive(Clone, Copy)]
struct Distances<'a> {
    packed: &'a [f32],
    at: usize,
    from: usize,
    count: usize,
}

/// One head, packed for its tiles.
struct PackedHead<'a> {
    sizes: Sizes,
    column: usize,
    /// Transposed keys, `[size, spaced]`.
    keys: &'a [f32],
    /// Values, with rows `value_row` elements apart.
    values: &'a [f32],
    value_row: usize,
    position_keys: Option<Keys<'a>>,
    /// What the keys add to the scores by position, `[rows, spaced]`.
    transposed: Option<&'a [f32]>,
}

impl TextAttention<'_> {
    #[inline(always)]
    fn head<S: Simd>(&mut self, simd: S, sizes: Sizes, head: usize, scratch: &mut [f32]) {
        let [keys, values, scores, shifted, transposed] = split(scratch, sizes.parts());
        let (hidden, size, column) = (sizes.hidden, self.size, head * self.size);
        transpose(keys, sizes.spaced, &self.k[column..], Submatrix { len: sizes.len, size, row: hidden });
        let is_apart = hidden >= COPIED_FROM.0 && sizes.len >= COPIED_FROM.1;
        let (values, value_row) = if size == sizes.values && !is_apart {
            (&self.v[column..], hidden)
        } else {
            for (to, from) in values.chunks_exact_mut(sizes.values).zip(self.v[column..].chunks(hidden)) {
                to[..size].copy_from_slice(&from[..size]);
            }
            (&*values, sizes.values)
        };
        let part = size * packed_row(self.positions.middle);
        if let Some(packed) = self.positions.queries {
            let packed = &packed[head * part..][..part];
            let k = Rows { data: &self.k[column..], row: hidden, size };
            tiles::<S>(
                sizes.len,
                #[inline(always)]
                |rows, j| {
                    let distances = Distances { packed, at: j, from: self.first, count: sizes.rows };
                    let scratch = [&mut *shifted, &mut *transposed];
                    match rows {
                        8 => self.transposed::<S, 8>(simd, sizes, k.tile(j), distances, scratch),
                        4 => self.transposed::<S, 4>(simd, sizes, k.tile(j), distances, scratch),
                        2 => self.transposed::<S, 2>(simd, sizes, k.tile(j), distances, scratch),
                        _ => self.transposed::<S, 1>(simd, sizes, k.tile(j), distances, scratch),
                    }
                },
            );
        }
        let position_keys = self.positions.keys.map(|keys| keys.head(head, size, self.positions.middle));
        let transposed = self.positions.queries.map(|_| &*transposed);
        let head = PackedHead { sizes, column, keys, values, value_row, position_keys, transposed };
        tiles::<S>(
            sizes.rows,
            #[inline(always)]
            |rows, i| match rows {
                8 => self.tile::<S, 8>(simd, &head, i, scores, shifted),
                4 => self.tile::<S, 4>(simd, &head, i, scores, shifted),
                2 => self.tile::<S, 2>(simd, &head, i, scores, shifted),
                _ => self.tile::<S, 1>(simd, &head, i, scores, shifted),
            },
        );
    }

    /// Writes what `R` keys add by position to the scores of all queries, into the keys' columns of `transposed [rows, spaced]`.
    #[inline(always)]
    fn transposed<S: Simd, const R: usize>(
        &self,
        simd: S,
        sizes: Sizes,
        k: [&[f32]; R],
        distances: Distances,
        [shifted, transposed]: [&mut [f32]; 2],
    ) {
        self.shifted(simd, sizes, k, distances, shifted);
        let shifted: [&[f32]; R] = array(
            #[inline(always)]
            |r| &shifted[r * sizes.shifted + R - 1 - r..][..sizes.rows],
        );
        for (i, row) in transposed.chunks_exact_mut(sizes.spaced).enumerate() {
            for (to, shifted) in row[distances.at..distances.at + R].iter_mut().zip(shifted) {
                *to = shifted[i];
            }
        }
    }

    /// Computes products of `R` rows with packed positions. Row r's product for the text's row `from + n` is written at `R - 1 - r
    /// + n`.
    #[inline(always)]
    fn shifted<S: Simd, const R: usize>(
        &self,
        simd: S,
        sizes: Sizes,
        content: [&[f32]; R],
        Distances { packed, at, from, count }: Distances,
        shifted: &mut [f32],
    ) {
        let start = self.positions.middle + from - (at + R - 1);
        let vectors = (count + R - 1).div_ceil(S::F32_LANES);
        columns(
            simd,
            content,
            &packed[start..],
            packed_row(self.positions.middle),
            vectors,
            #[inline(always)]
            |vector, r, sum| {
                S::as_mut_simd_f32s(&mut shifted[r * sizes.shifted..][..sizes.shifted]).0[vector] = sum;
            },
        );
    }

    /// Computes the result of the queries `i..i + R`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        head: &PackedHead,
        i: usize,
        scores: &mut [f32],
        shifted: &mut [f32],
    ) {
        let Sizes { len, hidden, scores: row, .. } = head.sizes;
        let q = Rows { data: &self.q[head.column..], row: hidden, size: self.size }.tile::<R>(i);
        // What positions add to each row of scores, and a factor for it. The scale multiplies the sum later; a bias must not be
        // scaled, so its factor is 1 / scale.
        let (added, unit): (Option<[&[f32]; R]>, f32) = match head.position_keys {
            Some(Keys::Products(packed)) => {
                let distances = Distances { packed, at: self.first + i, from: 0, count: len };
                self.shifted(simd, head.sizes, q, distances, shifted);
                let of = array(
                    #[inline(always)]
                    |r| &shifted[r * head.sizes.shifted + R - 1 - r..][..row],
                );
                (Some(of), 1.0)
            }
            Some(Keys::Bias(bias)) => {
                let of = array(
                    #[inline(always)]
                    |r| &bias[self.positions.middle - (self.first + i + r)..][..row],
                );
                (Some(of), 1.0 / self.scale)
            }
            None => (None, 1.0),
        };
        let unit = simd.splat_f32s(unit);
        let vectors = row / S::F32_LANES;
        let inside = simd.mask_between_m32s(0, (len - (vectors - 1) * S::F32_LANES) as u32).mask();
        let mut most = [simd.splat_f32s(f32::NEG_INFINITY); R];
        columns(
            simd,
            q,
            head.keys,
            head.sizes.spaced,
            vectors,
            #[inline(always)]
            |vector, r, mut sum| {
                if let Some(added) = &added {
                    // Multiplying by 1 is exact, so position products are added unchanged.
                    sum = simd.mul_add_e_f32s(S::as_simd_f32s(added[r]).0[vector], unit, sum);
                }
                if let Some(transposed) = head.transposed {
                    sum = simd
                        .add_f32s(sum, S::as_simd_f32s(&transposed[(i + r) * head.sizes.spaced..][..row]).0[vector]);
                }
                if vector + 1 == vectors {
                    sum = simd.select_f32s(inside, sum, simd.splat_f32s(f32::NEG_INFINITY));
                }
                most[r] = simd.max_f32s(most[r], sum);
                S::as_mut_simd_f32s(&mut scores[r * row..][..row]).0[vector] = sum;
            },
        );
        let scales = exponentials(simd, S::as_mut_simd_f32s(&mut scores[..R * row]).0, most, self.scale);
        let weights = Rows { data: scores, row, size: len }.tile::<R>(0);
        let vectors = head.sizes.values / S::F32_LANES;
        columns(
            simd,
            weights,
            head.values,
            head.value_row,
            vectors,
            #[inline(always)]
            |vector, r, sum| {
                let y = &mut self.y[(i + r) * hidden + head.column..][..self.size];
                host::write(simd, &mut y[vector * S::F32_LANES..], simd.mul_f32s(sum, simd.splat_f32s(scales[r])));
            },
        );
    }
}

/// Splits `scratch` into parts of these lengths.
#[inline(always)]
fn split<const N: usize>(mut scratch: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(
        #[inline(always)]
        |len| {
            let (part, rest) = std::mem::take(&mut scratch).split_at_mut(len);
            scratch = rest;
            part
        },
    )
}
