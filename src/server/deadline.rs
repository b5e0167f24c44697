//! By when a request must be answered: `--request-timeout`, or the client's own `x-request-timeout-ms` if that is shorter.
//!
//! This layer is our own, of a few lines. That of `tower-http` answers without our JSON body.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::Response;

use super::app::App;
use super::error::ApiError;

/// How many milliseconds the client waits for its answer.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// The time by which the client wants its answer, if it said so. The scheduler has `--request-timeout` itself, and is more lenient
/// with it: it accepts a large request on an idle server although the measured speed is too low.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Option<Instant>);

/// Answers a request with an error once its deadline has passed.
pub(super) async fn enforce(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let asked = asked(request.headers())?.filter(|asked| *asked < app.config().request_timeout);
    let limit = asked.unwrap_or(app.config().request_timeout);
    request.extensions_mut().insert(Deadline(asked.and_then(|asked| Instant::now().checked_add(asked))));
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| ApiError::TimedOut(limit))
}

/// The client's own time-out.
fn asked(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|&number: &u64| number > 0);
    let milliseconds = number.ok_or_else(|| {
        ApiError::BadRequest(format!("{TIMEOUT}: expected a whole number of milliseconds above 0, found {value:?}"))
    })?;
    Ok(Some(Duration::from_millis(milliseconds)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn timeouts_are_whole_milliseconds_above_zero() {
        let of = |text: &str| asked(&HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_str(text).unwrap())]));
        assert_eq!(asked(&HeaderMap::new()).unwrap(), None);
        assert_eq!(of("250").unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(of("18446744073709551615").unwrap(), Some(Duration::from_millis(u64::MAX)));
        for wrong in ["", "0", "-1", "1.5", "1s", "1e3", "18446744073709551616"] {
            let error = of(wrong).unwrap_err();
            assert_eq!(error.status().0.as_u16(), 400, "{wrong:?}");
            assert!(error.to_string().contains("x-request-timeout-ms"), "{error}");
        }
    }
}
