//! Dropout at the points of the base during training. Its masks follow from a seed and the step, so that a resumed run has the same masks.

use candle_core::{Result, Tensor};
use polyrank::encoder::{DropPoint, Hooks};
use polyrank::ops::{Added, Dropout, splitmix};
use polyrank::params::Site;

use super::Pass;

/// The dropout probabilities: those of the base's configuration, unless `--dropout` replaces them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DropoutRates {
    /// The rate for hidden states.
    pub hidden: f64,
    /// The rate for attention weights.
    pub attention: f64,
    /// The rate before the classifier.
    pub head: f64,
    /// The rate before the linear that precedes the classifier.
    pub head_input: f64,
}

/// The dropout of one micro-batch of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepDropout {
    /// The dropout probabilities.
    pub rates: DropoutRates,
    /// The seed for this run, step and micro-batch.
    pub seed: u64,
}

impl StepDropout {
    /// The dropout at `point`.
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

/// The hooks of one micro-batch of one step: those of a method, with the dropout of [`StepDropout`].
pub struct TrainingPass<'a> {
    /// The method's hooks.
    pub pass: &'a dyn Pass,
    /// The dropout of this micro-batch.
    pub dropout: StepDropout,
}

impl Hooks for TrainingPass<'_> {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        self.pass.parameter(name)
    }

    fn added(&self, site: Site) -> Result<Added<'_>> {
        self.pass.added(site)
    }

    fn after(&self, site: Site, h: Tensor) -> Result<Tensor> {
        self.pass.after(site, h)
    }

    fn dropout(&self, point: DropPoint) -> Option<Dropout> {
        self.dropout.at(point)
    }
}
