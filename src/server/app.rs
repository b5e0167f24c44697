//! The state that all requests share.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::config::Config;
use super::error::ApiError;
use super::metrics::{BatchReport, Metrics};
use super::tokenizing::{Permit, Tokenizing};
use crate::engine::{Engine, Error, Row};
use crate::registry::{Registry, RegistryError};
use crate::scheduler::{Limits, Scheduler};

/// An error that keeps a server from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The adapters' folder cannot be read, or the system cannot start a thread.
    #[error(transparent)]
    Engine(#[from] Error),
    /// An adapter to preload cannot be loaded.
    #[error(transparent)]
    Preload(#[from] RegistryError),
}

/// A server's configuration, base, adapters and worker.
pub struct App {
    config: Config,
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    scheduler: Scheduler,
    tokenizing: Tokenizing,
    metrics: Arc<Metrics>,
}

impl App {
    /// Opens the folder of adapters, loads those to be preloaded, and starts the worker over `engine`.
    ///
    /// # Errors
    /// The folder or an adapter to preload cannot be read, or the preloaded adapters do not fit into `--adapter-memory` together.
    pub fn new(engine: Arc<Engine>, config: Config) -> Result<Self, StartError> {
        let worker = Arc::clone(&engine);
        Self::with_forward(engine, config, move |rows| worker.logits(rows))
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
        let source = Arc::clone(&engine);
        let registry = Arc::new(Registry::new(source, &config.adapters, config.adapter_memory)?);
        // All pins are held until the last adapter is loaded. An adapter that does not fit is then an error, and evicts no other.
        let preloaded: Vec<_> = config.preload.iter().map(|name| registry.get(name)).collect::<Result<_, _>>()?;
        drop(preloaded);
        let limits = Limits {
            batch_tokens: config.max_batch_tokens,
            queued_tokens: config.max_queued_tokens,
            timeout: config.request_timeout,
        };
        let metrics = Arc::new(Metrics::new());
        let measured = Arc::clone(&metrics);
        let forward = move |rows: &[Row]| {
            let begun = Instant::now();
            let result = forward(rows);
            let adapters: HashSet<_> = rows.iter().map(|row| Arc::as_ptr(&row.adapter)).collect();
            let tokens = rows.iter().map(|row| row.text.ids.len()).sum();
            let (rows, adapters, took) = (rows.len(), adapters.len(), begun.elapsed());
            measured.batch_ran(&BatchReport { rows, tokens, adapters, took });
            result
        };
        let scheduler = Scheduler::start(limits, forward).map_err(Error::Thread)?;
        let tokenizing = Tokenizing::new(config.payload_limit);
        Ok(Self { config, engine, registry, scheduler, tokenizing, metrics })
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

    /// What the server has measured.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits for a permit to tokenize `bytes` bytes of text.
    ///
    /// # Errors
    /// Too many requests wait already.
    pub(super) async fn permit(&self, bytes: usize) -> Result<Permit, ApiError> {
        self.tokenizing.permit(bytes).await
    }

    /// Accepts no more requests, and returns once every accepted request is answered.
    pub(super) async fn drain(self: &Arc<Self>) {
        self.scheduler.close();
        // If that thread panics, the channels of the unanswered requests close, and each request gets an error.
        let app = Arc::clone(self);
        let _ = tokio::task::spawn_blocking(move || app.scheduler.drain()).await;
    }
}
