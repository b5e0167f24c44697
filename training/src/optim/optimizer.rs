//! The optimiser of all variables of a run.

use candle_core::{Result, Tensor, Var, backprop::GradStore};

use super::{AdamW, Moments, clip};

/// The rule by which a variable steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descent {
    /// [`AdamW`].
    AdamW,
    /// Plain gradient descent: the gradient times the learning rate.
    Gradient,
}

/// A group of variables that step alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// The rule by which they step.
    pub descent: Descent,
    /// Their learning rate, as a multiple of the run's learning rate.
    pub rate: f64,
    /// Whether the run's weight decay applies to them.
    pub decays: bool,
}

impl Group {
    /// AdamW at the run's learning rate and weight decay.
    pub const PLAIN: Self = Self { descent: Descent::AdamW, rate: 1.0, decays: true };
}

/// A trained tensor.
#[derive(Debug, Clone)]
pub struct Variable {
    /// The variable's name in checkpoints, such as `bert.encoder.layer.0.output.dense.lora_A`.
    pub name: String,
    /// The group that decides how it steps.
    pub group: Group,
    /// The tensor, f32. A clone is the same variable.
    pub var: Var,
}

/// The settings of the optimiser, which do not change during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Decoupled weight decay, for variables whose group has weight decay.
    pub weight_decay: f64,
    /// Term added to the root of Adam's second moment.
    pub eps: f64,
    /// Maximum global norm of the gradients; `None` means no clipping.
    pub clip: Option<f64>,
    /// Steps of the whole run.
    pub total: usize,
}

/// A step, before or after it is made.
#[derive(Debug)]
pub struct Step {
    /// The number of the step, from 1.
    pub number: usize,
    /// Steps of the whole run.
    pub total: usize,
    /// The run's learning rate in this step.
    pub rate: f64,
    /// The gradient of each variable, in order. A variable without a gradient keeps its value and its moments, and is not part of the norm.
    pub gradients: Vec<Option<Tensor>>,
}

/// The variables of a run and their state.
pub struct Optimizer {
    /// The trained variables.
    pub variables: Vec<Variable>,
    /// Adam's moments of each variable.
    pub moments: Vec<Moments>,
    /// The number of steps that were made.
    pub done: usize,
    rule: Rule,
}

impl Optimizer {
    /// An optimiser before its first step.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(variables: Vec<Variable>, rule: Rule) -> Result<Self> {
        let moments = variables.iter().map(|variable| Moments::zeros(&variable.var)).collect::<Result<_>>()?;
        Ok(Self { variables, moments, done: 0, rule })
    }

    /// The gradient of each variable, in order; `None` if the loss does not depend on it.
    #[must_use]
    pub fn gradients(&self, store: &GradStore) -> Vec<Option<Tensor>> {
        // The gradients are detached, because their graphs would keep the forward pass's activations in memory.
        self.variables.iter().map(|variable| store.get(&variable.var).map(Tensor::detach)).collect()
    }

    /// The next step, at the run's learning rate `rate`. If the loss does not depend on a variable, its gradient is zero.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn next(&self, gradients: Vec<Option<Tensor>>, rate: f64) -> Result<Step> {
        let filled = self.variables.iter().zip(gradients).map(|(variable, gradient)| match gradient {
            Some(gradient) => Ok(Some(gradient)),
            None => variable.var.zeros_like().map(Some),
        });
        let gradients = filled.collect::<Result<_>>()?;
        Ok(Step { number: self.done + 1, total: self.rule.total, rate, gradients })
    }

    /// Clips the gradients of `step` and makes the step. Returns the gradients' norm before clipping.
    ///
    /// # Errors
    /// A tensor operation fails.
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
