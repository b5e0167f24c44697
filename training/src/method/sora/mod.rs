//! SoRA (Ding et al. 2023): LoRA with a gate on each rank (eq. 8), `y += s * Wu (g * (Wd x))`, `s = alpha / r_max`.
//!
//! Gates become exactly zero during training, by the paper's rule, by its authors' rule, or by the effect of each rank on the loss
//! (`saliency.rs`). How many become zero depends on the threshold: it is constant, or steered towards a share of parameters to keep
//! (`controller.rs`). The export prunes exactly (eq. 12), so that the runtime only needs plain LoRA with ragged ranks.

mod controller;
mod gate;
mod saliency;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use polyrank::encoder::Head;
use polyrank::ops::{self, Ops};
use polyrank::params::{Backend, Layout};

pub use controller::Controller;
pub use gate::{GateRule, soft_threshold};

use super::folded::folded;
use super::{AdapterInfo, Export, LowRank, LowRankSettings, Method, Pass, Report};
use crate::optim::{Descent, Group, Step, Variable};

/// How the threshold of the gates is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// A constant xi (the authors' code).
    Xi(f64),
    /// `xi = rate * lambda` (the paper's eq. 11).
    Lambda(f64),
    /// Steered towards this share of parameters to keep.
    Ratio(f64),
    /// Steered towards this number of parameters to keep.
    Parameters(usize),
}

impl Threshold {
    /// The share to keep of the parameters `costs` of all ranks; `None` for a threshold that is not steered.
    fn target(self, costs: &[usize]) -> Option<f64> {
        match self {
            Self::Xi(_) | Self::Lambda(_) => None,
            Self::Ratio(ratio) => Some(ratio),
            // Half a parameter more, so that rounding does not cost a rank.
            Self::Parameters(kept) => Some(((kept as f64 + 0.5) / costs.iter().sum::<usize>() as f64).min(1.0)),
        }
    }
}

/// The settings of a run that only SoRA has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoraSettings {
    /// How gates start and step.
    pub gate: GateRule,
    /// How xi is set.
    pub threshold: Threshold,
    /// The gates' learning rate, as a multiple of the run's learning rate.
    pub gate_rate: f64,
    /// The weight in the loss of the authors' penalty, `sum |g| / number of gate entries`.
    pub sparse_lambda: f64,
    /// How much earlier adaptive gates of shallow layers become 0: the saliency of layer l of L is multiplied by `exp(bias * l / (L - 1))`.
    pub depth_bias: f64,
}

/// Low-rank factors, a gate on each rank, and a head.
pub struct Sora {
    low_rank: LowRank,
    /// `g [rank]` of each adapted site.
    gates: Vec<Var>,
    /// The number of parameters of each gate entry's rank (`in + out`), site by site.
    costs: Vec<usize>,
    /// The logarithm of the factor of each site's saliency, by which deep layers keep more ranks.
    log_weights: Vec<f64>,
    settings: SoraSettings,
    /// The share of parameters to keep, if the threshold is steered.
    target: Option<f64>,
    /// Whether the paper's or the authors' gates have been folded, so that gates that are 0 stay 0.
    has_folded: bool,
    /// The xi of the last step, if all gates had the same.
    xi: Option<f64>,
    /// The moving average of `|g dL/dg| |dL/dWu_k|` of each rank with an adaptive gate, `[sites, rank]`; zeros for other gates.
    saliency: Tensor,
    /// Which adaptive gates were not 0 before the current step, `[sites, rank]`.
    alive: Option<Tensor>,
}

/// The name of the tensor that a checkpoint has once the paper's or the authors' gates have been folded.
const FOLDED: &str = "gates_folded";

/// The number of variables of a site: `Wd`, `Wu` and the gate.
const PARTS: usize = 3;

/// The position of the site's `Wu` among the variables.
fn wu_of(site: usize) -> usize {
    PARTS * site + 1
}

/// The position of the site's gate among the variables.
fn gate_of(site: usize) -> usize {
    PARTS * site + 2
}

