//! Softmax attention of one text, a head at a time, without a general product: for texts whose scores stay in the nearest cache.
//!
//! A general product packs its operands at every call, which for a head of a short text costs more than the product. Here the
//! keys of a head are turned once, so that vectors run along the keys; a few rows of scores are made, normalised and multiplied
//! with the values while they are hot. A row's sums run in one order, whatever rows are computed beside it.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use crate::cpu::transpose::{Submatrix, transpose};
use crate::cpu::{host, math, simd};

/// Longer texts run by general products, which divide a product's depth among the caches.
pub(in crate::ops) const LONGEST: usize = 512;

/// The fewest rows that are worth a thread of their own.
const LEAST: usize = 64;

/// How many rows of a text of `len`, one of `texts`, attend together: where there are fewer texts than threads, they are divided.
/// A row's result does not depend on it.
pub(in crate::ops) fn share(len: usize, texts: usize) -> usize {
    len.div_ceil(rayon::current_num_threads().div_ceil(texts.max(1))).next_multiple_of(ROWS).max(LEAST)
}

/// The most rows that one tile takes.
const ROWS: usize = 8;

/// What packed positions have beyond their last column: a tile reads whole vectors, some of them past the end.
const SLACK: usize = ROWS + WIDEST;

/// Elements of the widest vectors there are.
const WIDEST: usize = 16;

/// Attention of one text, or of some of its rows: `k`, `v` `[len, heads * size]`.
pub(in crate::ops) struct Text<'a> {
    /// The rows that attend.
    pub(in crate::ops) q: &'a [f32],
    /// Which of the text is the first of them.
    pub(in crate::ops) first: usize,
    pub(in crate::ops) k: &'a [f32],
    pub(in crate::ops) v: &'a [f32],
    pub(in crate::ops) heads: usize,
    pub(in crate::ops) size: usize,
    pub(in crate::ops) scale: f32,
    pub(in crate::ops) positions: Positions<'a>,
    /// The result, of the shape of `q`; every element is written.
    pub(in crate::ops) y: &'a mut [MaybeUninit<f32>],
}

/// What relative positions add to the scores of a text; each row is [`packed_row`] long.
#[derive(Clone, Copy, Default)]
pub(in crate::ops) struct Positions<'a> {
    /// What query i adds to its score with key j, from column `j - i + middle`.
    pub(in crate::ops) keys: Option<Keys<'a>>,
    /// What key j adds to its score with query i: position queries packed by [`pack`], column `i - j + middle`.
    pub(in crate::ops) queries: Option<&'a [f32]>,
    /// The column of distance 0.
    pub(in crate::ops) middle: usize,
}

/// What a query adds to its scores by the position of the key.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Keys<'a> {
    /// Its products with position keys, packed by [`pack`]: `[heads, size, packed_row(middle)]`. The scale multiplies them.
    Products(&'a [f32]),
    /// A bias that is the same for every query, `[heads, packed_row(middle)]`. The scale does not multiply it.
    Bias(&'a [f32]),
}

impl<'a> Keys<'a> {
    /// The part of one head, of `size` columns.
    fn head(self, head: usize, size: usize, middle: usize) -> Self {
        let part =
            |data: &'a [f32], rows: usize| &data[head * rows * packed_row(middle)..][..rows * packed_row(middle)];
        match self {
            Self::Products(keys) => Self::Products(part(keys, size)),
            Self::Bias(bias) => Self::Bias(part(bias, 1)),
        }
    }
}

/// Columns of packed positions for distances up to `middle` either side.
pub(in crate::ops) fn packed_row(middle: usize) -> usize {
    2 * middle + 1 + SLACK
}

/// Turns one head's columns of positions for [`Positions`]: `packed [size, packed_row(middle)]` gets, in its column m, the row
/// that `row_of(m)` names.
pub(in crate::ops) fn pack<'a>(packed: &mut [f32], middle: usize, row_of: impl Fn(usize) -> &'a [f32]) {
    let width = packed_row(middle);
    for m in 0..=2 * middle {
        for (packed, value) in packed.chunks_exact_mut(width).zip(row_of(m)) {
            packed[m] = *value;
        }
    }
}

thread_local! {
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of this thread's own, at the start of a cache line and with anything in them.
fn with_room<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    const LINE: usize = 64;
    ROOM.with_borrow_mut(|room| {
        let most = len + LINE / size_of::<f32>();
        if room.len() < most {
            room.resize(most, 0.0);
        }
        let start = room.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        f(&mut room[start..start + len])
    })
}

impl Text<'_> {
    /// Attends.
    pub(in crate::ops) fn attend(self) {
        if self.q.is_empty() {
            return;
        }
        // Room for the widest vectors: which the machine has is known in the dispatch only.
        with_room(Sizes::new(&self, WIDEST).room(), |room| simd::widest().dispatch(Attend { text: self, room }));
    }
}

