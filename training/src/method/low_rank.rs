//! LoRA, and SoRA: LoRA with a gate on each rank (eq. 8), `y += s * Wu (g * (Wd x))`, `s = alpha / r_max`.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use polyrank::encoder::{DropPoint, Head, Hooks};
use polyrank::ops::{Added, Dropout};
use polyrank::params::{Delta, Dim, HeadParameter, Layout, Site};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use super::{Group, StepDropout, Trainable};
use crate::controller::Gate;

/// How SoRA's gates start and step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GateRule {
    /// Start at 1; Adam's step, then a threshold for each gate by what its rank does for the loss (adaptive lasso).
    Adaptive,
    /// The paper's eq. 10 and 11: start at N(0, 1); a plain gradient step, then `T_xi`.
    Paper,
    /// The authors' code: start at N(0, 1); Adam's step, then `T_xi`.
    Authors,
}

impl GateRule {
    /// Where gates start.
    #[must_use]
    pub fn start(self) -> GateStart {
        match self {
            Self::Adaptive => GateStart::One,
            Self::Paper | Self::Authors => GateStart::Normal,
        }
    }
}

/// Values of gates before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateStart {
    /// All 1, so that no rank has an advantage that the task did not give it.
    One,
    /// N(0, 1), as in the paper. In a short run the start decides which gates survive.
    Normal,
}

/// The shape of an adapter to be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankSettings {
    /// Rank of each site before pruning.
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// Where the gate of each rank starts; `None` for a method without gates.
    pub gates: Option<GateStart>,
    /// Which modules, by index into [`Layout::modules`].
    pub modules: Vec<usize>,
    /// Outputs of the classifier.
    pub labels: usize,
    /// Of the initial values.
    pub seed: u64,
}

/// The variables of one site.
struct Adapted {
    a: Var,
    b: Var,
    gate: Option<Var>,
}

/// A low-rank method over a frozen base.
pub struct LowRank {
    layout: Layout,
    scale: f64,
    sites: Vec<Option<Adapted>>,
    head: BTreeMap<String, Var>,
}