impl Sora {
    /// SoRA with new variables.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(
        layout: &Layout,
        shape: &LowRankSettings,
        settings: SoraSettings,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let (low_rank, normals) = LowRank::new(layout, shape, backend)?;
        let device = low_rank.backend.device();
        let gates = normals.into_iter().map(|normal| Var::from_vec(settings.gate.start(normal), shape.rank, device));
        let gates = gates.collect::<Result<Vec<_>>>()?;
        let costs: Vec<usize> = low_rank.factors.iter().flat_map(|factors| vec![factors.cost; shape.rank]).collect();
        let saliency = Tensor::zeros((gates.len(), shape.rank), DType::F32, device)?;
        let depth = |layer: usize| layer as f64 / (layout.layers.max(2) - 1) as f64;
        let sites = low_rank.factors.iter().map(|factors| factors.site);
        let log_weights = sites.map(|site| settings.depth_bias * depth(site.layer)).collect();
        let target = settings.threshold.target(&costs);
        let (has_folded, xi, alive) = (false, None, None);
        Ok(Self { low_rank, gates, costs, log_weights, settings, target, has_folded, xi, saliency, alive })
    }

    fn ops(&self) -> &'static dyn Ops {
        ops::of(&self.low_rank.backend)
    }

    /// All gates, `[sites, rank]`, or their gradients.
    fn stacked<'a>(&self, gates: impl Iterator<Item = &'a Tensor>) -> Result<Tensor> {
        self.ops().join(&gates.collect::<Vec<_>>())?.reshape(self.saliency.shape())
    }

    fn stacked_gates(&self) -> Result<Tensor> {
        self.stacked(self.gates.iter().map(|gate| gate.as_tensor()))
    }

    /// Whether the ranks are final after `step` of `total` steps.
    fn settled(&self, step: usize, total: usize) -> bool {
        self.target.is_some_and(|target| Controller { target, total }.settled(step))
    }

    /// Whether gates no longer change after `step` steps. The paper's and the authors' gates are folded once the ranks are final. Adaptive
    /// gates are not shrunk, and are trained to the end.
    fn folded(&self, step: usize, total: usize) -> bool {
        self.settings.gate != GateRule::Adaptive && self.settled(step, total)
    }

    /// The proximal step of all gates `[sites, rank]`.
    fn shrink(&mut self, gates: &Tensor, step: &Step) -> Result<Tensor> {
        let xi = match (self.settings.threshold, self.target) {
            (Threshold::Xi(xi), _) => xi,
            (Threshold::Lambda(lambda), _) => step.rate * self.settings.gate_rate * lambda,
            (_, None) => 0.0,
            (_, Some(target)) => {
                let controller = Controller { target, total: step.total };
                if self.settings.gate == GateRule::Adaptive {
                    let share = controller.share(step.number);
                    // Before the share falls and after it has settled, all gates that are left fit into the budget.
                    let fits = share >= 1.0 || controller.settled(step.number - 1);
                    return if fits { Ok(gates.clone()) } else { self.drop_least_salient(gates, [share, target]) };
                }
                f64::from(controller.xi(step.number, &in_host_memory(gates)?, &self.costs))
            }
        };
        self.xi = Some(xi);
        soft_threshold(gates, xi as f32)
    }

    /// Removes ranks until those that are left cost the first of these shares at most. The second is the share that is left in the end.
    fn drop_least_salient(&mut self, gates: &Tensor, shares: [f64; 2]) -> Result<Tensor> {
        let both = in_host_memory(&Tensor::cat(&[gates, &self.saliency], 0)?)?;
        let (values, saliency) = both.split_at(gates.elem_count());
        let rank = gates.dims()[1];
        let order = |gate: usize| saliency::order(saliency[gate], self.costs[gate]) + self.log_weights[gate / rank];
        let order: Vec<f64> = (0..saliency.len()).map(order).collect();
        let stays = saliency::survivors(shares, rank, values, &order, &self.costs);
        let kept: Vec<f32> = values.iter().zip(stays).map(|(gate, stays)| if stays { *gate } else { 0.0 }).collect();
        // An adaptive gate that is 0 stays 0.
        self.low_rank.keep(&kept)?;
        Tensor::from_vec(kept, gates.shape(), gates.device())
    }

    /// Updates the saliency while ranks may still be removed, and zeroes the gradients of gates that are 0.
    fn observe(&mut self, step: &mut Step) -> Result<()> {
        let gradients = (0..self.gates.len()).filter_map(|site| step.gradients[gate_of(site)].as_ref());
        let (gates, gradient) = (self.stacked_gates()?, self.stacked(gradients)?);
        if !self.settled(step.number - 1, step.total) {
            let of_wu: Vec<_> = (0..self.gates.len()).map(|site| step.gradients[wu_of(site)].as_ref()).collect();
            self.saliency = saliency::observe(&self.saliency, &(&gates * &gradient)?, &of_wu)?;
        }
        let alive = gates.ne(0f32)?;
        let gradient = alive.where_cond(&gradient, &gradient.zeros_like()?)?;
        for site in 0..self.gates.len() {
            step.gradients[gate_of(site)] = Some(gradient.get(site)?);
        }
        self.alive = Some(alive);
        Ok(())
    }

    /// Folds every gate into its `Wu`. Adam starts anew for `Wu`: its moments come from gradients under other gates, and no single factor
    /// turns them into the moments of the folded matrix. Returns these variables.
    fn fold(&mut self) -> Result<Vec<usize>> {
        for (gate, factors) in self.gates.iter().zip(&self.low_rank.factors) {
            let (folded, wu) = gate::fold(&gate.as_detached_tensor(), &factors.b.as_detached_tensor())?;
            gate.set(&folded)?;
            factors.b.set(&wu)?;
        }
        (self.has_folded, self.xi) = (true, None);
        self.keep_nonzero()?;
        Ok((0..self.gates.len()).map(wu_of).collect())
    }

    /// Leaves the ranks whose gate is 0 out of all further steps.
    fn keep_nonzero(&mut self) -> Result<()> {
        let gates = in_host_memory(&self.stacked_gates()?)?;
        self.low_rank.keep(&gates)
    }

    fn saliency_name(&self, site: usize) -> String {
        format!("saliency.{}", self.low_rank.name(site, "gate"))
    }
}

