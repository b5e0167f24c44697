//! Houlsby's bottleneck (2019): `h + U gelu(D h + d) + u`. It follows a linear of the frozen base.

use candle_core::{Result, Tensor};
use polyrank::adapter::AdapterInfo;
use polyrank::encoder::{Head, Hooks};
use polyrank::ops::{self, Added, Linear};
use polyrank::params::{Backend, Input, Layout, Param, Site};

/// The parameters of one bottleneck on hidden states `[T, hidden]`, f32.
#[derive(Debug, Clone)]
pub struct Bottleneck {
    /// `D [size, hidden]`.
    pub down: Tensor,
    /// `d [size]`.
    pub down_bias: Tensor,
    /// `U [hidden, size]`.
    pub up: Tensor,
    /// `u [hidden]`.
    pub up_bias: Tensor,
}

impl Bottleneck {
    /// The names of the parameters in a file, after the site's name.
    pub const PARTS: [&str; 4] = ["down.weight", "down.bias", "up.weight", "up.bias"];

    /// The shapes of the parameters, in the order of [`Self::PARTS`].
    #[must_use]
    pub fn shapes(size: usize, hidden: usize) -> [Vec<usize>; 4] {
        [vec![size, hidden], vec![size], vec![hidden, size], vec![hidden]]
    }

    /// The parameters in the order of [`Self::PARTS`].
    #[must_use]
    pub fn parts(&self) -> [&Tensor; 4] {
        [&self.down, &self.down_bias, &self.up, &self.up_bias]
    }

    /// A bottleneck of the parameters in the order of [`Self::PARTS`].
    #[must_use]
    pub fn of([down, down_bias, up, up_bias]: [Tensor; 4]) -> Self {
        Self { down, down_bias, up, up_bias }
    }

    /// The bottleneck's output `[T, hidden]` for `h [T, hidden]`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn forward(&self, h: &Tensor, backend: &Backend) -> Result<Tensor> {
        let linear = |weight: &Tensor, bias: &Tensor, gelu| {
            let (weight, bias) = (Param::Tensor(weight.clone()), Param::Tensor(bias.clone()));
            [Linear { weight, bias, added: Added::Nothing, gelu }]
        };
        let ops = ops::of(backend);
        let inner = ops.linears(h, &linear(&self.down, &self.down_bias, true))?;
        let outer = ops.linears(&inner[0], &linear(&self.up, &self.up_bias, false))?;
        h + &outer[0]
    }
}

/// The sites that a bottleneck follows: the attention's output linear and the linear out of the feed-forward, in each layer.
pub fn sites(layout: &Layout) -> impl Iterator<Item = Site> + '_ {
    let ends = |site: &Site| matches!(layout.module(*site).input, Input::AttentionOutput | Input::FeedForwardOutput);
    layout.sites().filter(ends)
}

/// The bottlenecks of a base, and a head.
#[derive(Debug, Clone)]
pub struct Bottlenecks {
    /// The labels, the problem type, and the base.
    pub info: AdapterInfo,
    /// The bottleneck after each site, by [`Layout::index`].
    pub sites: Vec<Option<Bottleneck>>,
    /// The base's layout.
    pub layout: Layout,
    /// The base's backend.
    pub backend: Backend,
    /// The head.
    pub head: Head,
}

impl Bottlenecks {
    /// The number of parameters without the head.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let of = |bottleneck: &Bottleneck| bottleneck.parts().map(Tensor::elem_count).iter().sum::<usize>();
        self.sites.iter().flatten().map(of).sum()
    }
}

impl Hooks for Bottlenecks {
    fn after(&self, site: Site, h: Tensor) -> Result<Tensor> {
        match &self.sites[self.layout.index(site)] {
            Some(bottleneck) => bottleneck.forward(&h, &self.backend),
            None => Ok(h),
        }
    }
}
