//! The CPU's form for training: two operations, scores and attention, each with its gradients.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Attend, Dims, Disentangled, TextPositions, starts};
use crate::cpu::gemm::{Size, Target, Threads, View, gemm};
use crate::cpu::{host, math};
use crate::ops::attention::{mask, softmax};

/// The scores of all texts, end to end. Differentiable in `q`, `k` and `positions`.
pub(in crate::ops) fn scores(q: &Tensor, k: &Tensor, positions: &Tensor, how: &Disentangled) -> Result<Tensor> {
    how.check(q.shape(), k.shape(), positions.shape())?;
    q.contiguous()?.apply_op3(&k.contiguous()?, &positions.contiguous()?, how.clone())
}

/// `softmax(scores) v` for each text and head, `[T, hidden]`, from the scores of all texts, end to end, and `v [T, hidden]`.
pub(in crate::ops) fn attend(scores: &Tensor, v: &Tensor, how: &Attend) -> Result<Tensor> {
    how.check(scores.elem_count(), v.shape())?;
    scores.contiguous()?.apply_op2(&v.contiguous()?, how.clone())
}

/// One head of one text, as views of the batch's rows.
pub(super) struct Block<'a> {
    len: usize,
    q: View<'a>,
    k: View<'a>,
    keys: Option<View<'a>>,
    queries: Option<View<'a>>,
}

impl Disentangled {
    pub(super) fn block<'a>(&self, dims: Dims, text: usize, head: usize, [q, k, p]: [&'a [f32]; 3]) -> Block<'a> {
        let column = head * dims.size;
        let view = |x: &'a [f32], row: usize| View::rows(&x[row * dims.hidden + column..], dims.hidden);
        let (start, TextPositions { keys, queries }) = (self.offsets[text], self.texts[text]);
        Block {
            len: self.offsets[text + 1] - start,
            q: view(q, start),
            k: view(k, start),
            keys: keys.map(|row| view(p, row)),
            queries: queries.map(|row| view(p, row)),
        }
    }

    /// The row of positions for distance `i - j`.
    fn row(&self, dims: Dims, i: usize, j: usize) -> usize {
        self.distances[dims.middle + i - j]
    }

    /// The scores `[len, len]` of one head; `scratch [len, rows]` is scratch.
    pub(super) fn head_scores(&self, dims: Dims, block: &Block, scores: &mut [f32], scratch: &mut Vec<f32>) {
        let (len, rows, scale) = (block.len, self.rows, self.scale as f32);
        let target = Target { data: scores, row: len, add: false };
        gemm(target, block.q, block.k.t(), scale, Size { m: len, n: len, k: dims.size }, Threads::One);
        for (content, positions, by_query) in [(block.q, block.keys, true), (block.k, block.queries, false)] {
            let Some(positions) = positions else { continue };
            scratch.resize(len * rows, 0.0);
            let target = Target { data: scratch, row: rows, add: false };
            gemm(target, content, positions.t(), scale, Size { m: len, n: rows, k: dims.size }, Threads::One);
            for i in 0..len {
                for j in 0..len {
                    let of = if by_query { i } else { j };
                    scores[i * len + j] += scratch[of * rows + self.row(dims, i, j)];
                }
            }
        }
    }

    /// The backward pass of one head: writes its columns of `dq` and `dk` (the text's rows) from `ds [len, len]`, and adds to its
    /// columns of `dp`.
    fn head_gradient(&self, dims: Dims, (text, head): (usize, usize), inputs: [&[f32]; 3], ds: &[f32], out: Gradients) {
        let block = self.block(dims, text, head, inputs);
        let (len, rows, scale, column) = (block.len, self.rows, self.scale as f32, head * dims.size);
        let narrow = Size { m: len, n: dims.size, k: len };
        let ds = View::rows(ds, len);
        let Gradients { dq, dk, dp } = out;
        let row = dims.hidden;
        gemm(Target { data: &mut dq[column..], row, add: false }, ds, block.k, scale, narrow, Threads::One);
        gemm(Target { data: &mut dk[column..], row, add: false }, ds.t(), block.q, scale, narrow, Threads::One);
        let TextPositions { keys, queries } = self.texts[text];
        let sides = [(block.q, block.keys, keys, dq, true), (block.k, block.queries, queries, dk, false)];
        for (content, positions, start, d_content, by_query) in sides {
            let (Some(positions), Some(start)) = (positions, start) else { continue };
            let mut by_row = vec![0.0; len * rows];
            for i in 0..len {
                for j in 0..len {
                    let of = if by_query { i } else { j };
                    by_row[of * rows + self.row(dims, i, j)] += ds.data[i * len + j];
                }
            }
            let by_row = View::rows(&by_row, rows);
            let size = Size { m: len, n: dims.size, k: rows };
            let target = Target { data: &mut d_content[column..], row, add: true };
            gemm(target, by_row, positions, scale, size, Threads::One);
            let size = Size { m: rows, n: dims.size, k: len };
            let target = Target { data: &mut dp[start * row + column..], row, add: true };
            gemm(target, by_row.t(), content, scale, size, Threads::One);
        }
    }
}

