//! What clients can read about an adapter, and about the registry.

use std::sync::Arc;

use serde::Serialize;

use super::RegistryError;
use crate::adapter::{Adapter, ProblemType, Ranks, Summary};
use crate::params::{Layout, NamedSite};

/// Where an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// In the memory of the GPU, ready to use.
    Device,
    /// In the CPU's memory, ready to use.
    Memory,
    /// In its folder; it is loaded on first use.
    Disk,
}

/// The status of an adapter. `generation` and `bytes` are `None` until it has been loaded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Status {
    /// The name under which it is asked.
    pub name: String,
    /// Where it is.
    pub tier: Tier,
    /// Whether it was preloaded, so that it is never evicted for another adapter.
    pub pinned: bool,
    /// The number of requests that it has answered.
    pub requests: u64,
    /// The generation, which increases with each new version, and begins anew when the server starts.
    pub generation: Option<u64>,
    /// The rank at every site; `None` if the files show none.
    #[schema(value_type = Option<std::collections::HashMap<String, Vec<usize>>>)]
    pub ranks: Option<Ranks>,
    /// The bytes that it needs in memory.
    pub bytes: Option<usize>,
    /// The names of the outputs, in order of id; `None` if the files show none.
    pub labels: Option<Vec<String>>,
    /// What its outputs mean; `None` if the files do not say.
    #[schema(value_type = Option<String>, example = "single_label_classification")]
    pub problem_type: Option<ProblemType>,
    /// The first site that it changes; `None` also for an adapter that has only a head.
    pub first_active_site: Option<NamedSite>,
    /// Why the files on disk, or a newer version of them, are not served.
    pub problem: Option<String>,
    /// Why its answers may be wrong although it is served.
    pub warning: Option<String>,
}

impl Status {
    /// The status of an adapter of which nothing is known.
    pub(super) fn unknown(name: &str) -> Self {
        Self {
            name: name.into(),
            tier: Tier::Disk,
            pinned: false,
            requests: 0,
            generation: None,
            ranks: None,
            bytes: None,
            labels: None,
            problem_type: None,
            first_active_site: None,
            problem: None,
            warning: None,
        }
    }

    /// Adds what the files of an adapter show without a load, or why a load would fail.
    pub(super) fn with_summary(mut self, summary: Option<Result<&Summary, &RegistryError>>, layout: &Layout) -> Self {
        match summary.filter(|_| self.generation.is_none()) {
            Some(Ok(summary)) => self.add(summary, layout),
            Some(Err(error)) if self.problem.is_none() => self.problem = Some(error.to_string()),
            _ => {}
        }
        self
    }

    fn add(&mut self, summary: &Summary, layout: &Layout) {
        self.ranks = Some(summary.ranks.clone());
        self.labels = Some(summary.labels.clone());
        self.problem_type = summary.problem_type;
        self.first_active_site = summary.first_active_site.map(|site| layout.named(site));
    }
}

/// Why the files of an adapter on disk are not served, in a word for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// They have not stopped changing.
    Changing,
    /// There is no room for them in memory.
    Memory,
    /// They wait for a `PUT`.
    Manual,
    /// They cannot be served.
    Invalid,
}

impl Cause {
    pub(super) fn of(error: &RegistryError) -> Self {
        match error {
            RegistryError::Changing { .. } => Self::Changing,
            RegistryError::Busy { .. } | RegistryError::DeviceMemory { .. } | RegistryError::NoRoom { .. } => {
                Self::Memory
            }
            RegistryError::TooLarge { .. } => Self::Memory,
            RegistryError::Changed { .. } => Self::Manual,
            _ => Self::Invalid,
        }
    }

    /// The value of the metrics' label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Changing => "changing",
            Self::Memory => "memory",
            Self::Manual => "manual",
            Self::Invalid => "invalid",
        }
    }
}

/// What the state knows about an adapter.
pub(super) struct Snapshot {
    pub(super) name: Arc<str>,
    pub(super) tier: Tier,
    pub(super) pinned: bool,
    pub(super) requests: u64,
    pub(super) generation: Option<u64>,
    pub(super) facts: Option<Arc<Facts>>,
    pub(super) problem: Option<String>,
}

impl From<Snapshot> for Status {
    fn from(snapshot: Snapshot) -> Self {
        let Snapshot { name, tier, pinned, requests, generation, facts, problem } = snapshot;
        let facts = facts.as_ref();
        Self {
            name: (*name).into(),
            tier,
            pinned,
            requests,
            generation,
            ranks: facts.map(|facts| facts.ranks.clone()),
            bytes: facts.map(|facts| facts.bytes),
            labels: facts.map(|facts| facts.labels.clone()),
            problem_type: facts.and_then(|facts| facts.problem_type),
            first_active_site: facts.and_then(|facts| facts.first_active_site),
            problem,
            warning: facts.and_then(|facts| facts.warning.clone()),
        }
    }
}

/// What a registry has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Pins of adapters that were in memory.
    pub hits: u64,
    /// Versions that were loaded into memory, also after an eviction.
    pub loads: u64,
    /// Attempts to load an adapter that failed.
    pub failed_loads: u64,
    /// Versions that replaced another one in service.
    pub swaps: u64,
    /// Newer versions on disk that were not served, because they are broken or do not fit.
    pub refused_updates: u64,
    /// Versions that left memory for others.
    pub evictions: u64,
}

/// What the registry still knows about a version after it has been evicted.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) ranks: Ranks,
    pub(super) bytes: usize,
    pub(super) labels: Vec<String>,
    pub(super) problem_type: Option<ProblemType>,
    pub(super) first_active_site: Option<NamedSite>,
    pub(super) warning: Option<String>,
}

/// A version that has been read and checked.
pub(super) struct Checked {
    pub(super) adapter: Adapter,
    pub(super) facts: Facts,
}