/// The elements of `tensor`, row by row.
fn in_host_memory(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

impl Method for Sora {
    /// For each site `Wd`, `Wu` and the gate, and then the head. Gates have no weight decay.
    fn variables(&self) -> Vec<Variable> {
        let descent = if self.settings.gate == GateRule::Paper { Descent::Gradient } else { Descent::AdamW };
        let group = Group { descent, rate: self.settings.gate_rate, decays: false };
        let mut all = Vec::with_capacity(PARTS * self.gates.len());
        for (site, gate) in self.gates.iter().enumerate() {
            all.extend(self.low_rank.variables(site));
            all.push(Variable { name: self.low_rank.name(site, "gate"), group, var: gate.clone() });
        }
        all.extend(self.low_rank.head.variables());
        all
    }

    fn head(&self) -> Head {
        self.low_rank.head.tracked()
    }

    fn pass(&self) -> Result<Box<dyn Pass + '_>> {
        self.low_rank.pass(Some(&self.gates))
    }

    fn penalty(&self) -> Result<Option<Tensor>> {
        if self.settings.sparse_lambda == 0.0 {
            return Ok(None);
        }
        let gates: Vec<Tensor> = self.gates.iter().map(|gate| gate.as_tensor().clone()).collect();
        Ok(Some((gate::penalty(&gates)? * self.settings.sparse_lambda)?))
    }

    /// Keeps folded gates unchanged, and sites without remaining ranks. Updates the saliency of adaptive gates.
    fn before_step(&mut self, step: &mut Step) -> Result<()> {
        if self.folded(step.number - 1, step.total) {
            (0..self.gates.len()).for_each(|site| step.gradients[gate_of(site)] = None);
        } else if self.settings.gate == GateRule::Adaptive {
            self.observe(step)?;
        }
        for site in self.low_rank.emptied() {
            step.gradients[PARTS * site..PARTS * (site + 1)].fill(None);
        }
        Ok(())
    }

    /// Makes the proximal step, and folds the gates once the ranks are final.
    fn after_step(&mut self, step: &Step) -> Result<Vec<usize>> {
        if self.folded(step.number - 1, step.total) {
            return Ok(Vec::new());
        }
        let mut gates = self.stacked_gates()?;
        if let Some(alive) = self.alive.take() {
            // Otherwise Adam's first moment would move a gate that is 0.
            gates = alive.where_cond(&gates, &gates.zeros_like()?)?;
        }
        let gates = self.shrink(&gates, step)?;
        self.ops().assign(&gates.flatten_all()?, &self.gates.iter().collect::<Vec<_>>())?;
        if self.folded(step.number, step.total) { self.fold() } else { Ok(Vec::new()) }
    }

    fn eligible(&self, done: usize, total: usize) -> bool {
        // A target of 1 removes no rank, so that ranks are final from the first step.
        self.target.is_none_or(|target| target >= 1.0) || self.settled(done, total)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        if self.settings.gate != GateRule::Adaptive {
            let folded = self.has_folded.then(|| Tensor::ones(1, DType::F32, &Device::Cpu));
            return folded.into_iter().map(|folded| Ok((FOLDED.to_owned(), folded?))).collect();
        }
        (0..self.gates.len()).map(|site| Ok((self.saliency_name(site), self.saliency.get(site)?))).collect()
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        if self.settings.gate != GateRule::Adaptive {
            self.has_folded |= state.contains_key(FOLDED);
            return if self.has_folded { self.keep_nonzero() } else { Ok(()) };
        }
        let mut rows = Vec::with_capacity(self.gates.len());
        for (site, gate) in self.gates.iter().enumerate() {
            let name = self.saliency_name(site);
            let row = match state.get(&name) {
                Some(stored) => stored.to_device(gate.device())?,
                None => self.saliency.get(site)?,
            };
            if row.shape() != gate.shape() {
                bail!("tensor {name}: expected shape {:?}, found {:?}", gate.dims(), row.dims());
            }
            rows.push(row);
        }
        if !rows.is_empty() {
            self.saliency = Tensor::stack(&rows, 0)?;
            self.keep_nonzero()?;
        }
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let alive = |site: &Vec<f32>| site.iter().filter(|gate| **gate != 0.0).count();
        let ranks: Vec<usize> = self.stacked_gates()?.to_vec2()?.iter().map(alive).collect();
        let parameters = self.low_rank.factors.iter().zip(&ranks).map(|(factors, rank)| factors.cost * rank).sum();
        let all: usize = self.costs.iter().sum();
        let kept = if all == 0 { 1.0 } else { parameters as f64 / all as f64 };
        Ok(Report { ranks, parameters, kept, xi: self.xi })
    }

    /// Prunes exactly (eq. 12): removes ranks whose gate is 0, and folds the other gates into `B`. A site without remaining ranks is
    /// removed.
    fn export(&self, info: AdapterInfo) -> Result<Export> {
        let scale = self.low_rank.scale;
        Ok(Export::Adapter(self.low_rank.export(info, |site, a, b| folded(&self.gates[site], a, b, scale))?))
    }
}