/// A text with scratch for it.
struct Attend<'a, 'b> {
    text: Text<'a>,
    room: &'b mut [f32],
}

impl WithSimd for Attend<'_, '_> {
    type Output = ();

    // All that follows, closures included, must be inlined here: only then is it compiled for the machine's vectors.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut text, room } = self;
        let sizes = Sizes::new(&text, S::F32_LANES);
        for head in 0..text.heads {
            text.head(simd, sizes, head, room);
        }
    }
}

/// Sizes in elements; rows of scores and of values are whole vectors long.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rows that attend.
    rows: usize,
    /// Rows that are attended to.
    len: usize,
    hidden: usize,
    /// Length rounded up to whole vectors.
    scores: usize,
    /// The size of a head rounded up to whole vectors.
    values: usize,
    /// A row of positions' scores before they are shifted into place.
    shifted: usize,
}

impl Sizes {
    #[inline(always)]
    fn new(text: &Text, lanes: usize) -> Self {
        let hidden = text.heads * text.size;
        let [rows, len] = [text.q, text.k].map(|x| x.len() / hidden.max(1));
        let whole = |n: usize| n.next_multiple_of(lanes);
        let positions = matches!(text.positions.keys, Some(Keys::Products(_))) || text.positions.queries.is_some();
        // Reading a shifted row starts up to ROWS - 1 late and takes whole vectors.
        let shifted = if positions { whole(len + ROWS - 1) + lanes } else { 0 };
        Self { rows, len, hidden, scores: whole(len), values: whole(text.size), shifted }
    }

    /// Turned keys, values, scores of a tile, shifted scores of a tile, turned scores of positions.
    fn parts(self) -> [usize; 5] {
        let turned = if self.shifted > 0 { self.rows * self.scores } else { 0 };
        [self.values * self.scores, self.len * self.values, ROWS * self.scores, ROWS * self.shifted, turned]
    }

    fn room(self) -> usize {
        self.parts().iter().sum()
    }
}

/// Rows of a text from `at` on against packed positions: their products with the distances to its rows `from..from + count`.
#[derive(Clone, Copy)]
struct Distances<'a> {
    packed: &'a [f32],
    at: usize,
    from: usize,
    count: usize,
}

/// One head, ready for its tiles.
struct Head<'a> {
    sizes: Sizes,
    column: usize,
    /// `[size, scores]`.
    keys: &'a [f32],
    /// Rows `value_row` apart.
    values: &'a [f32],
    value_row: usize,
    position_keys: Option<Keys<'a>>,
    /// What keys add by position, `[rows, scores]`.
    turned: Option<&'a [f32]>,
}

