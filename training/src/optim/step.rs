//! One step of an optimiser over all variables of a method.

use candle_core::{Result, Tensor, Var, backprop::GradStore};

use super::adaptive::{self, Candidate};
use super::fold::fold;
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
    /// The gates' learning rate as a multiple of the others'.
    pub gate_rate: f64,
    /// Where xi comes from.
    pub threshold: Threshold,
}

/// The variables and the state of a run.
pub struct Optimizer {
    /// What is trained; a gate stands behind the `Wu` that it gates.
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

    /// One step at the learning rate `rate` with [`Self::gradients`]. `costs` are the gates' (`in + out`), in order. Returns the
    /// gradients' norm before clipping and the threshold that was used: xi, or the level of saliency of adaptive gates. Gradients of
    /// gates that do not move count in no norm.
    ///
    /// # Errors
    /// Candle's own.
    pub fn step(&mut self, mut grads: Vec<Vec<f32>>, rate: f64, costs: &[usize]) -> Result<(f64, f64)> {
        let frozen = self.frozen();
        self.observe(&mut grads, frozen)?;
        let norm = clip(&mut grads, self.rule.clip.unwrap_or(f64::INFINITY));
        self.step += 1;
        let gate_rate = rate * self.rule.gate_rate;
        let mut gates = Vec::new();
        for (i, gradient) in grads.iter().enumerate() {
            let Trainable { var, group, .. } = &self.trainables[i];
            if *group != Group::Gate {
                let mut values = flat(var)?;
                self.adam(rate, self.rule.weight_decay).step(&mut values, gradient, &mut self.moments[i]);
                set(var, values)?;
            } else if !frozen {
                let values = self.step_gates(i, flat(var)?, gradient, gate_rate);
                gates.push((i, values));
            }
        }
        if frozen {
            return Ok((norm, 0.0));
        }
        let xi = self.shrink(&mut gates, gate_rate, costs);
        for (i, values) in gates {
            set(&self.trainables[i].var, values)?;
        }
        if self.frozen() {
            self.fold()?;
        }
        Ok((norm, f64::from(xi)))
    }

    fn adam(&self, rate: f64, decay: f64) -> AdamW {
        AdamW { eps: self.rule.eps, ..AdamW::new(rate, decay) }
    }

    /// Clears the gradients of gates that do not move, and keeps the saliency of adaptive ones.
    fn observe(&mut self, grads: &mut [Vec<f32>], frozen: bool) -> Result<()> {
        let gates = self.trainables.iter().zip(grads).zip(&mut self.moments);
        for ((Trainable { var, .. }, gradient), moments) in gates.filter(|((t, _), _)| t.group == Group::Gate) {
            if frozen {
                gradient.fill(0.0);
            } else if self.rule.gate == GateRule::Adaptive {
                let values = flat(var)?;
                adaptive::observe(&mut moments.saliency, &values, gradient);
                gradient.iter_mut().zip(values).filter(|(_, g)| *g == 0.0).for_each(|(d, _)| *d = 0.0);
            }
        }
        Ok(())
    }

    /// The gradient step of the gates that are variable `i`.
    fn step_gates(&mut self, i: usize, mut gates: Vec<f32>, gradient: &[f32], rate: f64) -> Vec<f32> {
        let adam = self.adam(rate, 0.0);
        match self.rule.gate {
            GateRule::Paper => gates.iter_mut().zip(gradient).for_each(|(g, d)| *g -= rate as f32 * d),
            GateRule::Authors => adam.step(&mut gates, gradient, &mut self.moments[i]),
            GateRule::Adaptive => {
                let gone: Vec<bool> = gates.iter().map(|g| *g == 0.0).collect();
                adam.step(&mut gates, gradient, &mut self.moments[i]);
                gates.iter_mut().zip(gone).filter(|(_, gone)| *gone).for_each(|(g, _)| *g = 0.0);
            }
        }
        gates
    }

