//! DeBERTa's attention (He et al. 2021) over packed texts: scores from contents and from relative positions, then softmax and
//! values. The scores of a text are `[heads, len, len]`; those of all texts are stored end to end.

mod cpu;
mod cuda;
mod fused;
mod gradient;
mod inputs;
mod reference;

use candle_core::{Result, Shape, bail};

pub(super) use cuda::cuda;
pub(super) use fused::cpu;
pub(super) use reference::reference;
#[cfg(test)]
pub(super) use {
    cpu::{attend, scores},
    reference::{attend as attend_reference, scores as scores_reference},
};

use super::{Dropout, longest};

/// The rows of positions that a text uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPositions {
    /// The first row of the text's position keys in `positions`; `None` without content-to-position scores.
    pub keys: Option<usize>,
    /// The first row of its position queries; `None` without position-to-content scores.
    pub queries: Option<usize>,
}

/// The parameters of a batch's scores.
#[derive(Debug, Clone)]
pub struct Disentangled {
    /// The first row of each text, then `T`: `[B + 1]`.
    pub offsets: Vec<usize>,
    /// Number of heads, which must divide the hidden size.
    pub heads: usize,
    /// The factor of the scores.
    pub scale: f64,
    /// Each text's first rows in `positions`; each set has [`Self::rows`] rows.
    pub texts: Vec<TextPositions>,
    /// The row of each distance `i - j`, from `-(longest - 1)`: `[2 longest - 1]`.
    pub distances: Vec<usize>,
    /// The number of rows in each set of positions.
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
        let longest = longest(&self.offsets);
        let starts = self.texts.iter().flat_map(|text| [text.keys, text.queries]).flatten();
        if starts.max().is_some_and(|start| start + self.rows > rows)
            || self.distances.len() + 1 < 2 * longest
            || self.distances.iter().any(|&row| row >= self.rows)
        {
            let (sets, distances) = (self.rows, self.distances.len());
            bail!(
                "disentangled: sets of {sets} rows in {rows} rows of positions, {distances} distances for {longest} tokens"
            );
        }
        Ok(Dims { hidden, size: hidden / self.heads, middle: self.distances.len() / 2 })
    }

    /// The index at which each text's scores begin, then the total number.
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

#[derive(Debug, Clone, Copy)]
struct Dims {
    hidden: usize,
    size: usize,
    /// The index of distance 0.
    middle: usize,
}

/// The operation from scores to outputs: softmax, dropout and the product with the values.
#[derive(Debug, Clone)]
pub(super) struct Attend {
    /// The first row of each text, then `T`: `[B + 1]`.
    pub(super) offsets: Vec<usize>,
    /// Number of heads.
    pub(super) heads: usize,
    /// Dropout of the attention weights, for training.
    pub(super) dropout: Option<Dropout>,
}

impl Attend {
    /// Checks all shapes and returns the hidden size.
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
