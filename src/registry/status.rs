//! What clients can read about an adapter.

use serde::Serialize;

use crate::adapter::{Adapter, Ranks};
use crate::params::{Layout, NamedSite};

/// Where an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum Tier {
    /// In memory, ready to use.
    Memory,
    /// In its folder; it is loaded on first use.
    Disk,
}

/// The status of an adapter. The optional fields are `None` until it has been loaded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Status {
    /// The folder's name.
    pub name: String,
    /// Where it is.
    pub tier: Tier,
    /// The number of requests that it has answered.
    pub requests: u64,
    /// The generation, which increases with each new version.
    pub generation: Option<u64>,
    /// The rank at every site.
    #[cfg_attr(feature = "server", schema(value_type = Option<std::collections::HashMap<String, Vec<usize>>>))]
    pub ranks: Option<Ranks>,
    /// The bytes that it needs in memory.
    pub bytes: Option<usize>,
    /// The names of the outputs, in order of id.
    pub labels: Option<Vec<String>>,
    /// The first site that it changes; `None` also for an adapter that has only a head.
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

/// What the registry still knows about an adapter after it has been evicted.
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