impl Text<'_> {
    #[inline(always)]
    fn head<S: Simd>(&mut self, simd: S, sizes: Sizes, head: usize, room: &mut [f32]) {
        let [keys, values, scores, shifted, turned] = split(room, sizes.parts());
        let (hidden, size, column) = (sizes.hidden, self.size, head * self.size);
        transpose(keys, sizes.scores, &self.k[column..], Submatrix { len: sizes.len, size, row: hidden });
        let (values, value_row) = if size == sizes.values {
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
                    let room = [&mut *shifted, &mut *turned];
                    match rows {
                        8 => self.turned::<S, 8>(simd, sizes, k.tile(j), distances, room),
                        4 => self.turned::<S, 4>(simd, sizes, k.tile(j), distances, room),
                        2 => self.turned::<S, 2>(simd, sizes, k.tile(j), distances, room),
                        _ => self.turned::<S, 1>(simd, sizes, k.tile(j), distances, room),
                    }
                },
            );
        }
        let position_keys = self.positions.keys.map(|keys| keys.head(head, size, self.positions.middle));
        let turned = self.positions.queries.map(|_| &*turned);
        let head = Head { sizes, column, keys, values, value_row, position_keys, turned };
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

    /// What these keys add by position to the rows that attend, into their columns of `turned [rows, scores]`.
    #[inline(always)]
    fn turned<S: Simd, const R: usize>(
        &self,
        simd: S,
        sizes: Sizes,
        k: [&[f32]; R],
        distances: Distances,
        [shifted, turned]: [&mut [f32]; 2],
    ) {
        self.shifted(simd, sizes, k, distances, shifted);
        let shifted: [&[f32]; R] = std::array::from_fn(|r| &shifted[r * sizes.shifted + R - 1 - r..][..sizes.rows]);
        for (i, row) in turned.chunks_exact_mut(sizes.scores).enumerate() {
            for (to, shifted) in row[distances.at..distances.at + R].iter_mut().zip(shifted) {
                *to = shifted[i];
            }
        }
    }

    /// Products of `R` rows with packed positions. What row r gets from its text's row `from + n` lies at `R - 1 - r + n`.
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

    /// The result of the queries `i..i + R`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        head: &Head,
        i: usize,
        scores: &mut [f32],
        shifted: &mut [f32],
    ) {
        let Sizes { len, hidden, scores: row, .. } = head.sizes;
        let q = Rows { data: &self.q[head.column..], row: hidden, size: self.size }.tile::<R>(i);
        // What is added to each row of scores by position, and a factor: the scale multiplies these scores afterwards, and must
        // leave a bias as it is.
        let (added, unit): (Option<[&[f32]; R]>, f32) = match head.position_keys {
            Some(Keys::Products(packed)) => {
                let distances = Distances { packed, at: self.first + i, from: 0, count: len };
                self.shifted(simd, head.sizes, q, distances, shifted);
                let of = |r| &shifted[r * head.sizes.shifted + R - 1 - r..][..row];
                (Some(std::array::from_fn(of)), 1.0)
            }
            Some(Keys::Bias(bias)) => {
                let of = |r| &bias[self.positions.middle - (self.first + i + r)..][..row];
                (Some(std::array::from_fn(of)), 1.0 / self.scale)
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
            row,
            vectors,
            #[inline(always)]
            |vector, r, mut sum| {
                if let Some(added) = &added {
                    // A product by 1 is exact: position keys are added as they are.
                    sum = simd.mul_add_e_f32s(S::as_simd_f32s(added[r]).0[vector], unit, sum);
                }
                if let Some(turned) = head.turned {
                    sum = simd.add_f32s(sum, S::as_simd_f32s(&turned[(i + r) * row..][..row]).0[vector]);
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

/// The parts of `room` of these lengths.
#[inline(always)]
fn split<const N: usize>(mut room: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(
        #[inline(always)]
        |len| {
            let (part, rest) = std::mem::take(&mut room).split_at_mut(len);
            room = rest;
            part
        },
    )
}

/// Calls `f` with tiles that cover `len` rows: how many rows, from which.
#[inline(always)]
fn tiles<S: Simd>(len: usize, mut f: impl FnMut(usize, usize)) {
    // Two vectors of sums for each row must stay in registers.
    let most = if S::REGISTER_COUNT >= 32 { ROWS } else { 4 };
    let mut at = 0;
    while at < len {
        let left = (len - at).min(most);
        let rows = 1 << left.ilog2();
        f(rows, at);
        at += rows;
    }
}

/// `size` elements of rows that lie `row` apart.
struct Rows<'a> {
    data: &'a [f32],
    row: usize,
    size: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn tile<const R: usize>(&self, at: usize) -> [&'a [f32]; R] {
        std::array::from_fn(
            #[inline(always)]
            |r| &self.data[(at + r) * self.row..][..self.size],
        )
    }
}

/// Products of `R` rows with `vectors` vectors of columns of `right`, whose rows lie `row` apart; `put` gets each sum with its
/// vector and its row.
#[inline(always)]
fn columns<S: Simd, const R: usize>(
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

/// `R` rows times the first `C` vectors of columns, in registers.
#[inline(always)]
fn product<S: Simd, const R: usize, const C: usize>(
    simd: S,
    left: [&[f32]; R],
    right: &[f32],
    row: usize,
) -> [[S::f32s; C]; R] {
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    let depth = left[0].len();
    let left = left.map(
        #[inline(always)]
        |left| &left[..depth],
    );
    for l in 0..depth {
        let right = S::as_simd_f32s(&right[l * row..][..C * S::F32_LANES]).0;
        let right: [S::f32s; C] = std::array::from_fn(
            #[inline(always)]
            |c| right[c],
        );
        for (sums, left) in sums.iter_mut().zip(left) {
            let left = simd.splat_f32s(left[l]);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = simd.mul_add_e_f32s(left, right, *sum);
            }
        }
    }
    sums
}

/// `e^(scale (x - max))` of `R` rows of scores, in place, where `most` holds each row's largest; gives 1 / each row's sum.
#[inline(always)]
fn exponentials<S: Simd, const R: usize>(simd: S, scores: &mut [S::f32s], most: [S::f32s; R], scale: f32) -> [f32; R] {
    let mut shifts = [simd.splat_f32s(0.0); R];
    for (shift, most) in shifts.iter_mut().zip(most) {
        *shift = simd.splat_f32s(-scale * simd.reduce_max_f32s(most));
    }
    let scale = simd.splat_f32s(scale);
    let mut sums = [simd.splat_f32s(0.0); R];
    let vectors = scores.len() / R;
    for vector in 0..vectors {
        // Row after row, so that what one waits for the others fill.
        for (r, (sum, shift)) in sums.iter_mut().zip(shifts).enumerate() {
            let score = &mut scores[r * vectors + vector];
            // Beside the largest, which is 1, what lies past the end is nothing: e^-87.
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
