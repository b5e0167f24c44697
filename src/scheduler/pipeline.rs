//! How many batches are begun before the first of them has run.

use crate::params::Backend;

/// How batches follow each other on a device.
///
/// A GPU runs a pass while the host forms and queues the next one, so two passes are begun at a time. A pass of few tokens takes about
/// as long there as one of `least` tokens, so that batches are made larger if there are enough requests. On the CPU, the host does all
/// the work: one pass at a time, of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipeline {
    /// The number of passes that are begun before the first of them is finished, at least 1.
    pub passes: usize,
    /// The number of tokens below which a pass hardly gets shorter.
    pub least: usize,
}

impl Pipeline {
    /// One pass at a time.
    pub const ONE: Self = Self { passes: 1, least: 0 };

    /// Launches alone take about a millisecond a pass, and this many tokens take about as long.
    const GPU: Self = Self { passes: 2, least: 2048 };

    /// What suits `backend`.
    #[must_use]
    pub fn of(backend: &Backend) -> Self {
        if backend.on_host() { Self::ONE } else { Self::GPU }
    }
}
