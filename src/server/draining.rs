//! Requests that arrive after the shutdown has begun.

use axum::body::Body;
use axum::http::{Request, Response};
use axum::middleware::Next;

use super::error::ApiError;

/// Marks a request that arrived after the shutdown had begun.
#[derive(Clone, Copy)]
pub(super) struct WhileDraining;

/// Refuses late requests, except those that only look: probes, metrics and people still want to see the server.
pub(super) async fn refuse_while_draining(request: Request<Body>, next: Next) -> Result<Response<Body>, ApiError> {
    let is_late = request.extensions().get::<WhileDraining>().is_some();
    if is_late && !request.method().is_safe() { Err(ApiError::Draining) } else { Ok(next.run(request).await) }
}