    /// The proximal step of every gate; what it returns, [`Self::step`] tells.
    fn shrink(&self, gates: &mut [(usize, Vec<f32>)], rate: f64, costs: &[usize]) -> f32 {
        match (self.rule.gate, self.rule.threshold) {
            (GateRule::Adaptive, Threshold::Ratio(controller)) => {
                let mut costs = costs.iter();
                let mut candidates = Vec::new();
                for (i, values) in gates {
                    let ranks = values.iter_mut().zip(&self.moments[*i].saliency).enumerate();
                    candidates.extend(ranks.zip(&mut costs).map(|((rank, (gate, &saliency)), &cost)| Candidate {
                        gate,
                        saliency,
                        rank,
                        cost,
                    }));
                }
                adaptive::shrink(&controller, self.step, candidates)
            }
            _ => {
                let xi = self.xi(rate, &gates.iter().flat_map(|(_, g)| g).zip(costs).map(gate).collect::<Vec<_>>());
                gates.iter_mut().flat_map(|(_, values)| values).for_each(|g| *g = soft_threshold(*g, xi));
                xi
            }
        }
    }

    /// Whether gates no longer move: those that xi shrinks are folded away once the support is final. Adaptive gates are not shrunk, and
    /// go on.
    fn frozen(&self) -> bool {
        let settled = matches!(self.rule.threshold, Threshold::Ratio(controller) if controller.settled(self.step));
        settled && self.rule.gate != GateRule::Adaptive
    }

    /// Moves every gate into the `Wu` that stands before it.
    fn fold(&mut self) -> Result<()> {
        for i in 1..self.trainables.len() {
            let [wu, gate] = [&self.trainables[i - 1], &self.trainables[i]];
            if gate.group == Group::Gate {
                let (mut columns, mut values) = (flat(&wu.var)?, flat(&gate.var)?);
                fold(&mut values, &mut columns, &mut self.moments[i - 1]);
                set(&wu.var, columns)?;
                set(&gate.var, values)?;
            }
        }
        Ok(())
    }

    fn xi(&self, rate: f64, gates: &[Gate]) -> f32 {
        match self.rule.threshold {
            Threshold::Xi(xi) => xi as f32,
            Threshold::Lambda(lambda) => (rate * lambda) as f32,
            Threshold::Ratio(controller) => controller.xi(self.step, gates),
        }
    }
}

