//! Rotary position embeddings (Su et al. 2021), in halves: `x cos + rotate_half(x) sin` inside each head.

mod cpu;
mod cuda;
mod reference;

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Result, Tensor, bail};

use crate::cuda::Table;

pub(super) use cpu::cpu;
pub(super) use cuda::cuda;
pub(super) use reference::reference;

/// The angles of a batch's tokens, made once for all layers that use the same angles. Clones share them.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// The position of each token in its text, `[T]`.
    positions: Arc<[usize]>,
    /// `cos` and `sin` of each position's angles, `[longest, half]`.
    angles: Arc<[(f32, f32)]>,
    /// Half the size of a head.
    half: usize,
    /// `cos` and `sin` of each token, `[T, 1, half]`; made when they are first needed as tensors.
    tensors: Arc<OnceLock<[Tensor; 2]>>,
    /// Positions and angles as the GPU's kernel reads them; made when they are first needed.
    uploaded: Arc<OnceLock<[Table; 2]>>,
}

impl Rotary {
    /// The angles for texts at `offsets [B + 1]`, with positions that start at 0 in each text, and for heads of `size` columns.
    /// `theta` is the base of the wavelengths.
    ///
    /// # Errors
    /// If the head size is odd, or offsets decrease.
    pub fn new(offsets: &[usize], size: usize, theta: f64) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(2) {
            bail!("rotary: expected heads of even size, found {size}");
        }
        if !offsets.is_sorted() {
            bail!("rotary: offsets {offsets:?} decrease");
        }
        let half = size / 2;
        let longest = super::longest(offsets);
        // All in f32, as in `transformers`.
        let frequency = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / size as f32);
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles = (0..longest).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        Ok(Self {
            positions: offsets.windows(2).flat_map(|span| 0..span[1] - span[0]).collect(),
            angles: angles.map(|angle| (angle.cos(), angle.sin())).collect(),
            half,
            tensors: Arc::default(),
            uploaded: Arc::default(),
        })
    }

    /// Checks that `x` has these tokens and heads of this size.
    fn check(&self, x: &Tensor) -> Result<()> {
        let (tokens, hidden) = x.dims2()?;
        if tokens != self.positions.len() || !hidden.is_multiple_of(2 * self.half) {
            let (expected, size) = (self.positions.len(), 2 * self.half);
            bail!("rotary: expected {expected} tokens and heads of size {size}, found {:?}", x.dims());
        }
        Ok(())
    }

    /// `cos` and `sin` of each token's angles, `[T, 1, half]`, made and uploaded once.
    fn tensors(&self, device: &Device) -> Result<[Tensor; 2]> {
        if let Some(tensors) = self.tensors.get() {
            return Ok(tensors.clone());
        }
        let table = |of: fn(&(f32, f32)) -> f32| {
            let angles = |&p: &usize| self.angles[p * self.half..(p + 1) * self.half].iter().map(of);
            let rows: Vec<f32> = self.positions.iter().flat_map(angles).collect();
            Tensor::from_vec(rows, (self.positions.len(), 1, self.half), device)
        };
        let tensors = [table(|angle| angle.0)?, table(|angle| angle.1)?];
        Ok(self.tensors.get_or_init(|| tensors).clone())
    }
}
