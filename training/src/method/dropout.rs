//! The base's own dropout while training, from a seed and a step, so that a resumed run drops the same.

use candle_core::{Result, Tensor};
use polyrank::encoder::{DropPoint, Hooks};
use polyrank::ops::{Added, Dropout, splitmix};
use polyrank::params::Site;

use super::Method;

/// Probabilities of dropping, by the base's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Of hidden states.
    pub hidden: f64,
    /// Of attention weights.
    pub attention: f64,
    /// Before the classifier.
    pub head: f64,
    /// Before the linear that comes before the classifier.
    pub head_input: f64,
}

/// The dropout of one pass of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepDropout {
    /// Probabilities.
    pub rates: Rates,
    /// Seed of this run, step and pass.
    pub seed: u64,
}

impl StepDropout {
    /// What is dropped at `point`.
    #[must_use]
    pub fn at(&self, point: DropPoint) -> Option<Dropout> {
        let (p, kind, layer) = match point {
            DropPoint::Embeddings => (self.rates.hidden, 1, 0),
            DropPoint::AttentionOutput(layer) => (self.rates.hidden, 2, layer),
            DropPoint::Output(layer) => (self.rates.hidden, 3, layer),
            DropPoint::Head => (self.rates.head, 4, 0),
            DropPoint::HeadInput => (self.rates.head_input, 6, 0),
            DropPoint::Positions(layer) => (self.rates.hidden, 7, layer),
            DropPoint::Attention(layer) => (self.rates.attention, 5, layer),
        };
        let seed = splitmix(self.seed ^ splitmix(kind << 32 | layer as u64));
        (p > 0.0).then_some(Dropout { p: p as f32, seed })
    }
}

/// A method during one pass of one step: the encoder asks the method, and drops by [`StepDropout`].
pub struct TrainingPass<'a> {
    /// The method.
    pub method: &'a dyn Method,
    /// What this pass drops.
    pub dropout: StepDropout,
}

impl Hooks for TrainingPass<'_> {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        self.method.parameter(name)
    }

    fn added(&self, site: Site) -> Result<Added<'_>> {
        self.method.added(site)
    }

    fn after(&self, site: Site, h: Tensor) -> Result<Tensor> {
        self.method.after(site, h)
    }

    fn dropout(&self, point: DropPoint) -> Option<Dropout> {
        self.dropout.at(point)
    }
}