fn set(var: &Var, values: Vec<f32>) -> Result<()> {
    var.set(&Tensor::from_vec(values, var.shape(), var.device())?)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

fn gate((&value, &cost): (&f32, &usize)) -> Gate {
    Gate { value, cost }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Var};
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    /// `Wd [2, 3]`, `Wu [4, 2]`, a gate and a head, with any values.
    fn optimizer(threshold: Threshold) -> Optimizer {
        let mut rng = StdRng::seed_from_u64(1);
        let mut var = |name: &str, group, shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(0.5..1.0)).collect();
            Trainable { name: name.to_owned(), group, var: Var::from_vec(values, shape, &Device::Cpu).unwrap() }
        };
        let trainables = vec![
            var("wd", Group::Weight, &[2, 3]),
            var("wu", Group::Weight, &[4, 2]),
            var("gate", Group::Gate, &[2]),
            var("head", Group::Head, &[5]),
        ];
        let rule =
            StepRule { weight_decay: 0.1, eps: 1e-8, clip: None, gate: GateRule::Authors, gate_rate: 1.0, threshold };
        Optimizer::new(trainables, rule)
    }

    fn values(optimizer: &Optimizer) -> Vec<Vec<f32>> {
        optimizer.trainables.iter().map(|trainable| flat(&trainable.var).unwrap()).collect()
    }

    /// A twin that never settles has the same product; ours goes on without gates.
    #[test]
    fn what_has_settled_is_folded_once() {
        let mut rng = StdRng::seed_from_u64(2);
        let controller = Controller { target: 1.0, total: 10 };
        let settles = (0..10).find(|&step| controller.settled(step)).unwrap();
        let (mut ours, mut twin) = (optimizer(Threshold::Ratio(controller)), optimizer(Threshold::Xi(0.0)));
        let mut gradients =
            || [6, 8, 2, 5].map(|len| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>()).to_vec();
        for _ in 0..settles {
            let gradients = gradients();
            ours.step(gradients.clone(), 0.01, &[1, 1]).unwrap();
            twin.step(gradients, 0.01, &[1, 1]).unwrap();
        }
        let (found, gated) = (values(&ours), values(&twin));
        let product: Vec<f32> = gated[1].iter().enumerate().map(|(at, w)| w * gated[2][at % 2]).collect();
        assert_eq!([&found[0], &found[1], &found[2], &found[3]], [&gated[0], &product, &vec![1.0; 2], &gated[3]]);
        assert_eq!(ours.moments[1], Moments::default());
        for _ in settles..10 {
            let mut gradients = gradients();
            let (norm, xi) = ours.step(gradients.clone(), 0.01, &[1, 1]).unwrap();
            gradients.remove(2);
            let expected = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!((norm - expected).abs() < 1e-9 && xi == 0.0, "{norm} for {expected}");
            assert_eq!(values(&ours)[2], [1.0, 1.0]);
        }
        assert_ne!(values(&ours)[1], product);
        assert_eq!(
            ours.moments.iter().map(|moments| moments.steps).collect::<Vec<_>>(),
            [10, 10 - settles, settles, 10]
        );
    }

    /// The rank whose gate carries no gradient goes and stays away; the other gate is not shrunk, is not folded and goes on learning.
    #[test]
    fn adaptive_gates_keep_the_rank_that_matters() {
        let mut rng = StdRng::seed_from_u64(3);
        let controller = Controller { target: 0.5, total: 10 };
        let mut ours = optimizer(Threshold::Ratio(controller));
        ours.rule.gate = GateRule::Adaptive;
        ours.rule.gate_rate = 0.5;
        let start = values(&ours)[2].clone();
        let mut kept = Vec::new();
        for step in 0..10 {
            let mut gradients: Vec<Vec<f32>> =
                [6, 8, 2, 5].iter().map(|&len| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
            gradients[2] = vec![1e-3, 1.0];
            let (norm, _) = ours.step(gradients.clone(), 0.01, &[1, 1]).unwrap();
            // A gate that is gone counts in no norm.
            if kept.last().is_some_and(|gates: &Vec<f32>| gates[0] == 0.0) {
                gradients[2][0] = 0.0;
            }
            let expected = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!((norm - expected).abs() < 1e-9, "{norm} for {expected} in step {step}");
            kept.push(values(&ours)[2].clone());
        }
        let gone = kept.iter().position(|gates| gates[0] == 0.0).unwrap();
        assert!(gone < 4 && kept[gone..].iter().all(|gates| gates[0] == 0.0), "{kept:?}");
        // Adam's step is the rate where the gradient is constant, here half of 0.01.
        for (step, gates) in kept.iter().enumerate() {
            assert!((gates[1] - (start[1] - 0.005 * (step + 1) as f32)).abs() < 1e-5, "{kept:?} from {start:?}");
        }
        assert_eq!(ours.moments[1].steps, 10, "Wu was not folded");
        assert_eq!(ours.moments[2].saliency.len(), 2);
    }

    /// Adam's first moment would move it on, and there is room for it.
    #[test]
    fn an_adaptive_gate_that_is_gone_stays_gone() {
        let mut ours = optimizer(Threshold::Ratio(Controller { target: 1.0, total: 10 }));
        ours.rule.gate = GateRule::Adaptive;
        let gradients = || vec![vec![0.1; 6], vec![0.1; 8], vec![0.5, 0.5], vec![0.1; 5]];
        ours.step(gradients(), 0.01, &[1, 1]).unwrap();
        let gates = values(&ours)[2].clone();
        set(&ours.trainables[2].var, vec![0.0, gates[1]]).unwrap();
        ours.step(gradients(), 0.01, &[1, 1]).unwrap();
        let found = &values(&ours)[2];
        assert!(found[0] == 0.0 && found[1] < gates[1], "{found:?} after {gates:?}");
    }
}
