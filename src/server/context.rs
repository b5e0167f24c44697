//! What every request has: an id, a span for its logs, and a line in the access log if that is on.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::app::App;
use super::request_id::{REQUEST_ID, RequestId};
use super::times::Measured;

/// Milliseconds from the request's head to its answer.
pub(super) const TOTAL_TIME: HeaderName = HeaderName::from_static("x-total-time");

/// Gives a request its id and its span, and its answer the id and the time that it took.
pub(super) async fn attach(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = RequestId::of(request.headers());
    let span = tracing::info_span!("request", %id, method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(id.clone());
    #[cfg(feature = "otlp")]
    let traced = app.traces().map(|traces| traces.began(&request));
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = begun.elapsed();
    let (status, measured) = (response.status().as_u16(), response.extensions().get::<Measured>().copied());
    if app.config().access_log {
        let (tokens, ms) = (measured.map_or(0, |measured| measured.tokens), took.as_secs_f64() * 1e3);
        span.in_scope(|| tracing::info!(status, ms, tokens, "answered"));
    }
    #[cfg(feature = "otlp")]
    if let Some(traced) = traced {
        traced.answered(&id, status, took, measured);
    }
    let headers = response.headers_mut();
    headers.insert(TOTAL_TIME, HeaderValue::from(took.as_millis() as u64));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    response
}
