//! The routes that classify texts. Each reads a shape, runs the request, and answers in that shape.
//!
//! | file | idea |
//! | --- | --- |
//! | `request` | what a request asks, whatever its shape was |
//! | `run` | the one way from a checked request to logits |
//! | `host_label` | the adapter's name in a request's host |
//! | `implied` | the adapter of a request that names none |
//! | `answer` | makes labels, scores and headers of logits |
//! | `json` | reads JSON strictly |
//! | `shapes/` | the shapes that clients speak, one a file |

mod answer;
mod host_label;
mod implied;
pub(super) mod json;
pub(super) mod list;
mod request;
mod run;
pub(super) mod shapes;

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

pub(super) use self::answer::{GENERATION, INFERENCE, Predictions, QUEUE, TOKENIZATION, TOKENS, TRUNCATED};
use self::host_label::HostLabel;
use self::request::{Adapters, ClassifyRequest};
use self::run::{RequestLogits, run};
use self::shapes::Shape;
use self::shapes::polyrank::{self, ByAdapter};
use self::shapes::{router, tei, vllm};
use super::answer_body;
use super::app::App;
use super::content::Content;
use super::deadline::Deadline;
use super::error::{ApiError, Errors};
use super::extract::path;
use super::request_id::RequestId;
use crate::engine::score::Scored;

/// Reads a body in every shape.
#[cfg(any(test, fuzzing))]
pub(super) fn parse(body: &[u8]) {
    let (named, host) = (|| Adapters::Named(vec!["a".into()]), || HostLabel(None));
    let _ = (Shape::of(body), polyrank::parse(body, "a".into()), polyrank::parse_several(body));
    let _ = (router::parse(body, host()), tei::parse(body, named()), vllm::parse(body, host()));
}

/// Classifies texts with one adapter
///
/// The answer has a list of labels for each text, best first, also where `inputs` is a single text.
#[utoipa::path(
    post, path = "/classify/{adapter}", tag = "classify", params(("adapter" = String, Path, description = "The adapter's name")),
    request_body = polyrank::Body, responses((status = 200, description = "Labels of each text", body = Vec<Vec<Scored>>), Errors)
)]
pub(super) async fn classify(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    name: Result<Path<String>, PathRejection>,
    body: Content,
) -> Result<Response, ApiError> {
    let name = path(name)?;
    let request = body.parse(|body| polyrank::parse(body, name)).await?;
    let scoring = request.scoring;
    let outcome = run(&app, request, deadline).await?;
    answer::respond(&app, outcome, move |outcome| answer_body::json(&outcome.only().ranked(scoring)?)).await
}

/// Classifies texts with several adapters, with the default adapter, or in vLLM's shape
///
/// With `adapters`, the answer maps each adapter to its list of labels for each text. With `inputs` alone, the adapter is the one that
/// the first label of the `Host` names, or the server's default adapter; a single text gets the flat list of its labels. With `model`
/// and `input`, request and answer have vLLM's shape.
#[utoipa::path(
    post, path = "/classify", tag = "classify", request_body = AnyBody,
    responses((status = 200, description = "Labels, in the shape of the request", body = AnyAnswer), Errors)
)]
pub(super) async fn bare(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    Extension(id): Extension<RequestId>,
    host: HostLabel,
    body: Content,
) -> Result<Response, ApiError> {
    match body.parse(|body| Bare::parse(body, host)).await? {
        Bare::Several(request) => {
            let scoring = request.scoring;
            let outcome = run(&app, request, deadline).await?;
            answer::respond(&app, outcome, move |outcome| answer_body::json(&ByAdapter::new(outcome, scoring)?)).await
        }
        Bare::Router(request) => predictions(&app, request, deadline).await,
        Bare::Vllm(request) => vllm_answer(&app, request, deadline, &id).await,
    }
}

/// The parsed body of `POST /classify`, by its shape.
enum Bare {
    Several(ClassifyRequest),
    Router(ClassifyRequest),
    Vllm(ClassifyRequest),
}

