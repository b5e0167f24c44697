//! The CPU's form. Short texts run in the fused kernel, others by GEMM.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::fused::{self, Keys, Positions, TextAttention, TextGradient};
use super::{Dropout, Heads, mask, reference};
use crate::cpu::gemm::{Size, Target, Threads, View, gemm};
use crate::cpu::{host, math};

/// Runs the reference if the bias is trained, because the kernels have no gradient for it.
pub(in crate::ops) fn cpu([q, k, v]: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
    let hidden = heads.check([q, k, v])?;
    if heads.bias.is_some_and(Tensor::track_op) {
        return reference([q, k, v], heads);
    }
    let op = Attention {
        offsets: heads.offsets.to_vec(),
        heads: heads.heads,
        size: hidden / heads.heads,
        scale: heads.scale as f32,
        window: heads.window,
        bias: heads.bias.map(Bias::new).transpose()?,
        dropout: heads.dropout,
    };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// The bias of [`Heads::bias`] in the layout that the kernels read: each row is [`fused::packed_row`] long.
struct Bias {
    rows: Vec<f32>,
    /// The column of distance 0.
    middle: usize,
}

impl Bias {
    fn new(table: &Tensor) -> Result<Self> {
        let (heads, columns) = table.dims2()?;
        let middle = columns / 2;
        let width = fused::packed_row(middle);
        let mut rows = vec![0.0; heads * width];
        host::read("attention", [table], |[table]| {
            for (row, values) in rows.chunks_exact_mut(width).zip(table.chunks_exact(columns)) {
                row[..columns].copy_from_slice(values);
            }
        })?;
        Ok(Self { rows, middle })
    }

    /// What `head` adds to the scores of query `i` with the keys `first..`.
    fn of(&self, head: usize, i: usize, first: usize) -> &[f32] {
        let width = fused::packed_row(self.middle);
        &self.rows[head * width..(head + 1) * width][self.middle + first - i..]
    }
}

/// The number of rows in a block of a text that runs by GEMM. It is fixed, because a GEMM's rounding depends on its size and a
/// text's result must not depend on the number of threads.
const ROWS: usize = 256;

/// Rows of one text that are computed together.
struct Block {
    text: usize,
    /// Rows of the text.
    rows: Range<usize>,
    /// The keys that any of these rows sees.
    keys: Range<usize>,
}

struct Attention {
    offsets: Vec<usize>,
    heads: usize,
    size: usize,
    scale: f32,
    window: Option<usize>,
    bias: Option<Bias>,
    dropout: Option<Dropout>,
}

/// One head of a [`Block`]. Each slice begins at the block's first row: of the rows for `q`, of the keys for `k` and `v`.
struct HeadViews<'a> {
    head: usize,
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
}

impl Attention {
    fn hidden(&self) -> usize {
        self.heads * self.size
    }

    fn len(&self, text: usize) -> usize {
        self.offsets[text + 1] - self.offsets[text]
    }