impl LowRank {
    /// Fresh variables: `Wd` Kaiming-uniform(sqrt 5), `Wu` zero, gates by [`GateStart`]; of the head, what the base lacks:
    /// weights N(0, 0.02), norms 1, biases 0.
    ///
    /// # Errors
    /// Candle's own.
    pub fn new(layout: &Layout, settings: &LowRankSettings, device: &Device) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let rank = settings.rank;
        let mut sites = Vec::with_capacity(layout.len());
        for site in layout.sites() {
            let module = layout.module(site);
            if !settings.modules.contains(&site.module) {
                sites.push(None);
                continue;
            }
            let bound = 1.0 / (module.in_features as f32).sqrt();
            let a: Vec<f32> = (0..rank * module.in_features).map(|_| rng.random_range(-bound..bound)).collect();
            // Drawn in any case: with one seed, every method starts from the same `Wd` and head.
            let normal: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(rank).collect();
            let gate = settings.gates.map(|start| match start {
                GateStart::One => vec![1.0; rank],
                GateStart::Normal => normal,
            });
            sites.push(Some(Adapted {
                a: Var::from_vec(a, (rank, module.in_features), device)?,
                b: Var::zeros((module.out_features, rank), DType::F32, device)?,
                gate: gate.map(|gate| Var::from_vec(gate, rank, device)).transpose()?,
            }));
        }
        let mut head = BTreeMap::new();
        for HeadParameter { name, shape, .. } in layout.head.iter().filter(|parameter| parameter.required) {
            let sizes = shape.iter().map(|dim| match dim {
                Dim::Labels => settings.labels,
                Dim::Fixed(size) => *size,
            });
            let sizes: Vec<usize> = sizes.collect();
            let var = match (sizes.len(), name.ends_with(".weight")) {
                (1, true) => Var::ones(sizes, DType::F32, device)?,
                (1, false) => Var::zeros(sizes, DType::F32, device)?,
                _ => {
                    let normal = StandardNormal.sample_iter(&mut rng).map(|x: f32| 0.02 * x);
                    Var::from_vec(normal.take(sizes.iter().product()).collect(), sizes, device)?
                }
            };
            head.insert(name.clone(), var);
        }
        let scale = settings.alpha / rank as f64;
        Ok(Self { layout: layout.clone(), scale, sites, head })
    }

    /// Every variable, in a fixed order: of each site `Wd`, `Wu` and the gate, then the head.
    #[must_use]
    pub fn trainables(&self) -> Vec<Trainable> {
        let mut all = Vec::new();
        let mut push = |name: String, group, var: &Var| all.push(Trainable { name, group, var: var.clone() });
        for (site, adapted) in self.adapted() {
            let name = self.layout.name(site);
            push(format!("{name}.lora_A"), Group::Weight, &adapted.a);
            push(format!("{name}.lora_B"), Group::Weight, &adapted.b);
            if let Some(gate) = &adapted.gate {
                push(format!("{name}.gate"), Group::Gate, gate);
            }
        }
        for (name, var) in &self.head {
            push(name.clone(), Group::Head, var);
        }
        all
    }

    fn adapted(&self) -> impl Iterator<Item = (Site, &Adapted)> {
        self.layout.sites().zip(&self.sites).filter_map(|(site, adapted)| Some((site, adapted.as_ref()?)))
    }

    /// How many sites are adapted.
    #[must_use]
    pub fn sites(&self) -> usize {
        self.adapted().count()
    }

    /// The head as it stands, tracked.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// `sum |g| / number of gate entries`, the authors' penalty, with gradient 0 at 0; `None` without gates.
    ///
    /// # Errors
    /// Candle's own.
    pub fn gate_penalty(&self) -> Result<Option<Tensor>> {
        let gates: Vec<Tensor> =
            self.adapted().filter_map(|(_, a)| Some(a.gate.as_ref()?.as_tensor().clone())).collect();
        if gates.is_empty() {
            return Ok(None);
        }
        let gates = Tensor::cat(&gates, 0)?;
        // Not `abs`: candle's has the gradient 1 at 0, and would push every zero gate off.
        let sign = gates.detach().sign()?;
        Ok(Some((gates * sign)?.mean_all()?))
    }

    /// Every gate entry in the order of [`Self::trainables`].
    ///
    /// # Errors
    /// Candle's own.
    pub fn gates(&self) -> Result<Vec<Gate>> {
        let mut gates = Vec::new();
        for (site, adapted) in self.adapted() {
            let module = self.layout.module(site);
            let cost = module.in_features + module.out_features;
            if let Some(gate) = &adapted.gate {
                gates.extend(gate.to_vec1::<f32>()?.into_iter().map(|value| Gate { value, cost }));
            }
        }
        Ok(gates)
    }

    /// Prunes exactly (eq. 12): ranks whose gate is 0 are dropped, the others' gates are folded into `B`; a site without a rank left
    /// disappears. The deltas and the head are copies.
    ///
    /// # Errors
    /// Candle's own.
    pub fn pruned(&self) -> Result<(Vec<Option<Delta>>, Head)> {
        let mut deltas = Vec::with_capacity(self.sites.len());
        for adapted in &self.sites {
            deltas.push(match adapted {
                Some(adapted) => adapted.pruned(self.scale)?,
                None => None,
            });
        }
        let head = self.head.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)));
        Ok((deltas, head.collect::<Result<_>>()?))
    }
}

impl Adapted {
    /// `diag(g) Wd`, or `Wd` without a gate.
    fn gated(&self) -> Result<Tensor> {
        match &self.gate {
            Some(gate) => self.a.broadcast_mul(&gate.unsqueeze(1)?),
            None => Ok(self.a.as_tensor().clone()),
        }
    }

    fn pruned(&self, scale: f64) -> Result<Option<Delta>> {
        let (a, b) = (self.a.as_detached_tensor(), self.b.as_detached_tensor());
        let Some(gate) = &self.gate else {
            return Ok(Some(Delta { a: a.copy()?, b: b.copy()?, scale }));
        };
        let values = gate.to_vec1::<f32>()?;
        let kept: Vec<u32> = (0..values.len()).filter(|&i| values[i] != 0.0).map(|i| i as u32).collect();
        if kept.is_empty() {
            return Ok(None);
        }
        let kept = Tensor::from_vec(kept.clone(), kept.len(), a.device())?;
        let gate = gate.as_detached_tensor().index_select(&kept, 0)?;
        let b = b.index_select(&kept, 1)?.broadcast_mul(&gate.unsqueeze(0)?)?;
        Ok(Some(Delta { a: a.index_select(&kept, 0)?, b, scale }))
    }
}

impl Hooks for LowRank {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        let Some(adapted) = &self.sites[self.layout.index(site)] else { return Ok(Added::Nothing) };
        Ok(Added::Whole(Delta { a: adapted.gated()?, b: adapted.b.as_tensor().clone(), scale: self.scale }))
    }
}

/// A [`LowRank`] with what one pass of a step drops.
pub struct Dropping<'a> {
    /// The method.
    pub method: &'a LowRank,
    /// Of this pass.
    pub dropout: StepDropout,
}

impl Hooks for Dropping<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        self.method.added(site)
    }

    fn dropout(&self, point: DropPoint) -> Option<Dropout> {
        self.dropout.at(point)
    }
}
