//! AdaLoRA (Zhang et al. 2023): `y += s * P (lambda * (Q x))`, `s = alpha / r`. `P`, `lambda` and `Q` approach the singular value
//! decomposition of a change of the weights, because a penalty keeps the columns of `P` and the rows of `Q` orthonormal. All sites share
//! one budget of ranks, which falls along a cubic; the least important ranks get `lambda = 0`, and may return until the ranks are final.
//!
//! It is AdaLoRA as PEFT has it (`peft/tuners/adalora`), whose numbers the tests compare. Two details are the paper's where PEFT differs:
//! the importance of a parameter is computed before the step, with the parameter at which its gradient was taken, and before clipping.
//!
//! | file | idea |
//! | --- | --- |
//! | `budget` | how many ranks are left after a step, and when ranks are chosen |
//! | `importance` | the importance of each rank, and which ranks survive |
//! | `orthogonality` | the penalty's gradient, in closed form |
//! | `flat` | all parameters as one vector, in which equal shapes are neighbours |
//!
//! A step costs little more than one of SoRA: the encoder reads `diag(lambda) Q` in place of `Q`, as it reads `diag(g) Wd`, and all of the
//! rest is a few operations on one vector.

mod budget;
mod flat;
mod importance;
mod orthogonality;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor, Var, bail};
use polyrank::adapter::AdapterInfo;
use polyrank::encoder::Head;
use polyrank::ops;
use polyrank::params::{Backend, Layout};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

pub use self::budget::RankBudget;
use self::flat::Flat;
use self::importance::first;
pub use self::importance::{Importance, survivors};
pub use self::orthogonality::{Side, orthogonality};
use super::folded::folded;
use super::{Export, LowRank, LowRankSettings, Method, Pass, Report};
use crate::optim::{Group, Step, Variable};

/// The standard deviation of the initial values of `P` and `Q`, as in PEFT.
const SPREAD: f32 = 0.02;

/// The settings of the budget and of the penalty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaLoraSettings {
    /// The mean rank of the sites at the end.
    pub target_rank: usize,
    /// The share of the steps before the budget falls.
    pub tinit: f64,
    /// The share of the steps after the ranks are final.
    pub tfinal: f64,
    /// The number of steps from one choice of ranks to the next; `None` for one in 500 of the run's steps.
    pub delta_t: Option<usize>,
    /// The weight of the orthogonality penalty in the loss.
    pub orth_reg_weight: f64,
}

/// The singular values and vectors of each adapted site, and a head.
pub struct AdaLora {
    /// `Q [rank, in]` and `P [out, rank]` of each site, in the place of `Wd` and `Wu`.
    low_rank: LowRank,
    /// `lambda [rank]` of each site.
    values: Vec<Var>,
    settings: AdaLoraSettings,
    flat: Flat,
    /// The importance of each element of the flat vector, until the ranks are final.
    importance: Option<Importance>,
    /// Which ranks are left for good, `[sites, rank]`, 1 or 0, once the ranks are final.
    mask: Option<Tensor>,
}

/// The number of variables of a site: `Q`, `P` and `lambda`.
const PARTS: usize = 3;

impl AdaLora {
    /// AdaLoRA with new variables: `P` and `Q` are drawn from N(0, 0.02), and `lambda` is 0. The rank of `shape` is the one at which
    /// it starts.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(
        layout: &Layout,
        shape: &LowRankSettings,
        settings: AdaLoraSettings,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let (low_rank, _) = LowRank::new(layout, shape, backend)?;
        let device = low_rank.backend.device();
        let mut rng = StdRng::seed_from_u64(shape.seed);
        for var in low_rank.factors.iter().flat_map(|factors| [&factors.a, &factors.b]) {
            let normal = StandardNormal.sample_iter(&mut rng).map(|x: f32| SPREAD * x);
            var.set(&Tensor::from_vec(normal.take(var.elem_count()).collect(), var.shape(), device)?)?;
        }
        let values = low_rank.factors.iter().map(|_| Var::zeros(shape.rank, DType::F32, device));
        let values = values.collect::<Result<Vec<_>>>()?;
        let flat = Flat::new(&low_rank.factors, shape.rank);
        let importance = Some(Importance::new(flat.len(), device)?);
        Ok(Self { low_rank, values, settings, flat, importance, mask: None })
    }

    /// The budget of a run of `total` steps.
    fn budget(&self, total: usize) -> RankBudget {
        let sites = self.values.len();
        let steps = |share: f64| (share * total as f64) as usize;
        RankBudget {
            init: sites * self.flat.rank(),
            target: sites * self.settings.target_rank,
            tinit: steps(self.settings.tinit),
            tfinal: steps(self.settings.tfinal),
            delta_t: self.settings.delta_t.unwrap_or((total / 500).max(1)),
            total,
        }
    }

    /// All variables of the sites, site by site.
    fn site_variables(&self) -> Vec<Variable> {
        let mut all = Vec::with_capacity(PARTS * self.values.len());
        for (site, values) in self.values.iter().enumerate() {
            all.extend(self.low_rank.variables(site));
            let name = self.low_rank.name(site, "lora_E");
            all.push(Variable { name, group: Group::PLAIN, var: values.clone() });
        }
        all
    }

    /// `lambda` of all sites, `[sites, rank]`.
    fn stacked_values(&self) -> Result<Tensor> {
        let all: Vec<&Tensor> = self.values.iter().map(|values| values.as_tensor()).collect();
        ops::of(&self.low_rank.backend).join(&all)?.reshape((all.len(), ()))
    }

    /// Sets `lambda` to 0 where `mask` is 0.
    fn apply(&self, mask: &Tensor) -> Result<()> {
        let values = self.stacked_values()?;
        // A product would keep the sign of a zero, and NaN.
        let masked = mask.ne(0f32)?.where_cond(&values, &values.zeros_like()?)?;
        ops::of(&self.low_rank.backend).assign(&masked.flatten_all()?, &self.values.iter().collect::<Vec<_>>())
    }

    /// The ranks that survive when `budget` ranks are left, `[sites, rank]`, 1 or 0.
    fn choose(&self, budget: usize) -> Result<Option<Tensor>> {
        let Some(importance) = &self.importance else { return Ok(None) };
        let scores = self.flat.scores(&importance.elements()?)?;
        let mask = if scores.iter().all(|score| *score == 0.0) {
            first(self.values.len(), self.flat.rank(), budget)
        } else {
            survivors(&scores, budget)
        };
        let mask: Vec<f32> = mask.into_iter().map(|stays| if stays { 1.0 } else { 0.0 }).collect();
        let shape = (self.values.len(), self.flat.rank());
        Tensor::from_vec(mask, shape, self.low_rank.backend.device()).map(Some)
    }
}

