//! Why a server does not start.

use crate::engine::Error;
use crate::registry::RegistryError;

/// An error that keeps a server from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The adapters' folder cannot be read, or the system cannot start a thread.
    #[error(transparent)]
    Engine(#[from] Error),
    /// An adapter to preload cannot be loaded.
    #[error("--preload: {0}")]
    Preload(#[from] RegistryError),
    /// Anybody in the network could replace adapters.
    #[error(
        "--allow-adapter-updates on {hostname} needs --api-key: without it, anybody who reaches the server can replace adapters"
    )]
    Exposed {
        /// The address to listen on.
        hostname: String,
    },
    /// Traces cannot be sent.
    #[cfg(feature = "otlp")]
    #[error("--otlp-endpoint: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
}
