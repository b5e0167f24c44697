//! Inverted dropout. The mask is a hash of a seed and each element's index, so the backward pass recomputes it and nothing is
//! stored.

mod cpu;
mod cuda;
mod reference;

pub(super) use cpu::cpu;
pub(super) use cuda::cuda;
pub(super) use reference::reference;

/// The share of elements to drop, and the seed that chooses them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that an element becomes 0, below 1.
    pub p: f32,
    /// The seed of this training step and this place in the model.
    pub seed: u64,
}

impl Dropout {
    /// An element is dropped if the upper half of its hash is below the bound; the others are multiplied by the factor.
    pub(in crate::ops) fn bound_and_factor(self) -> (u32, f32) {
        ((f64::from(self.p) * f64::from(u32::MAX)) as u32, 1.0 / (1.0 - self.p))
    }

    /// The factors of the elements `start..`: 0, or `1 / (1 - p)`.
    pub(crate) fn mask(self, start: u64) -> impl Iterator<Item = f32> {
        let (bound, kept) = self.bound_and_factor();
        let seed = self.seed.wrapping_add(start);
        (0..).map(move |i| if (splitmix(seed.wrapping_add(i)) >> 32) as u32 >= bound { kept } else { 0.0 })
    }
}

/// SplitMix64 (Steele et al. 2014).
#[inline]
#[must_use]
pub fn splitmix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
