//! The CPU's form for inference: scores, softmax and values in one operation without gradients, so that a short text stays in the
//! L1 cache.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{attend, scores};
use super::{Attend, Dims, Disentangled, TextPositions};
use crate::cpu::gemm::{Size, Target, Threads, View, gemm};
use crate::cpu::{host, math};
use crate::ops::Dropout;
use crate::ops::attention::{self, Keys, Positions, TextAttention, softmax};

pub(in crate::ops) fn cpu(
    [q, k, v]: [&Tensor; 3],
    positions: &Tensor,
    how: &Disentangled,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    if dropout.is_some() || [q, k, v, positions].into_iter().any(Tensor::track_op) {
        let scores = scores(q, k, positions, how)?;
        return attend(&scores, v, &Attend { offsets: how.offsets.clone(), heads: how.heads, dropout });
    }
    let dims = how.check(q.shape(), k.shape(), positions.shape())?;
    if v.dims() != q.dims() {
        bail!("disentangled: q {:?}, v {:?}", q.dims(), v.dims());
    }
    let y = host::read("disentangled-attention", [q, k, v, positions], |inputs| how.forward(dims, inputs))?;
    Tensor::from_vec(y, q.shape(), q.device())
}

/// Positions packed for the fused kernel. Each set that a text uses is transposed once and shared by all texts.
struct Packs {
    /// The first row of each set, and whether it is a set of queries.
    sets: Vec<(usize, bool)>,
    /// The packed sets, each `[heads, size, packed_row(middle)]`.
    data: Vec<f32>,
    each: usize,
    middle: usize,
}

impl Packs {
    fn new(how: &Disentangled, dims: Dims, positions: &[f32]) -> Self {
        let short = how.offsets.windows(2).zip(&how.texts).map(|(span, text)| (span[1] - span[0], text));
        let (mut sets, mut longest) = (Vec::new(), 1);
        for (len, text) in short.filter(|(len, _)| *len <= attention::MAX_FUSED_LEN) {
            longest = longest.max(len);
            sets.extend(text.keys.map(|start| (start, false)));
            sets.extend(text.queries.map(|start| (start, true)));
        }
        sets.sort_unstable();
        sets.dedup();
        let middle = longest - 1;
        let part = dims.size * attention::packed_row(middle);
        let each = how.heads * part;
        let mut data = vec![0.0; sets.len() * each];
        data.par_chunks_exact_mut(part.max(1)).enumerate().for_each(|(at, packed)| {
            let ((start, queries), head) = (sets[at / how.heads], at % how.heads);
            attention::pack(packed, middle, |m| {
                // Column m holds distance m - middle for queries, middle - m for keys.
                let place = dims.middle + if queries { m } else { 2 * middle - m } - middle;
                let row = start + how.distances[place];
                &positions[row * dims.hidden + head * dims.size..][..dims.size]
            });
        });
        Self { sets, data, each, middle }
    }

    fn of(&self, text: TextPositions) -> Positions<'_> {
        let find = |set: (usize, bool)| {
            let at = self.sets.iter().position(|known| *known == set)?;
            Some(&self.data[at * self.each..(at + 1) * self.each])
        };
        let keys = text.keys.and_then(|start| find((start, false))).map(Keys::Products);
        let queries = text.queries.and_then(|start| find((start, true)));
        Positions { keys, queries, middle: self.middle }
    }
}

impl Disentangled {
    /// The blocks of rows that are computed together, in order; they cover all rows. Texts that run by GEMM are not divided.
    fn blocks(&self) -> Vec<(usize, Range<usize>)> {
        let of_text = |(text, span): (usize, &[usize])| {
            let len = span[1] - span[0];
            let rows =
                if len > attention::MAX_FUSED_LEN { len } else { attention::rows_per_block(len, self.texts.len()) };
            (0..len).step_by(rows).map(move |start| (text, start..len.min(start + rows)))
        };
        self.offsets.windows(2).enumerate().flat_map(of_text).collect()
    }

    /// Computes the attention without a gradient.
    fn forward(&self, dims: Dims, [q, k, v, positions]: [&[f32]; 4]) -> Vec<f32> {
        let packs = Packs::new(self, dims, positions);
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let blocks = self.blocks();
            let ys = host::parts(y, blocks.iter().map(|(_, rows)| rows.len() * dims.hidden));
            ys.into_par_iter().zip(blocks).for_each(|(y, (text, rows))| {
                let (start, end) = (self.offsets[text], self.offsets[text + 1]);
                if end - start > attention::MAX_FUSED_LEN {
                    return self.attend_by_gemm(dims, text, [q, k, v, positions], host::zeroed(y));
                }
                let [q, k, v] = [q, k, v].map(|x| &x[start * dims.hidden..end * dims.hidden]);
                let (q, first) = (&q[rows.start * dims.hidden..rows.end * dims.hidden], rows.start);
                let (scale, positions) = (self.scale as f32, packs.of(self.texts[text]));
                TextAttention { q, first, k, v, heads: self.heads, size: dims.size, scale, positions, y }.attend();
            });
        };
        // SAFETY: `y` is split among the blocks, which cover all rows, and both branches write all rows of their block.
        unsafe { host::written(q.len(), fill) }
    }

    /// Computes one text's attention by GEMM.
    fn attend_by_gemm(&self, dims: Dims, text: usize, [q, k, v, positions]: [&[f32]; 4], y: &mut [f32]) {
        let (start, len) = (self.offsets[text], self.offsets[text + 1] - self.offsets[text]);
        let (mut scores, mut scratch) = (vec![0.0; len * len], Vec::new());
        for head in 0..self.heads {
            let column = head * dims.size;
            self.head_scores(dims, &self.block(dims, text, head, [q, k, positions]), &mut scores, &mut scratch);
            math::vectorized(
                #[inline(always)]
                || scores.chunks_exact_mut(len).for_each(softmax),
            );
            let target = Target { data: &mut y[column..], row: dims.hidden, add: false };
            let values = View::rows(&v[start * dims.hidden + column..], dims.hidden);
            let size = Size { m: len, n: dims.size, k: len };
            gemm(target, View::rows(&scores, len), values, 1.0, size, Threads::One);
        }
    }
}
