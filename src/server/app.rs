//! What all requests share.

use std::sync::Arc;

use super::config::Config;
use super::error::ApiError;
use super::tokenising::{Permit, Tokenizing};
use crate::engine::{Engine, Error, Row};
use crate::registry::{Registry, RegistryError};
use crate::scheduler::{Limits, Scheduler};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The adapters' folder cannot be read, or the system refuses a thread.
    #[error(transparent)]
    Engine(#[from] Error),
    /// An adapter to preload cannot be had.
    #[error(transparent)]
    Preload(#[from] RegistryError),
}

/// A base, its adapters and the worker, configured.
pub struct App {
    config: Config,
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    scheduler: Scheduler,
    tokenizing: Tokenizing,
}

impl App {
    /// Opens the folder of adapters, loads those to be preloaded, and starts the worker over `engine`.
    ///
    /// # Errors
    /// A folder that cannot be read, or an adapter to preload that cannot be had.
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
        // All are held until the last is loaded, so that one that does not fit is an error and evicts none of the others.
        let preloaded: Vec<_> = config.preload.iter().map(|name| registry.get(name)).collect::<Result<_, _>>()?;
        drop(preloaded);
        let limits = Limits {
            batch_tokens: config.max_batch_tokens,
            queued_tokens: config.max_queued_tokens,
            timeout: config.request_timeout,
        };
        let scheduler = Scheduler::start(limits, forward).map_err(Error::Thread)?;
        let tokenizing = Tokenizing::new(config.payload_limit);
        Ok(Self { config, engine, registry, scheduler, tokenizing })
    }

    /// How it serves.
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

    /// Waits for a permit to tokenize so many bytes of text.
    ///
    /// # Errors
    /// Too much waits already.
    pub(super) async fn permit(&self, bytes: usize) -> Result<Permit, ApiError> {
        self.tokenizing.permit(bytes).await
    }

    /// Accepts nothing from now on, and returns once all that was accepted is answered.
    pub(super) async fn drain(self: &Arc<Self>) {
        self.scheduler.close();
        // A thread that panicked has answered nobody, and the requests know by their channels.
        let app = Arc::clone(self);
        let _ = tokio::task::spawn_blocking(move || app.scheduler.drain()).await;
    }
}
