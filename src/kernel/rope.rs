//! Rotary positions (Su et al. 2021), in halves: `x cos + rotate_half(x) sin` inside each head.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{host, rows_per_task};

/// Where tokens are and how fast their positions turn.
#[derive(Debug, Clone)]
pub struct Rotary<'a> {
    /// Where each text begins, and `T` at the end: `[B + 1]`; positions count from 0 in each.
    pub offsets: &'a [usize],
    /// Number of heads; the hidden size is an even multiple of it.
    pub heads: usize,
    /// The base of the wavelengths.
    pub theta: f64,
}

/// `x [T, hidden]` with each head turned by its token's position.
///
/// # Errors
/// Offsets that do not span `T`, heads of odd size, and candle's own.
pub fn rotate(x: &Tensor, how: &Rotary) -> Result<Tensor> {
    let (tokens, hidden) = x.dims2()?;
    if how.offsets.first() != Some(&0) || how.offsets.last() != Some(&tokens) {
        bail!("rotary: offsets {:?} do not span {tokens} tokens", how.offsets);
    }
    if how.heads == 0 || !hidden.is_multiple_of(2 * how.heads) {
        bail!("rotary: {} heads of even size over {hidden} columns", how.heads);
    }
    let (positions, turns) = turns(how, hidden);
    let half = hidden / how.heads / 2;
    if !x.device().is_cpu() {
        return reference(x, how);
    }
    x.contiguous()?.apply_op1(Rotate { positions, turns, half })
}

/// The position of each token, and `cos, sin` of each position's angles in turn: `[longest, half]`.
fn turns(how: &Rotary, hidden: usize) -> (Vec<usize>, Vec<(f32, f32)>) {
    let size = hidden / how.heads;
    let longest = how.offsets.windows(2).map(|span| span[1] - span[0]).max().unwrap_or(0);
    // In f32 throughout, as `transformers` does.
    let frequency = |i: usize| 1.0 / (how.theta as f32).powf((2 * i) as f32 / size as f32);
    let frequencies: Vec<f32> = (0..size / 2).map(frequency).collect();
    let angles = (0..longest).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
    let turns = angles.map(|angle| (angle.cos(), angle.sin())).collect();
    (how.offsets.windows(2).flat_map(|span| 0..span[1] - span[0]).collect(), turns)
}

/// The same by candle's operations: the oracle, and what runs on devices without a kernel.
pub(crate) fn reference(x: &Tensor, how: &Rotary) -> Result<Tensor> {
    let (tokens, hidden) = x.dims2()?;
    let (positions, turns) = turns(how, hidden);
    let half = hidden / how.heads / 2;
    let table = |of: fn(&(f32, f32)) -> f32| {
        let rows = positions.iter().flat_map(|p| turns[p * half..(p + 1) * half].iter().map(of)).collect::<Vec<_>>();
        Tensor::from_vec(rows, (tokens, 1, half), x.device())
    };
    let (cos, sin) = (table(|turn| turn.0)?, table(|turn| turn.1)?);
    let x = x.reshape((tokens, how.heads, 2 * half))?;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape((tokens, hidden))
}

struct Rotate {
    positions: Vec<usize>,
    turns: Vec<(f32, f32)>,
    half: usize,
}

impl Rotate {
    /// Turns forwards, or back with `sign` -1.
    fn apply(&self, x: &[f32], sign: f32) -> Vec<f32> {
        let mut y = x.to_vec();
        let (width, half) = (x.len() / self.positions.len().max(1), self.half);
        let rows = rows_per_task(width);
        y.par_chunks_mut((rows * width).max(1)).zip(self.positions.par_chunks(rows)).for_each(|(y, positions)| {
            for (row, &position) in y.chunks_exact_mut(width).zip(positions) {
                let turns = &self.turns[position * half..(position + 1) * half];
                for head in row.chunks_exact_mut(2 * half) {
                    let (a, b) = head.split_at_mut(half);
                    for ((a, b), &(cos, sin)) in a.iter_mut().zip(b).zip(turns) {
                        (*a, *b) = (*a * cos - *b * sin * sign, *b * cos + *a * sin * sign);
                    }
                }
            }
        });
        y
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(host::fresh(self.apply(host::slice(self.name(), x, layout)?, 1.0), layout.shape().clone()))
    }

    /// A turn's transpose is the turn back.
    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = host::read(self.name(), [dy], |[dy]| self.apply(dy, -1.0))?;
        Ok(Some(Tensor::from_vec(dx, dy.shape(), dy.device())?))
    }
}
