//! Makes answers of logits: labels with scores, and headers that say which version answered, in what time, and what was truncated.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::answer_body;
use super::super::app::App;
use super::super::error::ApiError;
use super::super::extract::blocking;
use super::super::times::Measured;
use super::request::{Form, Scoring};
use super::run::{AdapterLogits, RequestLogits};
use crate::engine::score::{Function, Scored, rank};

/// The number of truncated texts.
pub(in crate::server) const TRUNCATED: HeaderName = HeaderName::from_static("x-truncated");
/// The generation of the adapter that answered. For several adapters it is a list: `a=3,b=7`.
pub(in crate::server) const GENERATION: HeaderName = HeaderName::from_static("x-adapter-generation");
/// The number of tokens of the request's texts.
pub(in crate::server) const TOKENS: HeaderName = HeaderName::from_static("x-compute-tokens");
/// Milliseconds for tokenizing, including the wait for permission to do so.
pub(in crate::server) const TOKENIZATION: HeaderName = HeaderName::from_static("x-tokenization-time");
/// Milliseconds in the queue, until the first text ran.
pub(in crate::server) const QUEUE: HeaderName = HeaderName::from_static("x-queue-time");
/// Milliseconds in which the request's batches ran.
pub(in crate::server) const INFERENCE: HeaderName = HeaderName::from_static("x-inference-time");

/// The labels of one text, or a list of labels for each text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::server) enum Predictions {
    /// For one text: its labels, best first.
    One(Vec<Scored>),
    /// For a list of texts: the labels of each text, best first.
    Each(Vec<Vec<Scored>>),
}

impl Predictions {
    /// The labels of each text, in the form of the request.
    pub(super) fn new(mut lists: Vec<Vec<Scored>>, form: Form) -> Self {
        match lists.pop() {
            Some(list) if form == Form::One => Self::One(list),
            last => {
                lists.extend(last);
                Self::Each(lists)
            }
        }
    }
}

impl AdapterLogits {
    /// The labels of each text, best first.
    pub(super) fn ranked(&self, Scoring { function, top }: Scoring) -> Result<Vec<Vec<Scored>>, ApiError> {
        let function = self.function(function);
        let labels = &self.pin.adapter().info.labels;
        let ranked = |logits: &Vec<f32>| rank(labels, logits, function, top).ok_or_else(|| self.unusable(logits));
        self.logits.iter().map(ranked).collect()
    }

    /// The scores of each text, in the order of the labels' ids.
    pub(super) fn scores(&self, function: Option<Function>) -> Result<Vec<Vec<f32>>, ApiError> {
        let function = self.function(function);
        let labels = self.pin.adapter().info.labels.len();
        let scores = |logits: &Vec<f32>| {
            let usable = logits.len() == labels && logits.iter().all(|logit| logit.is_finite());
            if usable { Ok(function.apply(logits)) } else { Err(self.unusable(logits)) }
        };
        self.logits.iter().map(scores).collect()
    }

    fn function(&self, asked: Option<Function>) -> Function {
        asked.unwrap_or_else(|| Function::of(self.pin.adapter()))
    }

    /// The error for logits that are not one finite number for each label.
    fn unusable(&self, logits: &[f32]) -> ApiError {
        let (name, labels) = (self.pin.name(), self.pin.adapter().info.labels.len());
        if logits.len() == labels {
            // Either the adapter's weights are finite but too large for this base, or the base's own weights are not finite.
            ApiError::Unprocessable(format!("adapter {name:?} on this base gives logits that are not finite"))
        } else {
            ApiError::Internal(format!("adapter {name:?} of {labels} labels gave the logits {logits:?}"))
        }
    }
}

/// Answers of more logits are made on a thread for blocking work, so that other requests do not wait for it.
const LARGE: usize = 4096;

/// The answer whose JSON `write` makes of `outcome`, with the headers that describe it. Each adapter counts the request as answered.
///
/// # Errors
/// Those of `write`, and where answers that clients have not read yet leave no room for this one.
pub(super) async fn respond(
    app: &Arc<App>,
    outcome: RequestLogits,
    write: impl FnOnce(&RequestLogits) -> Result<Vec<u8>, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let large = outcome.logits() > LARGE;
    let written = move || write(&outcome).map(|bytes| (outcome, bytes));
    let (outcome, bytes) = if large { blocking(written).await?? } else { written()? };
    let body = answer_body::body(app, bytes)?;
    Ok(described(&outcome, body))
}

fn described(outcome: &RequestLogits, body: Body) -> Response {
    for adapter in &outcome.adapters {
        adapter.pin.count_request();
    }
    let mut response = Response::new(body);
    response.extensions_mut().insert(Measured { tokens: outcome.tokens, times: outcome.times });
    let milliseconds = |time: std::time::Duration| HeaderValue::from(time.as_millis() as u64);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(TRUNCATED, HeaderValue::from(outcome.truncated));
    headers.insert(TOKENS, HeaderValue::from(outcome.tokens));
    headers.insert(TOKENIZATION, milliseconds(outcome.times.tokenization));
    headers.insert(QUEUE, milliseconds(outcome.times.queue));
    headers.insert(INFERENCE, milliseconds(outcome.times.inference));
    if let Ok(generations) = HeaderValue::try_from(generations(&outcome.adapters)) {
        headers.insert(GENERATION, generations);
    }
    response
}

/// Characters of an adapter's name that are percent-encoded in a header: those that a header cannot carry or that separate names.
const IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b',').add(b'=').add(b'%');

fn generations(adapters: &[AdapterLogits]) -> String {
    if let [adapter] = adapters {
        return adapter.pin.generation().to_string();
    }
    let named = |adapter: &AdapterLogits| {
        format!("{}={}", utf8_percent_encode(adapter.pin.name(), IN_HEADER), adapter.pin.generation())
    };
    adapters.iter().map(named).collect::<Vec<_>>().join(",")
}
