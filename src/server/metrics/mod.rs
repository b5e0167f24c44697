//! What the server measures, and `GET /metrics`, which Prometheus reads.
//!
//! | file | idea |
//! | --- | --- |
//! | `outcome` | how a request ended |
//! | `requests` | counts the requests of each route by outcome; the layer around all routes |
//! | `sources` | reads the registry and the scheduler at the moment of a scrape |
//! | `exposition` | writes everything as text |
//!
//! A client cannot add a label value: routes and methods come from a table, and adapters appear only while they are in memory or have
//! requests. `/metrics` needs the API key like every other route, because it names the adapters; Prometheus can send the key.

mod exposition;
mod outcome;
mod requests;
mod sources;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use prometheus_client::metrics::histogram::Histogram;

use self::exposition::Format;
use self::requests::Requests;
pub(super) use self::requests::count;
use super::app::App;
use super::error::ApiError;
use crate::scheduler::BatchReport;

/// Upper bounds of the buckets of durations, in seconds.
const SECONDS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Upper bounds of the buckets of rows in a batch.
const ROWS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Upper bounds of the buckets of tokens in a batch.
const TOKENS: [f64; 13] =
    [16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0];
/// Upper bounds of the buckets of adapters in a batch.
const ADAPTERS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The counters and histograms of a server.
pub(super) struct Metrics {
    started: SystemTime,
    requests: Requests,
    tokenization: Histogram,
    queue: Histogram,
    inference: Histogram,
    batch_duration: Histogram,
    batch_rows: Histogram,
    batch_tokens: Histogram,
    batch_adapters: Histogram,
}

impl Metrics {
    /// All counters at zero.
    pub(super) fn new() -> Self {
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
    pub(super) fn request_ran(&self, tokenization: Duration, queue: Duration, inference: Duration) {
        self.tokenization.observe(tokenization.as_secs_f64());
        self.queue.observe(queue.as_secs_f64());
        self.inference.observe(inference.as_secs_f64());
    }

    /// Records a batch. The worker calls this after each forward pass.
    pub(super) fn batch_ran(&self, batch: &BatchReport) {
        self.batch_duration.observe(batch.took.as_secs_f64());
        self.batch_rows.observe(batch.rows as f64);
        self.batch_tokens.observe(batch.tokens as f64);
        self.batch_adapters.observe(batch.adapters as f64);
    }
}

/// `GET /metrics`: OpenMetrics for a client that accepts it, else Prometheus's text format 0.0.4.
pub(super) async fn metrics(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::for_accept(accepts);
    let snapshot = sources::Snapshot::of(&app);
    let text = app.metrics().exposition(snapshot, format).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(([(CONTENT_TYPE, format.content_type())], text))
}
