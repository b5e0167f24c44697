//! Reads the registry and the scheduler at the moment of a scrape. Nothing here touches the disk.

use std::sync::Arc;
use std::time::Duration;

use crate::registry::{Cause, Counters, Status, Tier, Updates};
use crate::server::app::App;

/// An adapter in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resident {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) pinned: bool,
}

/// The state of a server at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) version: &'static str,
    pub(super) model_id: String,
    pub(super) device: &'static str,
    pub(super) dtype: &'static str,
    /// Tokens in the queue.
    pub(super) queued_tokens: usize,
    /// `--max-queued-tokens`.
    pub(super) queued_tokens_limit: usize,
    /// How long the forward pass has taken, if that is many times what it should.
    pub(super) stalled: Option<Duration>,
    /// Adapters of the batches that run.
    pub(super) running: Vec<Arc<str>>,
    /// Adapters with requests in the queue.
    pub(super) waiting: Vec<Arc<str>>,
    /// Bytes of the adapters in memory.
    pub(super) adapter_bytes: usize,
    /// `--adapter-memory`.
    pub(super) adapter_bytes_limit: usize,
    pub(super) counters: Counters,
    /// The adapters in service that are in memory.
    pub(super) residents: Vec<Resident>,
    /// The number of versions in memory, also of those that only requests under way use.
    pub(super) versions: usize,
    /// The number of adapters that are not in service because their files cannot be loaded.
    pub(super) broken: usize,
    /// Adapters of which a newer version on disk is not served, and why.
    pub(super) unserved: Vec<(Arc<str>, Cause)>,
    /// Whether new versions wait for a PUT (`--adapter-updates manual`).
    pub(super) manual: bool,
}

impl Snapshot {
    /// The state of `app` now.
    pub(super) fn of(app: &App) -> Self {
        let (config, registry, scheduler) = (app.config(), app.registry(), app.scheduler());
        let in_memory = registry.statuses().into_iter().filter(|status| status.tier != Tier::Disk);
        let resident = |status: Status| {
            Some(Resident { generation: status.generation?, name: status.name, pinned: status.pinned })
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            model_id: config.model_id.clone(),
            device: app.engine().backend().name(),
            dtype: app.engine().precision().name(),
            queued_tokens: scheduler.queued_tokens(),
            queued_tokens_limit: config.max_queued_tokens,
            stalled: scheduler.stalled(),
            running: scheduler.running(),
            waiting: scheduler.waiting().into_iter().map(|(name, _)| name).collect(),
            adapter_bytes: registry.bytes(),
            adapter_bytes_limit: config.adapter_memory,
            counters: registry.counters(),
            residents: in_memory.filter_map(resident).collect(),
            versions: registry.resident(),
            broken: registry.broken(),
            unserved: registry.unserved(),
            manual: config.adapter_updates == Updates::Manual,
        }
    }
}
