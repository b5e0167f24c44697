//! The check of the API key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use super::app::App;
use super::error::ApiError;

/// Rejects a request without the API key, if the server has one. `/health` and `/ready` need no key, because probes carry none,
/// and the page at `/` asks for it.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let open = matches!(request.uri().path(), "/" | "/health" | "/ready");
    match &app.config().api_key {
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
