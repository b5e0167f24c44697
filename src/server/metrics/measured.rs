//! What a server has measured since its start.

use std::time::{Duration, SystemTime};

use prometheus_client::metrics::histogram::Histogram;

use super::buckets::{ADAPTERS, ROWS, SECONDS, TOKENS};
use super::requests::Requests;
use crate::scheduler::BatchReport;

/// The counters and histograms of a server.
pub(in crate::server) struct Metrics {
    pub(in crate::server) started: SystemTime,
    pub(super) requests: Requests,
    pub(super) tokenization: Histogram,
    pub(super) queue: Histogram,
    pub(super) inference: Histogram,
    pub(super) batch_duration: Histogram,
    pub(super) batch_rows: Histogram,
    pub(super) batch_tokens: Histogram,
    pub(super) batch_adapters: Histogram,
}

impl Metrics {
    /// All counters at zero.
    pub(in crate::server) fn new() -> Self {
        Self {
            started: SystemTime::now(),
            requests: Requests::new(),
            tokenization: Histogram::new(SECONDS),
            queue: Histogram::new(SECONDS),
            inference: Histogram::new(SECONDS),
            batch_duration: Histogram::new(SECONDS),
            batch_rows: Histogram::new(ROWS),
            batch_tokens: Histogram::new(TOKENS),
            batch_adapters: Histogram::new(ADAPTERS),
        }
    }

    /// Records a request whose rows have run: the time for tokenizing its texts, for waiting until its first row ran, and for running
    /// the batches with its rows.
    pub(in crate::server) fn request_ran(&self, tokenization: Duration, queue: Duration, inference: Duration) {
        self.tokenization.observe(tokenization.as_secs_f64());
        self.queue.observe(queue.as_secs_f64());
        self.inference.observe(inference.as_secs_f64());
    }

    /// Records a batch. The worker calls this after each forward pass.
    pub(in crate::server) fn batch_ran(&self, batch: &BatchReport) {
        self.batch_duration.observe(batch.took.as_secs_f64());
        self.batch_rows.observe(batch.rows as f64);
        self.batch_tokens.observe(batch.tokens as f64);
        self.batch_adapters.observe(batch.adapters as f64);
    }
}
