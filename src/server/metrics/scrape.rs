//! `GET /metrics`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};

use super::exposition::Format;
use super::sources::Snapshot;
use crate::server::answer_body;
use crate::server::app::App;
use crate::server::error::{ApiError, ErrorBody};

/// What the server measures
///
/// OpenMetrics for a client that accepts it, else Prometheus's text format 0.0.4.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses(
        (status = 200, description = "The metrics", body = String, content_type = "text/plain"),
        (status = 401, description = "The API key is missing or wrong", body = ErrorBody),
        (status = 429, description = "Too many answers have not been read", body = ErrorBody),
        (status = 503, description = "The base is not open yet", body = ErrorBody)
    )
)]
pub(in crate::server) async fn metrics(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<([(HeaderName, &'static str); 1], Body), ApiError> {
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::for_accept(accepts);
    let snapshot = Snapshot::of(&app);
    let text = app.metrics().exposition(snapshot, format).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(([(CONTENT_TYPE, format.content_type())], answer_body::body(&app, text.into_bytes())?))
}
