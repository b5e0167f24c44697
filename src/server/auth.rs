//! The check of the API key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use super::app::App;
use super::error::ApiError;

/// The paths that need no key: probes carry none, the documentation is the same for every server, and the page at `/` asks for the key.
const OPEN: [&str; 7] =
    ["/", "/health", "/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/api-doc/openapi.json"];

/// Rejects a request without the API key, if the server has one.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let open = OPEN.contains(&request.uri().path());
    match app.config().key() {
        Some(key) if !open && !bearer(&request).is_some_and(|token| key.is(token)) => Err(ApiError::Unauthorized),
        _ => Ok(next.run(request).await),
    }
}

/// The token of `Authorization: Bearer <token>`. The scheme's name may be in upper or lower case.
fn bearer(request: &Request) -> Option<&[u8]> {
    let value = request.headers().get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}
