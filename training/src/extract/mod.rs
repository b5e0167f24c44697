//! Makes an adapter of a base from a classifier that was fine-tuned from it.
//!
//! | file | idea |
//! | --- | --- |
//! | `compatible` | refuses a model that does not come from the base |
//! | [`change`] | how much each kind of parameter differs from the base's |
//! | [`spectrum`] | the singular value decomposition of the change of one weight |
//! | [`budget`] | distributes one budget of parameters over the ranks of all sites |
//! | [`effect`] | how much a change of parameters moves the logits |
//! | [`distill`] | trains the extracted factors on the logits of the fine-tuned model |
//! | [`report`] | what the adapter keeps, for the user |
//!
//! The change of each linear is cut to the rank that the budget gives it, and the head is taken as it is. An adapter cannot change
//! biases, norms and embeddings, which therefore stay those of the base. Fine-tuning changes them little: the report says how much, and
//! what that does to the logits.

pub mod budget;
pub mod change;
mod compatible;
pub mod distill;
pub mod effect;
pub mod report;
pub mod spectrum;

use std::path::Path;

use candle_core::Result as TensorResult;
use polyrank::adapter::{Adapter, AdapterInfo, AdapterWeights, Change as SiteChange};
use polyrank::encoder::Head;
use polyrank::engine::Engine;
use polyrank::params::{Layout, Site};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use self::change::{Change, Kind, changes, elements, parameters};
pub use self::compatible::check_shape;
use self::spectrum::Spectrum;
use crate::error::Error;
use crate::fine_tuned::FineTuned;

/// How many parameters the deltas may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// This share of all parameters of the base, its embeddings included.
    Share(f64),
    /// This number.
    Parameters(usize),
}

impl Budget {
    /// The number of parameters, for the base of `engine`.
    #[must_use]
    pub fn parameters(self, engine: &Engine) -> usize {
        match self {
            Self::Share(share) => (share * base_parameters(engine) as f64) as usize,
            Self::Parameters(parameters) => parameters,
        }
    }
}

/// The number of parameters of a base, embeddings included.
#[must_use]
pub fn base_parameters(engine: &Engine) -> usize {
    engine.encoder().parameters().iter().map(|frozen| frozen.shape().iter().product::<usize>()).sum()
}

/// How much of a site's change the adapter keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// The site.
    pub site: Site,
    /// The rank.
    pub rank: usize,
    /// The squared Frobenius norm of the change.
    pub change: f64,
    /// The part of it that the rank keeps.
    pub kept: f64,
}

/// An extracted adapter, and what was measured on the way.
pub struct Extraction {
    /// The adapter.
    pub adapter: Adapter,
    /// How much each kind of parameter differs from the base's.
    pub changes: Vec<Change>,
    /// Every site of the base, in the order of execution.
    pub sites: Vec<Kept>,
}

/// Extracts an adapter of `base`, which is in the folder `dir` and is named `base_model` in the adapter, from `fine`, with deltas of at
/// most `budget` parameters. Call [`check_shape`] first.
///
/// # Errors
/// The budget is too small for one rank, the model was not fine-tuned from the base or from it without changes, or a parameter is not
/// finite.
pub fn extract(base: (&Path, &Engine), fine: &FineTuned, budget: usize, base_model: &str) -> Result<Extraction, Error> {
    let (dir, engine) = base;
    check_budget(engine.layout(), budget)?;
    compatible::check_tokenizer(dir, engine, fine)?;
    let changes = changes(engine, &fine.engine)?;
    compatible::check_changes(fine, &changes)?;
    let spectra = spectra(engine, fine)?;
    let ranks = budget::ranks(&spectra, budget);
    let deltas = spectra.iter().zip(&ranks).map(|(spectrum, &rank)| {
        let delta = spectrum.delta(rank, engine.device())?;
        Ok(delta.map(SiteChange::LowRank))
    });
    let kept = spectra.iter().zip(&ranks).map(|(spectrum, &rank)| Kept {
        site: spectrum.site,
        rank,
        change: spectrum.energy(spectrum.values.len()),
        kept: spectrum.energy(rank),
    });
    let info = AdapterInfo {
        labels: fine.labels.clone(),
        problem_type: Some(fine.problem()),
        base_fingerprint: Some(engine.base_fingerprint().to_owned()),
        base_model: Some(base_model.to_owned()),
    };
    let weights = AdapterWeights { sites: deltas.collect::<TensorResult<_>>()?, head: own_head(engine, fine)? };
    Ok(Extraction { sites: kept.collect(), changes, adapter: Adapter { info, weights } })
}

/// Checks that the budget suffices for one rank of some linear.
fn check_budget(layout: &Layout, budget: usize) -> Result<(), Error> {
    let least = layout.modules.iter().map(|module| module.in_features + module.out_features).min().unwrap_or(0);
    if budget >= least {
        return Ok(());
    }
    Err(Error::Settings(format!(
        "--target-ratio or --target-params: expected {least} parameters or more, which one rank of the smallest linear has, found {budget}"
    )))
}

/// The decompositions of all sites, in the order of execution. Sites are decomposed in parallel, each by one thread.
fn spectra(base: &Engine, fine: &FineTuned) -> Result<Vec<Spectrum>, Error> {
    let (layout, of_base, of_fine) = (base.layout(), parameters(base), parameters(&fine.engine));
    let sites: Vec<Site> = layout.sites().collect();
    let decompose = |site: Site| {
        let name = format!("{}.weight", layout.name(site));
        let file = fine.dir.join("model.safetensors");
        let missing = || Error::malformed(&file, format!("tensor {name} is missing"));
        let before = elements(of_base.get(&*name).ok_or_else(missing)?)?;
        let after = elements(of_fine.get(&*name).ok_or_else(missing)?)?;
        Spectrum::new(site, shape(layout, site), &before, &after)
            .map_err(|_| Error::malformed(&file, format!("tensor {name}: its change has no singular values")))
    };
    sites.into_par_iter().map(decompose).collect()
}

/// `[out, in]`.
fn shape(layout: &Layout, site: Site) -> [usize; 2] {
    let module = layout.module(site);
    [module.out_features, module.in_features]
}

/// The tensors of the head that the adapter carries. Those that a base may have (BERT's pooler) are left out if all of them are still the
/// base's.
fn own_head(base: &Engine, fine: &FineTuned) -> Result<Head, Error> {
    let (of_base, layout) = (parameters(base), base.layout());
    let optional = |name: &String| layout.head.iter().any(|parameter| parameter.name == *name && !parameter.required);
    let mut same = true;
    for (name, tensor) in fine.head.iter().filter(|(name, _)| optional(name)) {
        let of_fine: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        same &= match of_base.get(&**name) {
            Some(frozen) => elements(frozen)?[..] == of_fine[..],
            None => false,
        };
    }
    let carried = fine.head.iter().filter(|(name, _)| !(same && optional(name)));
    Ok(carried.map(|(name, tensor)| (name.clone(), tensor.clone())).collect())
}

/// The kinds of parameters that differ from the base's although an adapter cannot carry them.
#[must_use]
pub fn lost(changes: &[Change]) -> Vec<Kind> {
    let lost = changes.iter().filter(|change| Kind::LOST.contains(&change.kind) && change.relative > 0.0);
    lost.map(|change| change.kind).collect()
}