/// The number of texts whose position gradients are added into one buffer: a batch of the usual size needs about two buffers.
const TEXTS_A_SUM: usize = 4;

/// The destination of a head's gradients: its text's rows of `dq` and `dk`, and all rows of `dp`.
struct Gradients<'a> {
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dp: &'a mut [f32],
}

impl CustomOp3 for Disentangled {
    fn name(&self) -> &'static str {
        "disentangled-scores"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        p: &CpuStorage,
        pl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = self.check(ql.shape(), kl.shape(), pl.shape())?;
        let name = self.name();
        let inputs = [host::slice(name, q, ql)?, host::slice(name, k, kl)?, host::slice(name, p, pl)?];
        let starts = self.starts();
        let total = starts.last().copied().unwrap_or(0);
        let mut scores = vec![0.0; total];
        let texts = host::parts(&mut scores, starts.windows(2).map(|span| span[1] - span[0]));
        texts.into_par_iter().enumerate().for_each_init(Vec::new, |scratch, (text, scores)| {
            // An empty text has no rows.
            let square = (self.offsets[text + 1] - self.offsets[text]).pow(2);
            for head in (0..self.heads).filter(|_| square > 0) {
                let block = self.block(dims, text, head, inputs);
                self.head_scores(dims, &block, &mut scores[head * square..(head + 1) * square], scratch);
            }
        });
        Ok(host::fresh(scores, total))
    }

    /// With `R_q[i, d]`, the sum of `dS[i, j]` over the keys j at `d(i - j) = d`: `dq = scale (dS k + R_q PK)`, `dPK = scale R_q^T
    /// q`. The same holds for `k` and `PQ`, with the sum over the queries.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        p: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dims = self.check(q.shape(), k.shape(), p.shape())?;
        let starts = self.starts();
        let [mut dq, mut dk] = [(); 2].map(|()| vec![0.0; q.elem_count()]);
        let dp = host::read(self.name(), [q, k, p, dy], |[qs, ks, ps, dy]| {
            let rows = || self.offsets.windows(2).map(|span| (span[1] - span[0]) * dims.hidden);
            let texts: Vec<_> = host::parts(&mut dq, rows()).into_iter().zip(host::parts(&mut dk, rows())).collect();
            // Texts share rows of `dp`, so every TEXTS_A_SUM texts add to a buffer of their own. Which texts share a buffer, and
            // the order in which buffers are added, must not depend on the threads: a run must give the same adapter on any number
            // of threads.
            let some = texts.into_par_iter().enumerate().chunks(TEXTS_A_SUM).map(|some| {
                let mut dp = vec![0.0; ps.len()];
                for (text, (dq, dk)) in some {
                    let square = (self.offsets[text + 1] - self.offsets[text]).pow(2);
                    for head in (0..self.heads).filter(|_| square > 0) {
                        let ds = &dy[starts[text] + head * square..][..square];
                        let out = Gradients { dq: &mut *dq, dk: &mut *dk, dp: &mut dp };
                        self.head_gradient(dims, (text, head), [qs, ks, ps], ds, out);
                    }
                }
                dp
            });
            let mut dp = vec![0.0; ps.len()];
            for part in some.collect::<Vec<_>>() {
                dp.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            dp
        })?;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((Some(tensor(dq, q)?), Some(tensor(dk, k)?), Some(tensor(dp, p)?)))
    }
}

