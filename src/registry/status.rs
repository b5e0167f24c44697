//! What a registry tells of an adapter.

use serde::Serialize;

use crate::adapter::{Adapter, Ranks};
use crate::params::{Layout, NamedSite};

/// Where an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Ready.
    Memory,
    /// In its folder, to be loaded when asked for.
    Disk,
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
    /// The rank at every site.
    pub ranks: Option<Ranks>,
    /// Bytes that it takes in memory.
    pub bytes: Option<usize>,
    /// The outputs' names in order of id.
    pub labels: Option<Vec<String>>,
    /// The first site that it changes; `None` also for an adapter that is a head alone.
    pub first_active_site: Option<NamedSite>,
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
            first_active_site: facts.and_then(|facts| facts.first_active_site),
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
    first_active_site: Option<NamedSite>,
}

impl Facts {
    pub(super) fn new(generation: u64, adapter: &Adapter, layout: &Layout) -> Self {
        Self {
            generation,
            ranks: adapter.ranks(layout),
            bytes: adapter.bytes(),
            labels: adapter.info.labels.clone(),
            first_active_site: adapter.first_active_site(layout).map(|site| layout.named(site)),
        }
    }
}
