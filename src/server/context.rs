//! What every request has: an id, a span for its logs, and a line in the access log if that is on.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::app::App;
use super::classify::Measured;

/// The id of a request. A client may choose it.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Milliseconds from the request's head to its answer.
pub(super) const TOTAL_TIME: HeaderName = HeaderName::from_static("x-total-time");

/// The longest id that is accepted from a client.
const LONGEST_ID: usize = 128;

/// The id of a request: visible ASCII characters, at most [`LONGEST_ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    /// The client's id if it is acceptable, else a random one.
    fn of(headers: &HeaderMap) -> Self {
        let acceptable =
            |id: &&str| (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(acceptable);
        Self(given.map_or_else(|| format!("{:032x}", fastrand::u128(..)).into(), Arc::from))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(id: &[u8]) -> RequestId {
        RequestId::of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(id).unwrap())]))
    }

    #[test]
    fn acceptable_ids_are_kept_and_others_replaced() {
        let longest = "x".repeat(LONGEST_ID);
        for id in ["a", "3f2a-77!~", &longest] {
            assert_eq!(&*of(id.as_bytes()).0, id);
        }
        for id in [&b""[..], b"a b", b"\xe9", b"a\tb", format!("{longest}x").as_bytes()] {
            let made = of(id);
            assert!(made.0.len() == 32 && made.0.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
    }
}
