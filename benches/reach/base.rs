//! A base with random adapters and texts.

use std::sync::Arc;

use candle_core::Device;
use polyrank::adapter::{Adapter, AdapterInfo, AdapterWeights, Change};
use polyrank::base::{self, Sources};
use polyrank::engine::{Engine, Row};
use polyrank::params::{Dim, Layout, Precision, Site};
use polyrank::text::Encoded;
use rand::Rng;
use rand::rngs::StdRng;

use crate::common::{Failure, random};

const LABELS: usize = 2;

/// The base that `POLYRANK_MODEL_ID` names, or the default one.
pub(crate) fn open() -> Result<Engine, Failure> {
    let id = std::env::var("POLYRANK_MODEL_ID").unwrap_or_else(|_| "default".to_owned());
    let dir = base::ensure(&id)?;
    println!("\nbase: {}", dir.file_name().unwrap_or(dir.as_os_str()).display());
    Ok(Engine::prepacked(&dir, &Device::Cpu, Precision::F32, Some(Sources::from_env()?.home))?)
}

/// An adapter whose rank at each site is what `rank` says; 0 is none.
pub(crate) fn adapter(
    layout: &Layout,
    rng: &mut StdRng,
    mut rank: impl FnMut(Site, &mut StdRng) -> usize,
) -> Result<Arc<Adapter>, Failure> {
    let change = |site| {
        let module = layout.module(site);
        match rank(site, rng) {
            0 => Ok(None),
            rank => random::delta((module.in_features, module.out_features), rank, rng)
                .map(|delta| Some(Change::LowRank(delta))),
        }
    };
    let sites = layout.sites().map(change).collect::<candle_core::Result<Vec<Option<Change>>>>()?;
    let size = |dim: &Dim| match dim {
        Dim::Labels => LABELS,
        Dim::Fixed(size) => *size,
    };
    let head = layout.head.iter().map(|parameter| {
        let shape: Vec<usize> = parameter.shape.iter().map(size).collect();
        Ok((parameter.name.clone(), random::tensor(&shape, rng)?))
    });
    Ok(Arc::new(Adapter {
        info: AdapterInfo {
            labels: (0..LABELS).map(|label| format!("label {label}")).collect(),
            problem_type: None,
            base_fingerprint: None,
            base_model: None,
        },
        weights: AdapterWeights { sites, head: head.collect::<candle_core::Result<_>>()? },
    }))
}

/// Ranks as SoRA leaves them: 1 to 8, and the shallower a layer, the more of its sites absent.
pub(crate) fn ragged(layout: &Layout) -> impl Fn(Site, &mut StdRng) -> usize + use<> {
    let layers = layout.layers;
    move |site, rng| if rng.random_range(0..layers) <= site.layer { rng.random_range(1..=8) } else { 0 }
}

/// An adapter that adds nothing: the base alone.
pub(crate) fn bare(layout: &Layout, rng: &mut StdRng) -> Result<Arc<Adapter>, Failure> {
    adapter(layout, rng, |_, _| 0)
}

/// A text of `tokens` random ids.
pub(crate) fn text(engine: &Engine, tokens: usize, rng: &mut StdRng) -> Encoded {
    let words = engine.config().vocab_size as u32;
    // The first ids of a vocabulary are special.
    let ids = (0..tokens).map(|_| rng.random_range(words / 2..words)).collect();
    Encoded { ids, type_ids: vec![0; tokens], truncated: false }
}

/// `count` texts of 6 to 42 tokens, 24 on average.
pub(crate) fn texts(engine: &Engine, count: usize, rng: &mut StdRng) -> Vec<Encoded> {
    let lengths: Vec<usize> = (0..count).map(|_| rng.random_range(6..=42)).collect();
    lengths.into_iter().map(|tokens| text(engine, tokens, rng)).collect()
}

/// Each text asked of the adapters in turn.
pub(crate) fn rows(texts: &[Encoded], adapters: &[Arc<Adapter>]) -> Vec<Row> {
    let row = |(text, adapter): (&Encoded, &Arc<Adapter>)| Row { text: text.clone(), adapter: Arc::clone(adapter) };
    texts.iter().zip(adapters.iter().cycle()).map(row).collect()
}

/// Tokens of all rows.
pub(crate) fn tokens(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.text.ids.len()).sum()
}
