//! The optimiser of all variables of a run.

use candle_core::{Device, Result, Tensor, Var, backprop::GradStore};
use polyrank::ops;
use polyrank::params::{Backend, Form};

use super::clip::clip;
use super::flat::Flat;
use super::{AdamW, Moments};

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

    /// AdamW at the run's learning rate. As in the Trainer of `transformers`, weight decay applies to matrices, and not to biases and
    /// norms.
    #[must_use]
    pub fn of(tensor: &Tensor) -> Self {
        Self { decays: tensor.rank() > 1, ..Self::PLAIN }
    }

    /// The settings of AdamW for a step of these variables, at the run's learning rate `rate`.
    pub(super) fn adam(&self, rate: f64, rule: &Rule) -> AdamW {
        let decay = if self.decays { rule.weight_decay } else { 0.0 };
        AdamW { eps: rule.eps, ..AdamW::new(rate * self.rate, decay) }
    }
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

/// Adam's state of each variable.
enum State {
    /// In host memory, one variable after another.
    Host(Vec<Moments>),
    /// On a device, joined.
    Device(Flat),
}

/// The variables of a run and their state.
pub struct Optimizer {
    /// The trained variables.
    pub variables: Vec<Variable>,
    /// The number of steps that were made.
    pub done: usize,
    state: State,
    rule: Rule,
}

impl Optimizer {
    /// An optimiser before its first step, for variables on the backend's device. Only this function chooses its form.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(variables: Vec<Variable>, rule: Rule, backend: &Backend) -> Result<Self> {
        let zeros = |variable: &Variable| Moments::zeros(&variable.var);
        let state = match backend.form() {
            Form::Cpu => State::Host(variables.iter().map(zeros).collect::<Result<_>>()?),
            Form::Reference | Form::Cuda => State::Device(Flat::new(&variables, ops::of(backend))?),
        };
        Ok(Self { variables, done: 0, state, rule })
    }

    /// The gradient of each variable, in order; `None` if the loss does not depend on it.
    #[must_use]
    pub fn gradients(&self, store: &GradStore) -> Vec<Option<Tensor>> {
        // The gradients are detached, because their graphs would keep the forward pass's activations in memory.
        self.variables.iter().map(|variable| store.get(&variable.var).map(Tensor::detach)).collect()
    }

    /// Adam's moments of the variable at index `i`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn moments(&self, i: usize) -> Result<Moments> {
        match &self.state {
            State::Host(all) => Ok(all[i].clone()),
            State::Device(flat) => flat.moments(&self.variables, i),
        }
    }

    /// Sets the moments of all variables, in order.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn set_moments(&mut self, all: Vec<Moments>) -> Result<()> {
        match &mut self.state {
            State::Host(held) => *held = all,
            State::Device(flat) => flat.set(&self.variables, |i| Ok(all.get(i).cloned()))?,
        }
        Ok(())
    }

    /// Starts Adam anew for the variables at these indices.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn restart(&mut self, which: &[usize]) -> Result<()> {
        let zeros = |i: usize| Moments::zeros(&self.variables[i].var);
        match &mut self.state {
            State::Host(held) => which.iter().try_for_each(|&i| zeros(i).map(|zeros| held[i] = zeros)),
            State::Device(_) if which.is_empty() => Ok(()),
            State::Device(flat) => flat.set(&self.variables, |i| which.contains(&i).then(|| zeros(i)).transpose()),
        }
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

    /// Clips the gradients and makes the step. Returns the gradients' norm before clipping, a scalar on the device of the variables.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn apply(&mut self, step: &mut Step) -> Result<Tensor> {
        let norm = match &mut self.state {
            State::Host(moments) => on_host(&self.variables, moments, step, &self.rule)?,
            State::Device(flat) => flat.apply(&self.variables, step, &self.rule)?,
        };
        self.done = step.number;
        Ok(norm)
    }
}

/// Makes a step in host memory. Returns the gradients' norm before clipping, f64.
fn on_host(variables: &[Variable], moments: &mut [Moments], step: &mut Step, rule: &Rule) -> Result<Tensor> {
    let norm = clip(&mut step.gradients, rule.clip.unwrap_or(f64::INFINITY))?;
    for ((Variable { group, var, .. }, gradient), moments) in variables.iter().zip(&step.gradients).zip(moments) {
        let Some(gradient) = gradient else { continue };
        let after = match group.descent {
            Descent::AdamW => {
                let (after, held) = group.adam(step.rate, rule).on_host(var.as_tensor(), gradient, moments)?;
                *moments = held;
                after
            }
            Descent::Gradient => (var.as_detached_tensor() - (gradient * (step.rate * group.rate))?)?,
        };
        var.set(&after)?;
    }
    Tensor::new(norm, &Device::Cpu)
}