impl Bare {
    fn parse(body: &[u8], host: HostLabel) -> Result<Self, ApiError> {
        Ok(match Shape::of(body)? {
            Shape::Several => Self::Several(polyrank::parse_several(body)?),
            Shape::Router => Self::Router(router::parse(body, host)?),
            Shape::Vllm => Self::Vllm(vllm::parse(body, host)?),
        })
    }
}

/// Classifies texts in vLLM's shape
#[utoipa::path(
    post, path = "/v1/classify", tag = "other shapes", request_body = vllm::Body,
    responses((status = 200, description = "The scores of each text", body = vllm::Answer), Errors)
)]
pub(super) async fn v1(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    Extension(id): Extension<RequestId>,
    host: HostLabel,
    body: Content,
) -> Result<Response, ApiError> {
    let request = body.parse(|body| vllm::parse(body, host)).await?;
    vllm_answer(&app, request, deadline, &id).await
}

/// Classifies texts in the shape of text-embeddings-inference
///
/// A list of two strings is a pair, and a batch is a list of lists. A single text or pair gets the flat list of its labels.
#[utoipa::path(
    post, path = "/predict/{adapter}", tag = "other shapes", params(("adapter" = String, Path, description = "The adapter's name")),
    request_body = tei::Body, responses((status = 200, description = "Labels, best first", body = Predictions), Errors)
)]
pub(super) async fn predict(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    name: Result<Path<String>, PathRejection>,
    body: Content,
) -> Result<Response, ApiError> {
    let adapters = Adapters::Named(vec![path(name)?]);
    let request = body.parse(|body| tei::parse(body, adapters)).await?;
    predictions(&app, request, deadline).await
}

/// Classifies texts in the shape of text-embeddings-inference, with the adapter of the host or the default adapter
///
/// The body names no adapter: it is the one that the first label of the `Host` names, or the server's default adapter. Without either,
/// use `/predict/{adapter}`.
#[utoipa::path(
    post, path = "/predict", tag = "other shapes", request_body = tei::Body,
    responses((status = 200, description = "Labels, best first", body = Predictions), Errors)
)]
pub(super) async fn bare_predict(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    host: HostLabel,
    body: Content,
) -> Result<Response, ApiError> {
    let adapters = Adapters::Implied { host: host.0 };
    let request = body.parse(|body| tei::parse(body, adapters)).await?;
    predictions(&app, request, deadline).await
}

/// Runs a request for one adapter.
async fn predictions(app: &Arc<App>, request: ClassifyRequest, deadline: Deadline) -> Result<Response, ApiError> {
    let (scoring, form) = (request.scoring, request.form);
    let outcome = run(app, request, deadline).await?;
    let write =
        move |outcome: &RequestLogits| answer_body::json(&Predictions::new(outcome.only().ranked(scoring)?, form));
    answer::respond(app, outcome, write).await
}

async fn vllm_answer(
    app: &Arc<App>,
    request: ClassifyRequest,
    deadline: Deadline,
    id: &RequestId,
) -> Result<Response, ApiError> {
    let scoring = request.scoring;
    let outcome = run(app, request, deadline).await?;
    let id = id.clone();
    answer::respond(app, outcome, move |outcome| answer_body::json(&vllm::Answer::new(outcome, scoring, &id)?)).await
}

/// The bodies of `POST /classify`.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes the bodies, which `Shape::of` tells apart")]
pub(super) enum AnyBody {
    /// `inputs`, with or without `adapters`.
    Inputs(polyrank::Body),
    /// vLLM's shape.
    Vllm(vllm::Body),
}

/// The answers of `POST /classify`.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes the answers")]
pub(super) enum AnyAnswer {
    /// With `adapters`: the labels of each text by adapter.
    ByAdapter(std::collections::HashMap<String, Vec<Vec<Scored>>>),
    /// With `inputs` alone.
    Predictions(Predictions),
    /// With `input`: vLLM's shape.
    Vllm(vllm::Answer),
}
