//! The defaults that depend on other settings, on the data or on the base.

use polyrank::engine::Engine;

use super::{ALPHA, AUTHORS_LAMBDA, DEFAULT_LENGTH, MethodName, RANK, Settings};
use crate::defaults::{Hyperparameters, PeakRates, TaskSize};
use crate::method::sora::{GateRule, Threshold};

/// AdaLoRA's default rank at the start, for a target of `rank`.
#[must_use]
pub fn default_init_rank(rank: usize) -> usize {
    rank.saturating_mul(3).div_ceil(2)
}

impl Settings {
    /// These settings with every default in its place, for a task of this size and the base of `engine`.
    #[must_use]
    pub fn resolved(&self, size: TaskSize, engine: &Engine) -> Self {
        let Hyperparameters { epochs, batch_size, lr } = self.hyperparameters(size, engine);
        let gated = self.method == MethodName::Sora;
        let ratio = match self.threshold() {
            Threshold::Ratio(ratio) if gated => Some(ratio),
            _ => None,
        };
        Self {
            gate: self.of(MethodName::Sora, self.gate()),
            target_ratio: ratio,
            target_params: self.target_params.filter(|_| gated),
            depth_bias: if gated { self.depth_bias } else { 0.0 },
            xi: self.xi.filter(|_| gated),
            lambda: self.lambda.filter(|_| gated),
            sparse_lambda: self.of(MethodName::Sora, self.sparse_lambda()),
            epochs: Some(epochs),
            batch_size: Some(batch_size),
            lr: Some(lr),
            gate_lr: self.gate_lr.filter(|_| gated),
            init_rank: self.of(MethodName::AdaLora, self.init_rank()),
            tinit: self.of(MethodName::AdaLora, self.tinit()),
            tfinal: self.of(MethodName::AdaLora, self.tfinal()),
            delta_t: self.delta_t.filter(|_| self.method == MethodName::AdaLora),
            orth_reg_weight: self.of(MethodName::AdaLora, self.orth_reg_weight()),
            export_rank: self.of(MethodName::DyLora, self.export_rank.unwrap_or(self.rank)),
            bottleneck: self.of(MethodName::Adapter, self.bottleneck()),
            dropout_after: Some(self.dropout_after(self.extended_from.first().copied().unwrap_or(epochs))),
            max_length: Some(self.longest(engine)),
            ..self.clone()
        }
        .without_unused_ranks()
    }

    /// These settings with the default ranks if the method has none. A file or a variable that serves several runs may give ranks, which
    /// are then no reason to refuse to continue a run.
    #[must_use]
    pub(crate) fn without_unused_ranks(self) -> Self {
        if self.method.has_ranks() {
            return self;
        }
        Self { rank: RANK, alpha: ALPHA, target_modules: Vec::new(), ..self }
    }

    /// Epochs, batch size and learning rate, for a task of this size.
    #[must_use]
    pub fn hyperparameters(&self, size: TaskSize, engine: &Engine) -> Hyperparameters {
        let rates = match self.method {
            MethodName::Sora | MethodName::Lora | MethodName::DyLora => PeakRates::LORA,
            MethodName::AdaLora => PeakRates::ADALORA,
            MethodName::BitFit | MethodName::Adapter => PeakRates::FEW_PARAMETERS,
            MethodName::Full => PeakRates::FULL,
        };
        let width = engine.config().hidden_size;
        let default = Hyperparameters::new(size, width, self.batch_size, rates);
        let rows_of_step = default.batch_size.saturating_mul(self.accumulate);
        let by_steps = || Hyperparameters::new(size, width, Some(rows_of_step), rates).epochs;
        Hyperparameters {
            epochs: self.epochs.unwrap_or_else(by_steps),
            batch_size: default.batch_size,
            lr: self.lr.unwrap_or(default.lr),
        }
    }

    /// The number of epochs before dropout starts, in a run of `epochs`. With dropout from the first step, some tasks (CoLA) predict only
    /// the majority class for several epochs.
    #[must_use]
    pub fn dropout_after(&self, epochs: usize) -> usize {
        self.dropout_after.unwrap_or(usize::from(epochs > 1))
    }

    /// The maximum number of tokens of a text on this base.
    #[must_use]
    pub fn longest(&self, engine: &Engine) -> usize {
        self.max_length.unwrap_or_else(|| engine.max_length().min(DEFAULT_LENGTH))
    }

    pub(super) fn threshold(&self) -> Threshold {
        match (self.xi, self.lambda, self.target_params) {
            (Some(xi), ..) => Threshold::Xi(xi),
            (_, Some(lambda), _) => Threshold::Lambda(lambda),
            (.., Some(kept)) => Threshold::Parameters(kept),
            _ => Threshold::Ratio(self.target_ratio.unwrap_or(0.65)),
        }
    }

    pub(super) fn gate(&self) -> GateRule {
        let steered = matches!(self.threshold(), Threshold::Ratio(_) | Threshold::Parameters(_));
        self.gate.unwrap_or(if steered { GateRule::Adaptive } else { GateRule::Authors })
    }

    pub(super) fn sparse_lambda(&self) -> f64 {
        let penalised = self.xi.is_some() && self.gate() == GateRule::Authors;
        self.sparse_lambda.unwrap_or(if penalised { AUTHORS_LAMBDA } else { 0.0 })
    }

    /// A setting of one method; `None` with another method.
    fn of<T>(&self, method: MethodName, value: T) -> Option<T> {
        (self.method == method).then_some(value)
    }

    pub(super) fn init_rank(&self) -> usize {
        self.init_rank.unwrap_or(default_init_rank(self.rank))
    }

    pub(super) fn tinit(&self) -> f64 {
        self.tinit.unwrap_or(0.15)
    }

    pub(super) fn tfinal(&self) -> f64 {
        self.tfinal.unwrap_or(0.5)
    }

    pub(super) fn orth_reg_weight(&self) -> f64 {
        self.orth_reg_weight.unwrap_or(0.5)
    }

    pub(super) fn bottleneck(&self) -> usize {
        self.bottleneck.unwrap_or(64)
    }
}
