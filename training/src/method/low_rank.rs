//! What low-rank methods share: the factors of each adapted site, their initial values, and the head.

use candle_core::{DType, Result, Tensor, Var};
use polyrank::adapter::{Adapter, AdapterWeights, Change};
use polyrank::params::{Backend, Delta, Form, Layout, Site};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::factors::Factors;
use super::low_rank_rows::Remaining;
use super::{AdapterInfo, LowRankDevice, LowRankPass, Pass, TrainedHead};
use crate::optim::{Group, Variable};

/// The shape of the adapter to train.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankSettings {
    /// Rank of each site before pruning.
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// The adapted modules, by index into [`Layout::modules`].
    pub modules: Vec<usize>,
    /// The number of outputs of the classifier.
    pub labels: usize,
    /// The random seed of the initial values.
    pub seed: u64,
}

/// The factors of all adapted sites, and the head. New factors have the same rank at all sites.
pub struct LowRank {
    layout: Layout,
    /// The backend of the base.
    pub backend: Backend,
    /// `alpha / rank`.
    pub scale: f64,
    /// The factors of the adapted sites, in order of execution.
    pub factors: Vec<Factors>,
    /// The position in `factors` of each site, by [`Layout::index`].
    positions: Vec<Option<usize>>,
    /// The ranks that a step reads.
    remaining: Remaining,
    /// The classifier.
    pub head: TrainedHead,
}

impl LowRank {
    /// New variables: `Wd` is Kaiming-uniform(sqrt 5), `Wu` is zero, and the head is new. Also returns `rank` draws from N(0, 1) for each
    /// adapted site, at which SoRA's gates may start. They are drawn for every method, so that all methods start from the same `Wd` and
    /// head with the same seed.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(
        layout: &Layout,
        settings: &LowRankSettings,
        backend: impl Into<Backend>,
    ) -> Result<(Self, Vec<Vec<f32>>)> {
        let backend = backend.into();
        let device = backend.device();
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let rank = settings.rank;
        let (mut factors, mut normals, mut positions) = (Vec::new(), Vec::new(), vec![None; layout.len()]);
        for site in layout.sites().filter(|site| settings.modules.contains(&site.module)) {
            let module = layout.module(site);
            let bound = 1.0 / (module.in_features as f32).sqrt();
            let a: Vec<f32> = (0..rank * module.in_features).map(|_| rng.random_range(-bound..bound)).collect();
            normals.push(StandardNormal.sample_iter(&mut rng).take(rank).collect());
            positions[layout.index(site)] = Some(factors.len());
            factors.push(Factors {
                site,
                a: Var::from_vec(a, (rank, module.in_features), device)?,
                b: Var::zeros((module.out_features, rank), DType::F32, device)?,
                cost: module.in_features + module.out_features,
            });
        }
        let head = TrainedHead::new(layout, settings.labels, &mut rng, device)?;
        let scale = settings.alpha / rank as f64;
        let remaining = Remaining::all(&factors)?;
        Ok((Self { layout: layout.clone(), backend, scale, factors, positions, remaining, head }, normals))
    }

    /// Variables that start as the deltas and the head of `adapter`. Sites without a delta are not adapted. The scales of the deltas become
    /// part of `Wu`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn of(layout: &Layout, adapter: &Adapter, backend: impl Into<Backend>) -> Result<Self> {
        let (mut factors, mut positions) = (Vec::new(), vec![None; layout.len()]);
        for site in layout.sites() {
            let Some(change) = &adapter.weights.sites[layout.index(site)] else { continue };
            let (Delta { a, b, scale }, module) = (change.delta(), layout.module(site));
            positions[layout.index(site)] = Some(factors.len());
            factors.push(Factors {
                site,
                a: Var::from_tensor(&a.to_dtype(DType::F32)?.contiguous()?)?,
                b: Var::from_tensor(&(b.to_dtype(DType::F32)? * *scale)?.contiguous()?)?,
                cost: module.in_features + module.out_features,
            });
        }
        let head = TrainedHead::of(&adapter.weights.head)?;
        let remaining = Remaining::all(&factors)?;
        Ok(Self { layout: layout.clone(), backend: backend.into(), scale: 1.0, factors, positions, remaining, head })
    }

    /// The ranks that a step reads: all, until [`Self::keep`] is called.
    #[must_use]
    pub fn remaining(&self) -> &Remaining {
        &self.remaining
    }

    /// From now on, steps read only the ranks of each site whose gate in `gates [sites * rank]` is not 0. The other gates must stay 0.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn keep(&mut self, gates: &[f32]) -> Result<()> {
        let mut rest = gates;
        let ranks = self.factors.iter().map(|factors| {
            let (of_site, after) = rest.split_at(factors.rank());
            rest = after;
            (0..).zip(of_site).filter(|(_, gate)| **gate != 0.0).map(|(rank, _)| rank).collect()
        });
        let ranks = ranks.collect();
        self.remaining = Remaining::new(&self.factors, ranks)?;
        Ok(())
    }

    /// The sites, by position, that have no rank left.
    pub fn emptied(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.factors.len()).filter(|&position| self.remaining.none_at(position))
    }

    /// The hooks of a step for the current factors, and for a gate `g [rank]` of each site, if there are gates. They read only the ranks
    /// that remain. Only this function chooses their form.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn pass<'a>(&'a self, gates: Option<&'a [Var]>) -> Result<Box<dyn Pass + 'a>> {
        Ok(match self.backend.form() {
            Form::Cuda => Box::new(LowRankDevice::new(self, gates)?),
            Form::Cpu | Form::Reference => Box::new(LowRankPass::new(self, gates)?),
        })
    }

    /// The position of `site` among the adapted sites; `None` if it is not adapted.
    #[must_use]
    pub fn position(&self, site: Site) -> Option<usize> {
        self.positions[self.layout.index(site)]
    }

    /// `Wd` and `Wu` of the adapted site at `position`.
    #[must_use]
    pub fn variables(&self, position: usize) -> [Variable; 2] {
        let Factors { a, b, .. } = &self.factors[position];
        [("lora_A", a), ("lora_B", b)].map(|(part, var)| Variable {
            name: self.name(position, part),
            group: Group::PLAIN,
            var: var.clone(),
        })
    }

    /// The name of a variable of an adapted site, such as `bert.encoder.layer.0.output.dense.lora_A`.
    #[must_use]
    pub fn name(&self, position: usize, part: &str) -> String {
        format!("{}.{part}", self.layout.name(self.factors[position].site))
    }

    /// An adapter with the delta that `delta` makes from the factors of each adapted site, by position.
    ///
    /// # Errors
    /// `delta` or a tensor operation fails.
    pub fn export(
        &self,
        info: AdapterInfo,
        delta: impl Fn(usize, &Tensor, &Tensor) -> Result<Option<Delta>>,
    ) -> Result<Adapter> {
        let mut sites = vec![None; self.layout.len()];
        for (position, Factors { site, a, b, .. }) in self.factors.iter().enumerate() {
            let (a, b) = (a.as_detached_tensor(), b.as_detached_tensor());
            sites[self.layout.index(*site)] = delta(position, &a, &b)?.map(Change::LowRank);
        }
        Ok(Adapter { info, weights: AdapterWeights { sites, head: self.head.copy()? } })
    }
}
