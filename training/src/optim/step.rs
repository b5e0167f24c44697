//! One step of an optimiser over all variables of a method.

use candle_core::{Result, Tensor, backprop::GradStore};

use super::{AdamW, Moments, clip, soft_threshold};
use crate::controller::{Controller, Gate};
use crate::method::{GateRule, Group, Trainable};

/// Where the threshold of the gates comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// A constant xi (the authors' code).
    Xi(f64),
    /// `xi = rate * lambda` (the paper's eq. 11).
    Lambda(f64),
    /// Steered towards a ratio of parameters kept.
    Ratio(Controller),
}

/// What does not change over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRule {
    /// Decoupled decay of weights and head; gates have none.
    pub weight_decay: f64,
    /// Added to the root of Adam's second moment.
    pub eps: f64,
    /// Most of the gradients' global norm, gates included; `None` does not clip.
    pub clip: Option<f64>,
    /// How gates step.
    pub gate: GateRule,
    /// Where xi comes from.
    pub threshold: Threshold,
}

/// The variables and the state of a run.
pub struct Optimizer {
    /// What is trained.
    pub trainables: Vec<Trainable>,
    /// Adam's moments of each.
    pub moments: Vec<Moments>,
    /// Steps done.
    pub step: usize,
    rule: StepRule,
}

impl Optimizer {
    /// A fresh state.
    #[must_use]
    pub fn new(trainables: Vec<Trainable>, rule: StepRule) -> Self {
        let moments = vec![Moments::default(); trainables.len()];
        Self { trainables, moments, step: 0, rule }
    }

    /// The elements of each variable's gradient, in order; zeros where `gradients` has none.
    ///
    /// # Errors
    /// Candle's own.
    pub fn gradients(&self, gradients: &GradStore) -> Result<Vec<Vec<f32>>> {
        let of = |Trainable { var, .. }: &Trainable| match gradients.get(var) {
            Some(gradient) => flat(gradient),
            None => Ok(vec![0.0; var.elem_count()]),
        };
        self.trainables.iter().map(of).collect()
    }

    /// One step at the learning rate `rate` with [`Self::gradients`]. `costs` are the gates' (`in + out`), in order. Returns the gradients' norm before
    /// clipping and the xi that was used.
    ///
    /// # Errors
    /// Candle's own.
    pub fn step(&mut self, mut grads: Vec<Vec<f32>>, rate: f64, costs: &[usize]) -> Result<(f64, f64)> {
        let norm = clip(&mut grads, self.rule.clip.unwrap_or(f64::INFINITY));
        let frozen = matches!(self.rule.threshold, Threshold::Ratio(controller) if controller.settled(self.step));
        self.step += 1;
        let mut gates = Vec::new();
        for ((Trainable { var, group, .. }, gradient), moments) in
            self.trainables.iter().zip(&grads).zip(&mut self.moments)
        {
            let mut values = flat(var)?;
            let decay = if *group == Group::Gate { 0.0 } else { self.rule.weight_decay };
            let adam = AdamW { eps: self.rule.eps, ..AdamW::new(rate, decay) };
            if *group == Group::Gate {
                let before = values.clone();
                match self.rule.gate {
                    GateRule::Authors => adam.step(&mut values, gradient, moments, self.step),
                    GateRule::Paper => values.iter_mut().zip(gradient).for_each(|(g, d)| *g -= rate as f32 * d),
                }
                // Settled: what is pruned stays pruned.
                if frozen {
                    values.iter_mut().zip(before).filter(|(_, before)| *before == 0.0).for_each(|(g, _)| *g = 0.0);
                }
                gates.push((var, values));
            } else {
                adam.step(&mut values, gradient, moments, self.step);
                var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
            }
        }
        let xi = if frozen {
            0.0
        } else {
            self.xi(rate, &gates.iter().flat_map(|(_, g)| g).zip(costs).map(gate).collect::<Vec<_>>())
        };
        for (var, mut values) in gates {
            values.iter_mut().for_each(|g| *g = soft_threshold(*g, xi));
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        }
        Ok((norm, f64::from(xi)))
    }

    fn xi(&self, rate: f64, gates: &[Gate]) -> f32 {
        match self.rule.threshold {
            Threshold::Xi(xi) => xi as f32,
            Threshold::Lambda(lambda) => (rate * lambda) as f32,
            Threshold::Ratio(controller) => controller.xi(self.step, gates),
        }
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

fn gate((&value, &cost): (&f32, &usize)) -> Gate {
    Gate { value, cost }
}
