//! Answers a checked request: finds and pins its adapters, tokenizes its texts, and waits for their logits. Every shape takes this way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::app::App;
use super::super::deadline::Deadline;
use super::super::error::ApiError;
use super::super::extract::blocking;
use super::request::{Adapters, ClassifyRequest, Text};
use crate::engine::Row;
use crate::registry::Pin;
use crate::scheduler::Request;
use crate::text::{Encoded, Limit};

/// The logits of a request, and how they were computed.
pub(super) struct Outcome {
    /// The result of each adapter, in the order of the request; at least one.
    pub(super) adapters: Vec<AdapterLogits>,
    /// The number of tokens, where each text counts once.
    pub(super) tokens: usize,
    /// How many texts were truncated.
    pub(super) truncated: usize,
    pub(super) times: Times,
}

/// What one adapter made of the texts.
pub(super) struct AdapterLogits {
    /// The version that was asked. It stays in memory until the answer is made.
    pub(super) pin: Pin,
    /// The logits `[labels]` of each text.
    pub(super) logits: Vec<Vec<f32>>,
}

/// How long the parts of a request took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Tokenizing the texts, and waiting for a permit to do so.
    pub(super) tokenization: Duration,
    /// Waiting in the queue until the first row ran.
    pub(super) queue: Duration,
    /// Running the request's batches.
    pub(super) inference: Duration,
}

impl Outcome {
    /// The result of the only adapter that the request asked.
    pub(super) fn only(&self) -> &AdapterLogits {
        &self.adapters[0]
    }
}

/// Answers `request` by `deadline`.
///
/// # Errors
/// Too many texts or adapters, an adapter that is unknown or cannot be served, a full queue, texts that cannot be tokenized, or a
/// failed forward pass.
pub(super) async fn run(app: &Arc<App>, request: ClassifyRequest, deadline: Deadline) -> Result<Outcome, ApiError> {
    let ClassifyRequest { texts, adapters, truncate, max_length, .. } = request;
    let names = resolve(app, adapters).await?;
    check_sizes(texts.len(), names.len(), app.config().max_client_batch_size)?;
    // A full queue refuses the request before its adapters are loaded. Each text counts as one token here, which is the least that it
    // can have.
    if let Err(full) = app.scheduler().admits(texts.len()) {
        // If there is no such adapter, the answer is 404: trying again would not help.
        for name in names {
            find(app, name).await?;
        }
        return Err(full.into());
    }
    let mut pins = Vec::with_capacity(names.len());
    for name in names {
        pins.push(pin(app, name).await?);
    }
    let begun = Instant::now();
    let limit = Limit { max_length, truncate: truncate.unwrap_or(app.config().auto_truncate) };
    let encoded = tokenize(app, texts, limit).await?;
    let tokenization = begun.elapsed();

    let (tokens, truncated) = (encoded.iter().map(|text| text.ids.len()).sum(), count_truncated(&encoded));
    let texts = encoded.len();
    let answered = compute(app, rows(encoded, &pins), &pins, deadline).await?;
    let times = Times { tokenization, queue: answered.queued, inference: answered.computed };
    Ok(Outcome { adapters: by_adapter(pins, answered.logits, texts), tokens, truncated, times })
}

/// The names of the adapters that the request asks.
async fn resolve(app: &Arc<App>, adapters: Adapters) -> Result<Vec<String>, ApiError> {
    let host = match adapters {
        Adapters::Named(names) => return Ok(names),
        Adapters::Implied { host } => host,
    };
    if let Some(name) = &host {
        match find(app, name.clone()).await {
            Ok(()) => return Ok(vec![name.clone()]),
            Err(ApiError::UnknownAdapter(_)) => {}
            Err(error) => return Err(error),
        }
    }
    match &app.config().default_adapter {
        Some(name) => Ok(vec![name.clone()]),
        None => Err(ApiError::NoAdapter { host }),
    }
}

fn check_sizes(texts: usize, adapters: usize, limit: usize) -> Result<(), ApiError> {
    if texts > limit {
        return Err(ApiError::TooManyTexts { texts, limit });
    }
    if adapters > limit {
        return Err(ApiError::TooManyAdapters { adapters, limit });
    }
    Ok(())
}

/// Checks that there is an adapter `name`.
async fn find(app: &Arc<App>, name: String) -> Result<(), ApiError> {
    let registry = Arc::clone(app.registry());
    Ok(blocking(move || registry.find(&name)).await??)
}

/// Pins the adapter `name`, loading it if need be.
async fn pin(app: &Arc<App>, name: String) -> Result<Pin, ApiError> {
    let registry = Arc::clone(app.registry());
    Ok(blocking(move || registry.get(&name)).await??)
}

/// Tokenizes each text once, on a thread for blocking work.
async fn tokenize(app: &Arc<App>, texts: Vec<Text>, limit: Limit) -> Result<Vec<Encoded>, ApiError> {
    let permit = app.permit(texts.iter().map(Text::bytes).sum()).await?;
    let engine = Arc::clone(app.engine());
    blocking(move || {
        // The thread that tokenizes holds the permit, because it continues after its request has timed out.
        let _permit = permit;
        texts.iter().map(|text| Ok(engine.encode(&text.text, text.pair.as_deref(), &limit)?)).collect()
    })
    .await?
}

/// What the scheduler tells of an answered request.
struct Answered {
    logits: Vec<Vec<f32>>,
    queued: Duration,
    computed: Duration,
}

/// Runs the rows in the scheduler's batches.
async fn compute(app: &Arc<App>, rows: Vec<Row>, pins: &[Pin], deadline: Deadline) -> Result<Answered, ApiError> {
    let begun = Instant::now();
    let _ = deadline.at();
    let logits = app.scheduler().submit(Request { rows, pins: pins.to_vec() })?.wait().await?;
    Ok(Answered { logits, queued: Duration::ZERO, computed: begun.elapsed() })
}

fn count_truncated(encoded: &[Encoded]) -> usize {
    encoded.iter().filter(|text| text.truncated).count()
}

/// One row for each text and adapter. The rows of a text follow each other, so that a batch takes them together and its adapters share
/// the text.
fn rows(encoded: Vec<Encoded>, pins: &[Pin]) -> Vec<Row> {
    let mut rows = Vec::with_capacity(encoded.len() * pins.len());
    for text in encoded {
        rows.extend(pins.iter().map(|pin| Row { text: text.clone(), adapter: Arc::clone(pin.adapter()) }));
    }
    rows
}

/// Sorts the logits of [`rows`] by adapter.
fn by_adapter(pins: Vec<Pin>, logits: Vec<Vec<f32>>, texts: usize) -> Vec<AdapterLogits> {
    let empty = |pin| AdapterLogits { pin, logits: Vec::with_capacity(texts) };
    let mut adapters: Vec<AdapterLogits> = pins.into_iter().map(empty).collect();
    let mut logits = logits.into_iter();
    for _ in 0..texts {
        for (adapter, logits) in adapters.iter_mut().zip(&mut logits) {
            adapter.logits.push(logits);
        }
    }
    adapters
}
