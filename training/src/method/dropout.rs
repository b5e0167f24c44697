//! The base's own dropout while training, from a seed and a step, so that a resumed run drops the same.

use candle_core::{Result, Tensor};
use polyrank::encoder::{AttentionDropout, DropPoint};

/// Probabilities of dropping, by the base's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Of hidden states.
    pub hidden: f64,
    /// Of attention weights.
    pub attention: f64,
    /// Before the classifier.
    pub head: f64,
}

/// The dropout of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Dropout {
    /// How much.
    pub rates: Rates,
    /// Of this run and step.
    pub seed: u64,
}

impl Dropout {
    fn seed_of(&self, kind: u64, layer: usize) -> u64 {
        mix(self.seed ^ mix(kind << 32 | layer as u64))
    }

    /// `h` with elements zeroed at random and the others scaled up (inverted dropout).
    ///
    /// # Errors
    /// Candle's own.
    pub fn apply(&self, point: DropPoint, h: Tensor) -> Result<Tensor> {
        let (p, seed) = match point {
            DropPoint::Embeddings => (self.rates.hidden, self.seed_of(1, 0)),
            DropPoint::AttentionOutput(layer) => (self.rates.hidden, self.seed_of(2, layer)),
            DropPoint::Output(layer) => (self.rates.hidden, self.seed_of(3, layer)),
            DropPoint::Head => (self.rates.head, self.seed_of(4, 0)),
        };
        if p == 0.0 {
            return Ok(h);
        }
        let (bound, kept) = ((p * f64::from(u32::MAX)) as u32, (1.0 / (1.0 - p)) as f32);
        let keep = |bits: u32| if bits >= bound { kept } else { 0.0 };
        let mask: Vec<f32> = (0..h.elem_count().div_ceil(2) as u64)
            .flat_map(|i| {
                let bits = mix(seed.wrapping_add(i));
                [keep(bits as u32), keep((bits >> 32) as u32)]
            })
            .take(h.elem_count())
            .collect();
        let mask = Tensor::from_vec(mask, h.shape().clone(), h.device())?;
        h * mask
    }

    /// The dropout of the attention weights of `layer`.
    #[must_use]
    pub fn attention(&self, layer: usize) -> Option<AttentionDropout> {
        let p = self.rates.attention as f32;
        (p > 0.0).then(|| AttentionDropout { p, seed: self.seed_of(5, layer) })
    }
}

/// SplitMix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
