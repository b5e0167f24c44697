//! DeBERTa's attention (He et al. 2021) over packed texts: scores of contents and of relative positions, then softmax and values.
//! Scores of a text lie `[heads, len, len]`, texts end to end.

mod cpu;
mod fused;
mod reference;

use candle_core::{Result, Shape, bail};

pub(super) use fused::cpu;
pub(super) use reference::reference;
#[cfg(test)]
pub(super) use {
    cpu::{attend, scores},
    reference::{attend as attend_reference, scores as scores_reference},
};

use super::Dropout;

/// Where a text's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPositions {
    /// Its first row of the position keys in `positions`; `None` without content-to-position.
    pub keys: Option<usize>,
    /// Its first row of the position queries; `None` without position-to-content.
    pub queries: Option<usize>,
}

/// How a batch is to be scored.
#[derive(Debug, Clone)]
pub struct Disentangled {
    /// Where each text begins, and `T` at the end: `[B + 1]`.
    pub offsets: Vec<usize>,
    /// Number of heads; the hidden size is a multiple of it.
    pub heads: usize,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Each text's rows of `positions`; there are [`Self::rows`] from each.
    pub texts: Vec<TextPositions>,
    /// For each distance `i - j` from `-(longest - 1)`, its row: `[2 longest - 1]`.
    pub distances: Vec<usize>,
    /// Rows of each set of positions.
    pub rows: usize,
}

impl Disentangled {
    fn check(&self, q: &Shape, k: &Shape, p: &Shape) -> Result<Dims> {
        let (tokens, hidden) = q.dims2()?;
        let (rows, width) = p.dims2()?;
        let spans = self.offsets.first() == Some(&0)
            && self.offsets.last() == Some(&tokens)
            && self.offsets.windows(2).all(|span| span[0] <= span[1])
            && self.offsets.len() == self.texts.len() + 1;
        if !spans || k.dims() != q.dims() || self.heads == 0 || !hidden.is_multiple_of(self.heads) || width != hidden {
            bail!("disentangled: q {q:?}, k {k:?}, positions {p:?}, offsets {:?}, {} heads", self.offsets, self.heads);
        }
        let longest = self.offsets.windows(2).map(|span| span[1] - span[0]).max().unwrap_or(0);
        let starts = self.texts.iter().flat_map(|text| [text.keys, text.queries]).flatten();
        if starts.max().is_some_and(|start| start + self.rows > rows)
            || self.distances.len() + 1 < 2 * longest
            || self.distances.iter().any(|&row| row >= self.rows)
        {
            bail!("disentangled: {} rows of positions, {} distances, {rows} given", self.rows, self.distances.len());
        }
        Ok(Dims { hidden, size: hidden / self.heads, middle: self.distances.len() / 2 })
    }

    /// Where each text's scores begin, and their number at the end.
    fn starts(&self) -> Vec<usize> {
        starts(&self.offsets, self.heads)
    }
}

fn starts(offsets: &[usize], heads: usize) -> Vec<usize> {
    let mut starts = vec![0];
    let mut end = 0;
    for span in offsets.windows(2) {
        end += heads * (span[1] - span[0]).pow(2);
        starts.push(end);
    }
    starts
}

#[derive(Clone, Copy)]
struct Dims {
    hidden: usize,
    size: usize,
    /// The place of distance 0.
    middle: usize,
}

/// What turns scores into outputs.
#[derive(Debug, Clone)]
pub(super) struct Attend {
    /// Where each text begins, and `T` at the end: `[B + 1]`.
    pub(super) offsets: Vec<usize>,
    /// Number of heads.
    pub(super) heads: usize,
    /// Dropout of the attention weights, in training.
    pub(super) dropout: Option<Dropout>,
}

impl Attend {
    /// The hidden size.
    fn check(&self, scores: usize, v: &Shape) -> Result<usize> {
        let (tokens, hidden) = v.dims2()?;
        let total = starts(&self.offsets, self.heads).last().copied().unwrap_or(0);
        if self.offsets.last() != Some(&tokens)
            || self.heads == 0
            || !hidden.is_multiple_of(self.heads)
            || scores != total
        {
            bail!("attend: {scores} scores, v {v:?}, offsets {:?}, {} heads", self.offsets, self.heads);
        }
        Ok(hidden)
    }
}
