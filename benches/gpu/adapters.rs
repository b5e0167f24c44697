//! Random adapters. They are written as folders and read again, so that they lie in the device's memory as served ones do.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use polyrank::adapter::{self, Adapter, AdapterInfo, AdapterWeights, Change};
use polyrank::params::{Delta, Dim, Layout, Site};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value};

use crate::common::{Failure, random};
use crate::options::World;

const LABELS: usize = 2;
/// Values that all random tensors are cut from, since to draw each is slow.
const POOL: usize = 1 << 22;

/// Makes random adapters.
pub(crate) struct Maker {
    pool: Vec<f32>,
    config: Map<String, Value>,
    rng: StdRng,
}

impl Maker {
    pub(crate) fn new(world: &World, mut rng: StdRng) -> Result<Self, Failure> {
        let config = serde_json::from_slice(&std::fs::read(world.options.model_id.join("config.json"))?)?;
        Ok(Self { pool: random::values(POOL, &mut rng), config, rng })
    }

    /// An adapter whose rank at each site is what `rank` says; 0 is none.
    pub(crate) fn adapter(
        &mut self,
        world: &World,
        rank: impl FnMut(Site, &mut StdRng) -> usize,
    ) -> Result<Arc<Adapter>, Failure> {
        let made = self.random(world.engine.layout(), rank)?;
        let folder = tempfile::Builder::new().prefix("polyrank-gpu-").tempdir_in(&world.options.folder)?;
        let folder: &Path = folder.path();
        adapter::write(folder, world.engine.layout(), &made, &self.config)?;
        Ok(Arc::new(world.engine.load_adapter(folder)?))
    }

    /// An adapter that adds nothing: the base alone.
    pub(crate) fn bare(&mut self, world: &World) -> Result<Arc<Adapter>, Failure> {
        self.adapter(world, |_, _| 0)
    }

    /// `count` adapters of ranks 1 to 16 at every site.
    pub(crate) fn ragged(&mut self, world: &World, count: usize) -> Result<Vec<Arc<Adapter>>, Failure> {
        (0..count).map(|_| self.adapter(world, |_, rng| rng.random_range(1..=16))).collect()
    }

    fn random(
        &mut self,
        layout: &Layout,
        mut rank: impl FnMut(Site, &mut StdRng) -> usize,
    ) -> Result<Adapter, Failure> {
        let mut sites = Vec::with_capacity(layout.len());
        for site in layout.sites() {
            let (module, rank) = (layout.module(site), rank(site, &mut self.rng));
            let (width, out) = (module.in_features, module.out_features);
            let (a, b) = (self.tensor(&[rank, width])?, self.tensor(&[rank, out])?.t()?);
            let delta = Delta { a, b, scale: 0.1 / (width * rank.max(1)) as f64 };
            sites.push((rank > 0).then_some(Change::LowRank(delta)));
        }
        let size = |dim: &Dim| match dim {
            Dim::Labels => LABELS,
            Dim::Fixed(size) => *size,
        };
        let mut head = Vec::new();
        for parameter in layout.head.iter().filter(|parameter| parameter.required) {
            let shape: Vec<usize> = parameter.shape.iter().map(size).collect();
            head.push((parameter.name.clone(), self.tensor(&shape)?));
        }
        let info = AdapterInfo {
            labels: (0..LABELS).map(|label| format!("label {label}")).collect(),
            problem_type: None,
            base_fingerprint: None,
            base_model: None,
        };
        Ok(Adapter { info, weights: AdapterWeights { sites, head: head.into_iter().collect() } })
    }

    fn tensor(&mut self, shape: &[usize]) -> Result<Tensor, Failure> {
        let len: usize = shape.iter().product();
        let mut values = Vec::with_capacity(len);
        while values.len() < len {
            let start = self.rng.random_range(0..POOL);
            values.extend_from_slice(&self.pool[start..(start + len - values.len()).min(POOL)]);
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}
