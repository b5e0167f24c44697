//! What several routes do first: read the path, and leave the asynchronous threads for work that blocks.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use tokio::task::spawn_blocking;

use super::error::ApiError;

/// The adapter's name at the end of a path; it may hold a slash.
pub(super) fn path(name: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    match name {
        Ok(Path(name)) => Ok(name),
        Err(rejection) => Err(ApiError::BadRequest(rejection.body_text())),
    }
}

/// Runs blocking work on a thread of its own, so that it does not delay other requests.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    spawn_blocking(work).await.map_err(|error| ApiError::Internal(error.to_string()))
}
