//! How long the parts of a request took.

use std::time::{Duration, Instant};

/// How long the parts of a request took, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// When the first part began: the body is read, and the adapters are pinned.
    #[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only traces report it"))]
    pub(super) begun: Instant,
    /// Tokenizing the texts, and waiting for a permit to do so.
    pub(super) tokenization: Duration,
    /// Waiting in the queue until the first row ran.
    pub(super) queue: Duration,
    /// Running the request's batches.
    pub(super) inference: Duration,
}

/// What was measured of an answered request. It stands in the response's extensions, for the access log and for traces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// The number of tokens, where each text counts once.
    pub(super) tokens: usize,
    #[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only traces report them"))]
    pub(super) times: Times,
}
