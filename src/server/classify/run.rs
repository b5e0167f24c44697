//! Answers a checked request: finds and pins its adapters, tokenizes its texts, and waits for their logits. Every shape takes this way.

use std::sync::Arc;
use std::time::Instant;

use super::super::app::App;
use super::super::bodies::Bodies;
use super::super::deadline::Deadline;
use super::super::error::ApiError;
use super::super::extract::blocking;
use super::super::times::Times;
use super::implied;
use super::request::{Adapters, ClassifyRequest, Scoring, Text};
use crate::engine::Row;
use crate::registry::Pin;
use crate::scheduler::Request;
use crate::text::{Encoded, Limit};

/// About the bytes of a label with its score, without its name.
const SCORED: usize = 40;

/// The logits of a request, and how they were computed.
pub(super) struct RequestLogits {
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

impl RequestLogits {
    /// The result of the only adapter that the request asked.
    pub(super) fn only(&self) -> &AdapterLogits {
        &self.adapters[0]
    }

    /// The number of logits.
    pub(super) fn logits(&self) -> usize {
        self.adapters.iter().flat_map(|adapter| &adapter.logits).map(Vec::len).sum()
    }
}

/// Answers `request` by `deadline`.
///
/// # Errors
/// Too many texts or adapters, an adapter that is unknown or cannot be served, a full queue, texts that cannot be tokenized, or a
/// failed forward pass.
pub(super) async fn run(
    app: &Arc<App>,
    request: ClassifyRequest,
    deadline: Deadline,
) -> Result<RequestLogits, ApiError> {
    let ClassifyRequest { texts, form: _, adapters, scoring, truncate, side, max_length } = request;
    check_sizes(&texts, &adapters, app.config().max_client_batch_size)?;
    // First of all: no permit is held while an adapter is loaded, and where there is none, trying again would not help.
    let pins = pin_all(app, adapters).await?;
    check_answer(texts.len(), &pins, scoring)?;
    // A full queue refuses the request before it is tokenized. Each text counts as one token here, which is the least that it can have.
    app.scheduler().admits(pins[0].name(), texts.len(), deadline.0)?;
    let begun = Instant::now();
    let limit = Limit { max_length, truncate: truncate.unwrap_or(app.config().auto_truncate), side };
    let encoded = tokenize(app, texts, limit).await?;
    let tokenization = begun.elapsed();

    let (tokens, truncated) = (encoded.iter().map(|text| text.ids.len()).sum(), count_truncated(&encoded));
    let texts = encoded.len();
    let request = Request { rows: rows(encoded, &pins), pins: pins.clone(), deadline: deadline.0 };
    let answered = app.scheduler().submit(request)?.wait().await?;
    app.metrics().request_ran(tokenization, answered.queued, answered.computed);
    let times = Times { begun, tokenization, queue: answered.queued, inference: answered.computed };
    Ok(RequestLogits { adapters: by_adapter(pins, answered.logits, texts), tokens, truncated, times })
}

fn check_sizes(texts: &[Text], adapters: &Adapters, limit: usize) -> Result<(), ApiError> {
    if texts.len() > limit {
        return Err(ApiError::TooManyTexts { texts: texts.len(), limit });
    }
    match adapters {
        Adapters::Named(names) if names.len() > limit => {
            Err(ApiError::TooManyAdapters { adapters: names.len(), limit })
        }
        _ => Ok(()),
    }
}

/// Refuses a request whose answer would take memory out of proportion.
fn check_answer(texts: usize, pins: &[Pin], scoring: Scoring) -> Result<(), ApiError> {
    let of = |pin: &Pin| {
        let labels = &pin.adapter().info.labels;
        let bytes = labels.iter().map(|label| label.len() + SCORED);
        if scoring.top < labels.len() { bytes.max().unwrap_or(0) * scoring.top } else { bytes.sum() }
    };
    let bytes = pins.iter().map(of).sum::<usize>().saturating_mul(texts);
    let most = Bodies::LARGEST_ANSWER;
    if bytes <= most {
        return Ok(());
    }
    let text =
        format!("the answer would have about {bytes} bytes: expected at most {most}; ask fewer texts, or set top_k");
    Err(ApiError::Unprocessable(text))
}

/// Pins the adapters that the request asks, in its order.
async fn pin_all(app: &Arc<App>, adapters: Adapters) -> Result<Vec<Pin>, ApiError> {
    let names = match adapters {
        Adapters::Named(names) => names,
        Adapters::Implied { host } => return Ok(vec![implied::pin(app, host).await?]),
    };
    Ok(app.registry().pin_all(&names).await?)
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
