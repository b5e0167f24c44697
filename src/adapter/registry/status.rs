//! What a registry tells of an adapter.

use serde::Serialize;

use super::Ranks;
use crate::adapter::Adapter;
use crate::encoder::{Layout, Site};

/// Where an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Ready.
    Memory,
    /// In its folder, to be loaded when asked for.
    Disk,
}

/// The first site that an adapter changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstSite {
    /// Layer, from 0 at the embeddings.
    pub layer: usize,
    /// Name inside the layer, `attention.self.query`.
    pub module: &'static str,
}

impl FirstSite {
    fn new(site: Site, layout: &Layout) -> Self {
        Self { layer: site.layer, module: layout.module(site).name }
    }
}

/// An adapter as it stands. The optional fields are `None` until it has been loaded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The folder's name.
    pub name: String,
    /// Where it is.
    pub tier: Tier,
    /// Requests answered.
    pub requests: u64,
    /// Grows with each version of files taken in.
    pub generation: Option<u64>,
    /// Ranks by layer for each module.
    pub ranks: Option<Ranks>,
    /// Bytes that it takes in memory.
    pub bytes: Option<usize>,
    /// The outputs' names in order of id.
    pub labels: Option<Vec<String>>,
    /// The first site that it changes; `None` also for an adapter that is a head alone.
    pub first_active_site: Option<FirstSite>,
}

impl Status {
    pub(super) fn new(name: String, tier: Tier, requests: u64, facts: Option<&Facts>) -> Self {
        Self {
            name,
            tier,
            requests,
            generation: facts.map(|facts| facts.generation),
            ranks: facts.map(|facts| facts.ranks.clone()),
            bytes: facts.map(|facts| facts.bytes),
            labels: facts.map(|facts| facts.labels.clone()),
            first_active_site: facts.and_then(|facts| facts.first_active_site.clone()),
        }
    }
}

/// What stays known of an adapter that was loaded.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) generation: u64,
    ranks: Ranks,
    bytes: usize,
    labels: Vec<String>,
    first_active_site: Option<FirstSite>,
}

impl Facts {
    pub(super) fn new(generation: u64, adapter: &Adapter, layout: &Layout) -> Self {
        let mut ranks = Ranks::new();
        for site in layout.sites() {
            ranks.entry(layout.module(site).label).or_default().push(adapter.rank(layout.index(site)));
        }
        Self {
            generation,
            ranks,
            bytes: adapter.bytes(),
            labels: adapter.labels.clone(),
            first_active_site: adapter.first_active_site(layout).map(|site| FirstSite::new(site, layout)),
        }
    }
}
