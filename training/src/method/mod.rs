//! What is trained, at the runtime's hooks.

mod dropout;
mod low_rank;
mod replace;

pub use dropout::{Rates, StepDropout};
pub use low_rank::{Dropping, GateRule, GateStart, LowRank, LowRankSettings};
pub use replace::{Replace, Subset};

use candle_core::Var;

/// What kind of parameter a variable is: it decides its decay and its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `Wd`, `Wu`, or a parameter of the base.
    Weight,
    /// A gate: no decay, a proximal step.
    Gate,
    /// The classifier.
    Head,
}

/// A variable with its name in checkpoints.
#[derive(Debug, Clone)]
pub struct Trainable {
    /// `bert.encoder.layer.0.output.dense.lora_A`.
    pub name: String,
    /// Its kind.
    pub group: Group,
    /// The variable.
    pub var: Var,
}