    fn texts(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Splits a mutable `[T, hidden]` into the rows of each text.
    fn split<'a, T>(&self, rows: &'a mut [T]) -> Vec<&'a mut [T]> {
        host::parts(rows, (0..self.texts()).map(|text| self.len(text) * self.hidden()))
    }

    fn block(&self, text: usize, rows: Range<usize>) -> Block {
        let len = self.len(text);
        let keys = match self.window {
            Some(window) => rows.start.saturating_sub(window)..rows.end.saturating_add(window).min(len),
            None => 0..len,
        };
        Block { text, rows, keys }
    }

    /// All rows of all texts, in order. A text of the fused kernel is divided only if there are fewer texts than threads. A text
    /// that runs by GEMM is always divided, so that with a window each block reads only the keys that it sees.
    fn blocks(&self) -> Vec<Block> {
        let of_text = |text| {
            let len = self.len(text);
            let rows = if self.is_fused(text) { fused::rows_per_block(len, self.texts()) } else { ROWS };
            (0..len).step_by(rows).map(move |start| self.block(text, start..len.min(start + rows)))
        };
        (0..self.texts()).flat_map(of_text).collect()
    }

    fn heads_of<'a>(&self, block: &Block, [q, k, v]: [&'a [f32]; 3]) -> impl Iterator<Item = HeadViews<'a>> {
        let (start, hidden, size) = (self.offsets[block.text], self.hidden(), self.size);
        let heads = if block.rows.is_empty() { 0 } else { self.heads };
        let (first, last) = (start + block.keys.start, start + block.keys.end);
        let rows = start + block.rows.start..start + block.rows.end;
        (0..heads).map(move |head| {
            let view = |x: &'a [f32], from, to| View::rows(&x[from * hidden + head * size..to * hidden], hidden);
            HeadViews { head, q: view(q, rows.start, rows.end), k: view(k, first, last), v: view(v, first, last) }
        })
    }

    /// The softmax weights `[rows, keys]` of one head, before dropout.
    fn weights(&self, block: &Block, head: &HeadViews, weights: &mut Vec<f32>) {
        let (rows, keys) = (block.rows.len(), block.keys.len());
        weights.resize(rows * keys, 0.0);
        let target = Target { data: weights, row: keys, add: false };
        gemm(target, head.q, head.k.t(), self.scale, Size { m: rows, n: keys, k: self.size }, Threads::One);
        math::vectorized(
            #[inline(always)]
            || {
                for (i, row) in block.rows.clone().zip(weights.chunks_exact_mut(keys)) {
                    let (start, end) = self.window.map_or((0, keys), |window| {
                        let seen = i.saturating_sub(window)..(i + 1).saturating_add(window).min(block.keys.end);
                        (seen.start - block.keys.start, seen.end - block.keys.start)
                    });
                    row[..start].fill(0.0);
                    row[end..].fill(0.0);
                    let seen = &mut row[start..end];
                    if let Some(bias) = &self.bias {
                        let bias = bias.of(head.head, i, block.keys.start + start);
                        seen.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
                    }
                    softmax(seen);
                }
            },
        );
    }

    fn drop(&self, block: &Block, head: &HeadViews, weights: &mut [f32]) {
        let Some(dropout) = self.dropout else { return };
        for (i, row) in block.rows.clone().zip(weights.chunks_exact_mut(block.keys.len())) {
            let mask = mask(dropout, block.text, head.head, i * self.len(block.text) + block.keys.start);
            row.iter_mut().zip(mask).for_each(|(weight, kept)| *weight *= kept);
        }
    }

    /// Whether the fused kernel takes a text: it must be short, every token must see all of it, and nothing may be dropped.
    fn is_fused(&self, text: usize) -> bool {
        let len = self.len(text);
        self.dropout.is_none()
            && len <= fused::MAX_FUSED_LEN
            && self.window.is_none_or(|window| window >= len.saturating_sub(1))
    }

    /// Computes a block of a short text with the fused kernel.
    fn attend_fused(&self, block: &Block, inputs: [&[f32]; 3], y: &mut [MaybeUninit<f32>]) {
        let (start, hidden) = (self.offsets[block.text], self.hidden());
        let [q, k, v] = inputs.map(|x| &x[start * hidden..]);
        let (q, keys) = (&q[block.rows.start * hidden..block.rows.end * hidden], ..block.keys.end * hidden);
        let (k, v, first) = (&k[keys], &v[keys], block.rows.start);
        let positions = self.bias.as_ref().map_or_else(Positions::default, |bias| Positions {
            keys: Some(Keys::Bias(&bias.rows)),
            queries: None,
            middle: bias.middle,
        });
        TextAttention { q, first, k, v, heads: self.heads, size: self.size, scale: self.scale, positions, y }.attend();
    }

    /// Computes a block by GEMM. `weights` is scratch for the weights of one head.
    fn attend_by_gemm(&self, block: &Block, inputs: [&[f32]; 3], y: &mut [f32], weights: &mut Vec<f32>) {
        for head in self.heads_of(block, inputs) {
            self.weights(block, &head, weights);
            self.drop(block, &head, weights);
            let target = Target { data: &mut y[head.head * self.size..], row: self.hidden(), add: false };
            let size = Size { m: block.rows.len(), n: self.size, k: block.keys.len() };
            gemm(target, View::rows(weights, block.keys.len()), head.v, 1.0, size, Threads::One);
        }
    }

    /// The backward pass of one text. `dq`, `dk` and `dv` hold the text's rows, all zero; the inputs are the whole batch's.
    fn text_gradient(&self, text: usize, [dq, dk, dv]: [&mut [f32]; 3], inputs: [&[f32]; 3], dy: &[f32]) {
        let (hidden, size) = (self.hidden(), self.size);
        let (mut weights, mut dropped, mut grads) = (Vec::new(), Vec::new(), Vec::new());
        let len = self.len(text);
        if self.is_fused(text) && len <= fused::MAX_GRADIENT_LEN {
            let rows = self.offsets[text] * hidden..self.offsets[text + 1] * hidden;
            let [q, k, v] = inputs.map(|x| &x[rows.clone()]);
            let bias = self.bias.as_ref().map(|bias| (&bias.rows[..], bias.middle));
            let (heads, scale, inputs) = (self.heads, self.scale, [q, k, v, &dy[rows]]);
            TextGradient { inputs, heads, size, scale, bias, gradients: [dq, dk, dv] }.run();
            return;
        }
        let block = self.block(text, 0..len);
        for head in self.heads_of(&block, inputs) {
            let column = head.head * size;
            let dy = View::rows(&dy[self.offsets[text] * hidden + column..], hidden);
            self.weights(&block, &head, &mut weights);
            dropped.clone_from(&weights);
            self.drop(&block, &head, &mut dropped);
            let square = Size { m: len, n: len, k: size };
            let narrow = Size { m: len, n: size, k: len };
            gemm(
                Target { data: &mut dv[column..], row: hidden, add: false },
                View::rows(&dropped, len).t(),
                dy,
                1.0,
                narrow,
                Threads::One,
            );
            grads.resize(len * len, 0.0);
            gemm(Target { data: &mut grads, row: len, add: false }, dy, head.v.t(), 1.0, square, Threads::One);
            self.drop(&block, &head, &mut grads);
            for (grads, weights) in grads.chunks_exact_mut(len).zip(weights.chunks_exact(len)) {
                let mean: f32 = grads.iter().zip(weights).map(|(g, w)| g * w).sum();
                for (g, w) in grads.iter_mut().zip(weights) {
                    *g = w * (*g - mean);
                }
            }
            gemm(
                Target { data: &mut dq[column..], row: hidden, add: false },
                View::rows(&grads, len),
                head.k,
                self.scale,
                narrow,
                Threads::One,
            );
            gemm(
                Target { data: &mut dk[column..], row: hidden, add: false },
                View::rows(&grads, len).t(),
                head.q,
                self.scale,
                narrow,
                Threads::One,
            );
        }
    }
}

