//! The state that all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::bodies::Bodies;
use super::config::Config;
use super::error::ApiError;
use super::extract::threads_for_large_texts;
use super::metrics::measured::Metrics;
use super::start_error::StartError;
use super::tokenizing::{TokenizePermit, Tokenizing};
#[cfg(feature = "otlp")]
use super::traces::Traces;
use super::unknown_hosts::UnknownHosts;
use crate::engine::{Engine, Error, Pending, Row};
use crate::logging::printable;
use crate::registry::{self, Registry};
use crate::scheduler::{Limits, Pipeline, Scheduler};

/// What takes the memory that a body lacks.
const OTHERS: &str = "the bodies of other requests";

/// A server's configuration, base, adapters and worker.
pub struct App {
    config: Config,
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    scheduler: Scheduler,
    tokenizing: Tokenizing,
    bodies: Arc<Bodies>,
    small_bodies: Arc<Bodies>,
    answers: Arc<Bodies>,
    unknown_hosts: UnknownHosts,
    draining: AtomicBool,
    metrics: Arc<Metrics>,
    #[cfg(feature = "otlp")]
    traces: Option<Traces>,
}

impl App {
    /// Opens the folder of adapters, loads those to be preloaded, and starts the worker over `engine`.
    ///
    /// # Errors
    /// The folder or an adapter to preload cannot be read, or the preloaded adapters do not fit into `--adapter-memory` together.
    pub fn new(engine: Arc<Engine>, config: Config) -> Result<Self, StartError> {
        let (worker, pipeline) = (Arc::clone(&engine), Pipeline::of(engine.backend()));
        Self::with_pipeline(engine, config, pipeline, move |rows| worker.begin(rows))
    }

    /// [`App::new`] with another forward pass than the engine's own.
    ///
    /// # Errors
    /// As [`App::new`].
    pub fn with_forward(
        engine: Arc<Engine>,
        config: Config,
        forward: impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error> + Send + 'static,
    ) -> Result<Self, StartError> {
        Self::with_pipeline(engine, config, Pipeline::ONE, move |rows| forward(rows).map(Pending::ready))
    }

    fn with_pipeline(
        engine: Arc<Engine>,
        config: Config,
        pipeline: Pipeline,
        begin: impl Fn(&[Row]) -> Result<Pending, Error> + Send + 'static,
    ) -> Result<Self, StartError> {
        let registry =
            Arc::new(Registry::open(Arc::<Engine>::clone(&engine), &config.adapters, registry_settings(&config))?);
        let limits = Limits {
            batch_tokens: config.max_batch_tokens,
            queued_tokens: config.max_queued_tokens,
            timeout: config.request_timeout,
            stall_timeouts: config.stall_timeouts,
        };
        let metrics = Arc::new(Metrics::new());
        let measured = Arc::clone(&metrics);
        let scheduler = Scheduler::pipelined(limits, pipeline, begin, move |batch| measured.batch_ran(batch))
            .map_err(Error::Thread)?;
        // Before the first load, which may find the device lost.
        registry.on_device_lost(scheduler.device_lost_teller());
        preload(&registry, &config)?;
        let tokenizing = Tokenizing::new(config.payload_limit, threads_for_large_texts());
        let bodies = Bodies::new(OTHERS, config.body_memory.max(config.payload_limit.saturating_mul(Bodies::LARGEST)));
        let small_bodies = Bodies::new(OTHERS, (config.body_memory / 8).max(1 << 20));
        let answers =
            Bodies::new("answers that clients have not read", config.body_memory.max(2 * Bodies::LARGEST_ANSWER));
        #[cfg(feature = "otlp")]
        let traces = config.otlp_endpoint.as_ref().map(Traces::to).transpose()?;
        Ok(Self {
            config,
            engine,
            registry,
            scheduler,
            tokenizing,
            bodies: Arc::new(bodies),
            small_bodies: Arc::new(small_bodies),
            answers: Arc::new(answers),
            unknown_hosts: UnknownHosts::new(),
            draining: AtomicBool::new(false),
            metrics,
            #[cfg(feature = "otlp")]
            traces,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The base.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The adapters.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The queue and its worker.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Where traces are sent.
    #[cfg(feature = "otlp")]
    pub(super) fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    /// When the server was started.
    pub(super) fn started(&self) -> SystemTime {
        self.metrics.started
    }

    /// What the server has measured.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits for a permit to tokenize `bytes` bytes of text.
    ///
    /// # Errors
    /// Too many requests wait already.
    pub(super) async fn permit(&self, bytes: usize) -> Result<TokenizePermit, ApiError> {
        self.tokenizing.permit(bytes).await
    }

    /// The memory for requests' bodies.
    pub(super) fn bodies(&self) -> &Arc<Bodies> {
        &self.bodies
    }

    /// The memory for small bodies.
    pub(super) fn small_bodies(&self) -> &Arc<Bodies> {
        &self.small_bodies
    }

    /// The memory for large answers.
    pub(super) fn answers(&self) -> &Arc<Bodies> {
        &self.answers
    }

    /// The hosts that name no adapter.
    pub(super) fn unknown_hosts(&self) -> &UnknownHosts {
        &self.unknown_hosts
    }

    /// Whether the server is shutting down, or about to.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Says in `/ready` that the server is shutting down. Requests may still take adapters and the queue.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Sends the last traces. Waits for the collector.
    #[cfg(feature = "otlp")]
    pub(super) fn finish_traces(&self) {
        self.traces.iter().for_each(Traces::finish);
    }

    /// Ends what requests need, once they are answered.
    pub(super) fn close(&self) {
        self.scheduler.close();
        self.registry.close();
    }
}

fn registry_settings(config: &Config) -> registry::Settings {
    registry::Settings {
        budget: config.adapter_memory,
        updates: config.adapter_updates,
        strict_base: config.strict_base,
        // The other half is for the request itself.
        room_wait: config.request_timeout / 2,
    }
}

/// Loads the adapters of `--preload` and the default adapter.
fn preload(registry: &Registry, config: &Config) -> Result<(), StartError> {
    config.preload.iter().try_for_each(|name| registry.preload(name))?;
    if let Some(name) = &config.default_adapter
        && let Err(error) = registry.get(name)
    {
        // It may be copied into the folder later.
        tracing::warn!("--default-adapter: {}", printable(&error.to_string()));
    }
    Ok(())
}