impl Method for AdaLora {
    /// For each site `Q`, `P` and `lambda`, and then the head.
    fn variables(&self) -> Vec<Variable> {
        self.site_variables().into_iter().chain(self.low_rank.head.variables()).collect()
    }

    fn head(&self) -> Head {
        self.low_rank.head.tracked()
    }

    fn pass(&self) -> Result<Box<dyn Pass + '_>> {
        self.low_rank.pass(Some(&self.values))
    }

    /// Adds the gradient of the penalty, and observes the importance until the ranks are final.
    fn before_step(&mut self, step: &mut Step) -> Result<()> {
        if self.values.is_empty() {
            return Ok(());
        }
        let (ops, order) = (ops::of(&self.low_rank.backend), self.flat.order());
        let variables = self.site_variables();
        let weights = ops.join(&order.iter().map(|&i| variables[i].var.as_tensor()).collect::<Vec<_>>())?;
        let gradients: Vec<&Tensor> = order.iter().filter_map(|&i| step.gradients[i].as_ref()).collect();
        let penalty = self.flat.penalty_gradient(&weights, self.settings.orth_reg_weight)?;
        let gradients = (ops.join(&gradients)? + penalty)?;
        if self.budget(step.total).falls(step.number)
            && let Some(importance) = &mut self.importance
        {
            importance.observe(&weights, &gradients, self.low_rank.backend.form())?;
        }
        let mut start = 0;
        for &i in order {
            let var = &variables[i].var;
            step.gradients[i] = Some(gradients.narrow(0, start, var.elem_count())?.reshape(var.shape())?);
            start += var.elem_count();
        }
        Ok(())
    }

    /// Chooses the ranks anew where it is time, and keeps those that are gone for good at 0.
    fn after_step(&mut self, step: &Step) -> Result<Vec<usize>> {
        let (budget, number) = (self.budget(step.total), step.number);
        if budget.settled(number - 1) {
            if let Some(mask) = &self.mask {
                self.apply(mask)?;
            }
        } else if budget.chooses(number)
            && let Some(mask) = self.choose(budget.ranks(number))?
        {
            self.apply(&mask)?;
            if budget.settled(number) {
                (self.mask, self.importance) = (Some(mask), None);
            }
        }
        Ok(Vec::new())
    }

    fn eligible(&self, done: usize, total: usize) -> bool {
        self.budget(total).settled(done)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let importance = self.importance.iter().flat_map(Importance::state);
        let mask = self.mask.iter().map(|mask| (MASK.to_owned(), mask.clone()));
        Ok(importance.chain(mask).collect())
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let device = self.low_rank.backend.device();
        self.mask = state.get(MASK).map(|mask| mask.to_device(device)).transpose()?;
        if let Some(mask) = &self.mask
            && mask.dims() != [self.values.len(), self.flat.rank()]
        {
            let (expected, found) = ([self.values.len(), self.flat.rank()], mask.dims());
            bail!("tensor {MASK}: expected shape {expected:?}, found {found:?}");
        }
        self.importance = match &self.mask {
            Some(_) => None,
            None => Some(Importance::restored(state, self.flat.len(), device)?),
        };
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let left = |site: &Vec<f32>| site.iter().filter(|value| **value != 0.0).count();
        let ranks: Vec<usize> = match self.values.len() {
            0 => Vec::new(),
            _ => self.stacked_values()?.to_vec2()?.iter().map(left).collect(),
        };
        let costs = self.low_rank.factors.iter().map(|factors| factors.cost);
        let all = costs.clone().sum::<usize>() * self.flat.rank();
        let parameters = costs.zip(&ranks).map(|(cost, rank)| cost * rank).sum();
        let kept = if all == 0 { 1.0 } else { parameters as f64 / all as f64 };
        Ok(Report { ranks, parameters, kept, xi: None })
    }

    /// A plain LoRA of ragged ranks: removes the ranks whose `lambda` is 0, and folds the others into `B`.
    fn export(&self, info: AdapterInfo) -> Result<Export> {
        let scale = self.low_rank.scale;
        Ok(Export::Adapter(self.low_rank.export(info, |site, a, b| folded(&self.values[site], a, b, scale))?))
    }
}

/// The name of the mask in checkpoints.
const MASK: &str = "adalora.mask";
