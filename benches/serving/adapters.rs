//! Random adapters, written as folders.

use std::path::Path;

use candle_core::Tensor;
use polyrank::adapter::{self, Adapter, AdapterInfo, AdapterWeights, Change};
use polyrank::params::{Delta, Dim, Layout};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::{Failure, random};
use crate::options::World;

/// The largest rank.
const RANK: usize = 8;

/// What a random adapter is made of.
#[derive(Clone, Copy)]
pub(crate) struct Recipe<'a> {
    pub(crate) seed: u64,
    /// What its labels begin with. Versions of one adapter have labels of their own, so that an answer tells its version.
    pub(crate) labels: &'a str,
    /// The first layer with a delta.
    pub(crate) first_layer: usize,
}

/// Writes the adapter of `recipe` into the folder `dir`. Half of its sites have a rank from 1 to 8, the others none. Its deltas are
/// large enough that another adapter's weights give other logits.
pub(crate) fn write(world: &World, dir: &Path, recipe: Recipe) -> Result<(), Failure> {
    let layout = world.engine.layout();
    Ok(adapter::write(dir, layout, &random_adapter(layout, recipe)?, &world.base_config)?)
}

/// Writes `count` adapters, `prefix-0000` and so on, into subfolders of `root`, and returns their names.
pub(crate) fn write_many(world: &World, root: &Path, prefix: &str, count: usize) -> Result<Vec<String>, Failure> {
    let names: Vec<String> = (0..count).map(|i| format!("{prefix}-{i:04}")).collect();
    for (seed, name) in names.iter().enumerate() {
        write(world, &root.join(name), Recipe { seed: seed as u64, labels: "label", first_layer: 0 })?;
    }
    Ok(names)
}

fn random_adapter(layout: &Layout, Recipe { seed, labels, first_layer }: Recipe) -> Result<Adapter, Failure> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sites = Vec::with_capacity(layout.len());
    for site in layout.sites() {
        let module = layout.module(site);
        let shape = (module.in_features, module.out_features);
        let absent = site.layer < first_layer || rng.random_bool(0.5);
        sites.push(if absent { None } else { Some(Change::LowRank(delta(shape, &mut rng)?)) });
    }
    let size = |dim: &Dim| match dim {
        Dim::Labels => 2,
        Dim::Fixed(size) => *size,
    };
    let head = layout.head.iter().filter(|parameter| parameter.required).map(|parameter| {
        let shape: Vec<usize> = parameter.shape.iter().map(size).collect();
        Ok((parameter.name.clone(), (random::tensor(&shape, &mut rng)? * 0.1)?))
    });
    Ok(Adapter {
        info: AdapterInfo {
            labels: ["no", "yes"].map(|label| format!("{labels}-{label}")).to_vec(),
            problem_type: None,
            base_fingerprint: None,
            base_model: None,
        },
        weights: AdapterWeights { head: head.collect::<Result<_, Failure>>()?, sites },
    })
}

/// Adds about a fifth of what the linear itself gives.
fn delta((width, out): (usize, usize), rng: &mut StdRng) -> Result<Delta, Failure> {
    let rank = rng.random_range(1..=RANK);
    let (a, b): (Tensor, Tensor) = (random::tensor(&[rank, width], rng)?, random::tensor(&[rank, out], rng)?.t()?);
    Ok(Delta { a, b, scale: 0.6 / ((width * rank) as f64).sqrt() })
}