impl Attend {
    /// The weights of one head, before and after dropout.
    fn weights(&self, (text, head, len): (usize, usize, usize), scores: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut weights = scores.to_vec();
        math::vectorized(
            #[inline(always)]
            || weights.chunks_exact_mut(len).for_each(softmax),
        );
        let mut dropped = weights.clone();
        if let Some(dropout) = self.dropout {
            dropped.iter_mut().zip(mask(dropout, text, head, 0)).for_each(|(weight, kept)| *weight *= kept);
        }
        (weights, dropped)
    }
}

impl CustomOp2 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(&self, s: &CpuStorage, sl: &Layout, v: &CpuStorage, vl: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = self.check(sl.shape().elem_count(), vl.shape())?;
        let (scores, v) = (host::slice(self.name(), s, sl)?, host::slice(self.name(), v, vl)?);
        let (starts, size) = (starts(&self.offsets, self.heads), hidden / self.heads);
        let mut y = vec![0.0; v.len()];
        let rows = self.offsets.windows(2).map(|span| (span[1] - span[0]) * hidden);
        host::parts(&mut y, rows).into_par_iter().enumerate().for_each(|(text, y)| {
            let (start, len) = (self.offsets[text], self.offsets[text + 1] - self.offsets[text]);
            for head in (0..self.heads).filter(|_| len > 0) {
                let (_, weights) =
                    self.weights((text, head, len), &scores[starts[text] + head * len * len..][..len * len]);
                let target = Target { data: &mut y[head * size..], row: hidden, add: false };
                let values = View::rows(&v[start * hidden + head * size..], hidden);
                gemm(target, View::rows(&weights, len), values, 1.0, Size { m: len, n: size, k: len }, Threads::One);
            }
        });
        Ok(host::fresh(y, vl.shape().clone()))
    }

    /// With `P` the weights, `M` the mask: `dV = (P M)^T dY`, `dP = (dY V^T) M`, `dS = P (dP - sum(dP P))`.
    fn bwd(&self, s: &Tensor, v: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let hidden = self.check(s.elem_count(), v.shape())?;
        let (starts, size) = (starts(&self.offsets, self.heads), hidden / self.heads);
        let (mut ds, mut dv) = (vec![0.0; s.elem_count()], vec![0.0; v.elem_count()]);
        host::read(self.name(), [s, v, dy], |[scores, v, dy]| {
            let rows = self.offsets.windows(2).map(|span| (span[1] - span[0]) * hidden);
            let squares = starts.windows(2).map(|span| span[1] - span[0]);
            let texts: Vec<_> = host::parts(&mut ds, squares).into_iter().zip(host::parts(&mut dv, rows)).collect();
            texts.into_par_iter().enumerate().for_each(|(text, (ds, dv))| {
                let (start, len) = (self.offsets[text], self.offsets[text + 1] - self.offsets[text]);
                for head in (0..self.heads).filter(|_| len > 0) {
                    let column = head * size;
                    let at = starts[text] + head * len * len;
                    let (weights, dropped) = self.weights((text, head, len), &scores[at..][..len * len]);
                    let dy = View::rows(&dy[start * hidden + column..], hidden);
                    let values = View::rows(&v[start * hidden + column..], hidden);
                    let target = Target { data: &mut dv[column..], row: hidden, add: false };
                    let narrow = Size { m: len, n: size, k: len };
                    gemm(target, View::rows(&dropped, len).t(), dy, 1.0, narrow, Threads::One);
                    let ds = &mut ds[head * len * len..][..len * len];
                    let target = Target { data: &mut *ds, row: len, add: false };
                    gemm(target, dy, values.t(), 1.0, Size { m: len, n: len, k: size }, Threads::One);
                    if let Some(dropout) = self.dropout {
                        ds.iter_mut().zip(mask(dropout, text, head, 0)).for_each(|(d, kept)| *d *= kept);
                    }
                    for (ds, weights) in ds.chunks_exact_mut(len).zip(weights.chunks_exact(len)) {
                        let mean: f32 = ds.iter().zip(weights).map(|(d, w)| d * w).sum();
                        ds.iter_mut().zip(weights).for_each(|(d, w)| *d = w * (*d - mean));
                    }
                }
            });
        })?;
        let (ds, dv) = (Tensor::from_vec(ds, s.shape(), s.device())?, Tensor::from_vec(dv, v.shape(), v.device())?);
        Ok((Some(ds), Some(dv)))
    }
}
