//! DyLoRA (Valipour et al. 2023): LoRA whose first ranks work without the others. Each step draws a rank `b` from 1 to the full rank, and
//! trains with the first `b` ranks alone. So one run gives an adapter of every rank.
//!
//! The scale is `alpha / b`, as in the authors' code, which multiplies each of both truncated matrices by `sqrt(rank / b)`
//! (`loralib/DyLoRA.py`). It is PEFT's scale of an adapter of rank `b`. The authors' other mode, in which a step changes only the `b`-th
//! rank, is not here.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor, Var, bail};
use polyrank::adapter::{Adapter, AdapterInfo, AdapterWeights, Change};
use polyrank::encoder::{Head, Hooks};
use polyrank::ops::{Added, splitmix};
use polyrank::params::{Backend, Delta, Layout, Site};

use super::{Export, LowRank, LowRankSettings, Method, Pass, Report};
use crate::optim::{Step, Variable};

/// The name of the number of steps in checkpoints.
const DONE: &str = "dylora.done";

/// Low-rank factors, of which each step trains the first ranks, and a head.
pub struct DyLora {
    low_rank: LowRank,
    /// The factor of each rank in the next step, once for each site: `rank / b` for the first `b` ranks, and 0 for the others. It is
    /// used like SoRA's gates, but it is not trained.
    factors: Vec<Var>,
    rank: usize,
    export_rank: usize,
    seed: u64,
    /// The number of steps that were made.
    done: usize,
}

impl DyLora {
    /// DyLoRA with new variables, whose adapter has the rank `export_rank`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(
        layout: &Layout,
        shape: &LowRankSettings,
        export_rank: usize,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let (low_rank, _) = LowRank::new(layout, shape, backend)?;
        // All sites share one variable.
        let shared = Var::ones(shape.rank, DType::F32, low_rank.backend.device())?;
        let factors = vec![shared; low_rank.factors.len()];
        let method = Self { low_rank, factors, rank: shape.rank, export_rank, seed: shape.seed, done: 0 };
        method.draw()?;
        Ok(method)
    }

    /// The rank that the next step trains.
    #[must_use]
    pub fn drawn(&self) -> usize {
        1 + (splitmix(splitmix(self.seed) ^ self.done as u64) % self.rank as u64) as usize
    }

    /// Sets the factors of the next step.
    fn draw(&self) -> Result<()> {
        let Some(shared) = self.factors.first() else { return Ok(()) };
        let drawn = self.drawn();
        let factor = self.rank as f32 / drawn as f32;
        let factors: Vec<f32> = (0..self.rank).map(|i| if i < drawn { factor } else { 0.0 }).collect();
        shared.set(&Tensor::from_vec(factors, self.rank, shared.device())?)
    }
}

/// The hooks of a step, without the gradients of the factors.
struct DyLoraPass<'a>(Box<dyn Pass + 'a>, usize);

impl Hooks for DyLoraPass<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        self.0.added(site)
    }
}

impl Pass for DyLoraPass<'_> {
    fn leaves(&self) -> Vec<Tensor> {
        self.0.leaves()
    }

    fn gradients(&self, of_leaves: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        // Of each site `Wd`, `Wu` and the factors, and then the head.
        let all = self.0.gradients(of_leaves)?.into_iter().enumerate();
        Ok(all.filter(|(i, _)| *i >= 3 * self.1 || i % 3 != 2).map(|(_, gradient)| gradient).collect())
    }
}

impl Method for DyLora {
    fn variables(&self) -> Vec<Variable> {
        let factors = (0..self.low_rank.factors.len()).flat_map(|position| self.low_rank.variables(position));
        factors.chain(self.low_rank.head.variables()).collect()
    }

    fn head(&self) -> Head {
        self.low_rank.head.tracked()
    }

    fn pass(&self) -> Result<Box<dyn Pass + '_>> {
        Ok(Box::new(DyLoraPass(self.low_rank.pass(Some(&self.factors))?, self.factors.len())))
    }

    /// Draws the rank of the next step.
    fn after_step(&mut self, step: &Step) -> Result<Vec<usize>> {
        self.done = step.number;
        self.draw()?;
        Ok(Vec::new())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![(DONE.to_owned(), Tensor::new(&[self.done as u32], self.low_rank.backend.device())?)])
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        if let Some(done) = state.get(DONE) {
            match done.flatten_all()?.to_vec1::<u32>()?[..] {
                [done] => self.done = done as usize,
                _ => bail!("tensor {DONE}: expected shape [1], found {:?}", done.dims()),
            }
        }
        self.draw()
    }

    fn report(&self) -> Result<Report> {
        let rank = self.export_rank;
        let ranks = vec![rank; self.low_rank.factors.len()];
        let parameters = self.low_rank.factors.iter().map(|factors| factors.cost * rank).sum();
        Ok(Report { ranks, parameters, kept: rank as f64 / self.rank as f64, xi: None })
    }

    /// The first ranks, as many as the adapter has.
    fn export(&self, info: AdapterInfo) -> Result<Export> {
        let scale = self.low_rank.scale;
        let whole = self.low_rank.export(info, |_, a, b| Ok(Some(Delta { a: a.copy()?, b: b.copy()?, scale })))?;
        Ok(Export::Adapter(first_ranks(&whole, self.export_rank)?))
    }
}

/// The adapter with only the first `rank` ranks of each site, where it has more. The scale becomes `alpha / rank`.
///
/// # Errors
/// A tensor operation fails.
pub fn first_ranks(adapter: &Adapter, rank: usize) -> Result<Adapter> {
    let cut = |change: &Change| {
        let Delta { a, b, scale } = change.delta();
        let (all, rank) = (change.rank(), rank.min(change.rank()));
        let (a, b) = (a.narrow(0, 0, rank)?, b.narrow(1, 0, rank)?.contiguous()?);
        Ok(Change::LowRank(Delta { a, b, scale: scale * all as f64 / rank as f64 }))
    };
    let sites = adapter.weights.sites.iter().map(|change| change.as_ref().map(cut).transpose());
    let weights = AdapterWeights { sites: sites.collect::<Result<_>>()?, head: adapter.weights.head.clone() };
    Ok(Adapter { info: adapter.info.clone(), weights })
}
