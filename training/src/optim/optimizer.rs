//! One optimiser over all variables of a run.

use candle_core::{Result, Tensor, Var, backprop::GradStore};

use super::{AdamW, Moments, clip};

/// How a variable follows its gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descent {
    /// By [`AdamW`].
    AdamW,
    /// By the gradient times the learning rate.
    Gradient,
}

/// What variables have in common that step alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// How they step.
    pub descent: Descent,
    /// Their learning rate as a multiple of the run's.
    pub rate: f64,
    /// Whether the run's weight decay applies to them.
    pub decays: bool,
}

impl Group {
    /// AdamW at the run's own learning rate and weight decay.
    pub const PLAIN: Self = Self { descent: Descent::AdamW, rate: 1.0, decays: true };
}

/// A trained tensor.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name in checkpoints, `bert.encoder.layer.0.output.dense.lora_A`.
    pub name: String,
    /// How it steps.
    pub group: Group,
    /// The tensor, f32; a clone is the same variable.
    pub var: Var,
}

/// What does not change over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Decoupled decay of the variables whose group decays.
    pub weight_decay: f64,
    /// Added to the root of Adam's second moment.
    pub eps: f64,
    /// Largest global norm of the gradients; `None` does not clip.
    pub clip: Option<f64>,
    /// Steps of the whole run.
    pub total: usize,
}

/// A step that is about to be made, or has been made.
#[derive(Debug)]
pub struct Step {
    /// Its number, from 1.
    pub number: usize,
    /// Steps of the whole run.
    pub total: usize,
    /// The run's learning rate at this step.
    pub rate: f64,
    /// The gradient of each variable, in order. A variable without one keeps its value and its moments, and counts in no norm.
    pub gradients: Vec<Option<Tensor>>,
}

/// The variables of a run and their state.
pub struct Optimizer {
    /// What is trained.
    pub variables: Vec<Variable>,
    /// Adam's moments of each.
    pub moments: Vec<Moments>,
    /// Steps that have been made.
    pub done: usize,
    rule: Rule,
}

impl Optimizer {
    /// An optimiser that has made no step yet.
    ///
    /// # Errors
    /// Candle's own.
    pub fn new(variables: Vec<Variable>, rule: Rule) -> Result<Self> {
        let moments = variables.iter().map(|variable| Moments::zeros(&variable.var)).collect::<Result<_>>()?;
        Ok(Self { variables, moments, done: 0, rule })
    }

    /// The gradient of each variable, in order; `None` where the loss does not depend on it.
    #[must_use]
    pub fn gradients(&self, store: &GradStore) -> Vec<Option<Tensor>> {
        // Detached: a gradient's own graph would keep the pass's activations in memory.
        self.variables.iter().map(|variable| store.get(&variable.var).map(Tensor::detach)).collect()
    }

    /// The next step, at the run's learning rate `rate`. A variable that the loss does not depend on has the gradient zero.
    ///
    /// # Errors
    /// Candle's own.
    pub fn next(&self, gradients: Vec<Option<Tensor>>, rate: f64) -> Result<Step> {
        let filled = self.variables.iter().zip(gradients).map(|(variable, gradient)| match gradient {
            Some(gradient) => Ok(Some(gradient)),
            None => variable.var.zeros_like().map(Some),
        });
        let gradients = filled.collect::<Result<_>>()?;
        Ok(Step { number: self.done + 1, total: self.rule.total, rate, gradients })
    }

    /// Clips the gradients of `step` and makes it. Returns their norm before clipping.
    ///
    /// # Errors
    /// Candle's own.
    pub fn apply(&mut self, step: &mut Step) -> Result<f64> {
        let norm = clip(&mut step.gradients, self.rule.clip.unwrap_or(f64::INFINITY))?;
        for ((Variable { group, var, .. }, gradient), moments) in
            self.variables.iter().zip(&step.gradients).zip(&mut self.moments)
        {
            let Some(gradient) = gradient else { continue };
            let rate = step.rate * group.rate;
            let after = match group.descent {
                Descent::AdamW => {
                    let decay = if group.decays { self.rule.weight_decay } else { 0.0 };
                    let adam = AdamW { eps: self.rule.eps, ..AdamW::new(rate, decay) };
                    let (after, held) = adam.step(var.as_tensor(), gradient, moments)?;
                    *moments = held;
                    after
                }
                Descent::Gradient => (var.as_detached_tensor() - (gradient * rate)?)?,
            };
            var.set(&after)?;
        }
        self.done = step.number;
        Ok(norm)
    }
}
