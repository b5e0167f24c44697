//! Requests that arrive after the shutdown has begun.

use axum::body::Body;
use axum::http::{Request, Response};
use axum::middleware::Next;

use super::error::ApiError;

/// Marks a request that arrived after the shutdown had begun.
#[derive(Clone, Copy)]
pub(super) struct Late;

/// Refuses late requests, except those that only look: probes, metrics and people still want to see the server.
pub(super) async fn refuse_late(request: Request<Body>, next: Next) -> Result<Response<Body>, ApiError> {
    let late = request.extensions().get::<Late>().is_some();
    if late && !request.method().is_safe() { Err(ApiError::Draining) } else { Ok(next.run(request).await) }
}