/// `e^(x - max) / sum` in place. Called inside [`math::vectorized`].
#[inline(always)]
pub(in crate::ops) fn softmax(row: &mut [f32]) {
    let (mut most, mut sums) = ([f32::NEG_INFINITY; 16], [0.0; 16]);
    let (sixteens, rest) = row.as_chunks::<16>();
    for values in sixteens {
        for (most, &value) in most.iter_mut().zip(values) {
            *most = if value > *most { value } else { *most };
        }
    }
    let max = most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = math::exp(*x - max);
    }
    let (sixteens, rest) = row.as_chunks::<16>();
    for values in sixteens {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
    let scale = 1.0 / (sums.iter().sum::<f32>() + rest.iter().sum::<f32>());
    for x in row.iter_mut() {
        *x *= scale;
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let inputs = [host::slice(name, q, ql)?, host::slice(name, k, kl)?, host::slice(name, v, vl)?];
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let blocks = self.blocks();
            let ys = host::parts(y, blocks.iter().map(|block| block.rows.len() * self.hidden()));
            let blocks = ys.into_par_iter().zip(&blocks);
            blocks.for_each_init(Vec::new, |weights, (y, block)| {
                if self.is_fused(block.text) {
                    self.attend_fused(block, inputs, y)
                } else {
                    self.attend_by_gemm(block, inputs, host::zeroed(y), weights)
                }
            });
        };
        // SAFETY: `y` is split among the blocks, which cover all rows, and both branches write all rows of their block.
        let y = unsafe { host::written(inputs[0].len(), fill) };
        Ok(host::fresh(y, ql.shape().clone()))
    }

    /// With `P` the weights, `M` the mask, `Y = (P M) V`: `dV = (P M)^T dY`, `dP = (dY V^T) M`,
    /// `dS = P (dP - sum(dP P))`, `dQ = scale dS K`, `dK = scale dS^T Q`. `P` is recomputed rather than kept.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut grads = [(); 3].map(|()| vec![0.0; q.elem_count()]);
        host::read(self.name(), [q, k, v, dy], |[q, k, v, dy]| {
            let [dq, dk, dv] = &mut grads;
            let texts = self.split(dq).into_iter().zip(self.split(dk)).zip(self.split(dv)).collect::<Vec<_>>();
            texts.into_par_iter().enumerate().for_each(|(text, ((dq, dk), dv))| {
                self.text_gradient(text, [dq, dk, dv], [q, k, v], dy);
            });
        })?;
        let [dq, dk, dv] = grads.map(|grad| Tensor::from_vec(grad, q.shape(), q.device()));
        Ok((Some(dq?), Some(dk?), Some(dv?)))
    }
}
