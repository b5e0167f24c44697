//! `POST /classify/{adapter}`.

mod request;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};

use self::request::{ClassifyRequest, Text};
use super::app::App;
use super::body;
use super::error::ApiError;
use super::extract::{blocking, path};
use super::metrics::{Timings, split};
use super::tokenizing::Permit;
use crate::engine::Row;
use crate::engine::score::{Function, Scored, rank};
use crate::registry::Pin;
use crate::scheduler::Request;
use crate::text::{Encoded, Limit};

#[cfg(fuzzing)]
pub(super) fn parse(body: &[u8]) -> Result<(), ApiError> {
    ClassifyRequest::parse(body).map(|_| ())
}

/// The header that counts the truncated texts of the request.
const TRUNCATED: &str = "x-truncated";

/// Answers with the labels and scores that one adapter gives each text.
pub(super) async fn classify(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let name = path(name)?;
    let bytes = body::read(body, app.config().payload_limit).await?;
    let request = ClassifyRequest::parse(&bytes)?;
    let (texts, limit) = (request.texts.len(), app.config().max_client_batch_size);
    if texts > limit {
        return Err(ApiError::TooManyTexts { texts, limit });
    }
    let ClassifyRequest { texts, top, function, truncate, max_length } = request;
    let permit = match permit(&app, &texts).await {
        Ok(permit) => permit,
        // If there is no such adapter, the answer is 404: trying again would not help.
        Err(full) => {
            blocking(move || app.registry().find(&name)).await??;
            return Err(full);
        }
    };
    let limit = Limit { max_length, truncate: truncate.unwrap_or(app.config().auto_truncate) };
    let worker = Arc::clone(&app);
    let prepare = move || {
        // The thread that tokenizes holds the permit, because it continues after its request has timed out.
        let _permit = permit;
        prepare(&worker, &name, &texts, &limit)
    };
    let (pin, encoded, tokenized) = blocking(prepare).await??;

    let truncated = encoded.iter().filter(|text| text.truncated).count();
    let rows = encoded.into_iter().map(|text| Row { text, adapter: Arc::clone(pin.adapter()) }).collect();
    let submitted = Instant::now();
    let logits = app.scheduler().submit(Request { rows, pins: vec![pin.clone()] })?.wait().await?;
    let (queued, computed) = split(submitted.elapsed());
    app.metrics().request_ran(&Timings { tokenized, queued, computed });
    let answer = answer(&pin, &logits, function, top)?;
    pin.count_request();
    Ok(([(TRUNCATED, truncated.to_string())], Json(answer)).into_response())
}

/// Waits for a permit to tokenize. A full queue refuses the request before it is tokenized; each text counts as one token there,
/// which is the least that it can have.
async fn permit(app: &App, texts: &[Text]) -> Result<Permit, ApiError> {
    app.scheduler().admits(texts.len())?;
    app.permit(texts.iter().map(Text::bytes).sum()).await
}

/// Pins the adapter, loading it if need be, and tokenizes the texts. Tells how long the tokenizer took.
fn prepare(app: &App, name: &str, texts: &[Text], limit: &Limit) -> Result<(Pin, Vec<Encoded>, Duration), ApiError> {
    let pin = app.registry().get(name)?;
    let begun = Instant::now();
    let encode = |text: &Text| app.engine().encode(&text.text, text.pair.as_deref(), limit);
    let encoded = texts.iter().map(encode).collect::<Result<_, _>>()?;
    Ok((pin, encoded, begun.elapsed()))
}

fn answer(
    pin: &Pin,
    logits: &[Vec<f32>],
    function: Option<Function>,
    top: usize,
) -> Result<Vec<Vec<Scored>>, ApiError> {
    let function = function.unwrap_or_else(|| Function::of(pin.adapter()));
    let labels = &pin.adapter().info.labels;
    let scored = logits.iter().map(|logits| {
        rank(labels, logits, function, top).ok_or_else(|| {
            let (name, labels) = (pin.name(), labels.len());
            if logits.len() == labels {
                // Either the adapter's weights are finite but too large for this base, or the base's own weights are not finite.
                ApiError::Unprocessable(format!("adapter {name:?} on this base gives logits that are not finite"))
            } else {
                ApiError::Internal(format!("adapter {name:?} of {labels} labels gave the logits {logits:?}"))
            }
        })
    });
    scored.collect()
}
