//! What several routes share: reading the path, and moving blocking work off the asynchronous threads.

use std::num::NonZero;
use std::thread;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use tokio::task::spawn_blocking;

use super::error::ApiError;

/// The variable end of a route's path: an adapter's name, which may contain slashes.
pub(super) fn path(name: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    match name {
        Ok(Path(name)) => Ok(name),
        Err(rejection) => Err(ApiError::BadRequest(rejection.body_text())),
    }
}

/// The number of threads for blocking work that large texts may keep busy: one for each core.
pub(super) fn threads_for_large_texts() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The number of threads for blocking work that the runtime of [`super::serve`] should have. Requests only tokenize, unpack and write
/// JSON there, which keeps a core busy. Large texts take seconds, and leave one of the threads to all else.
#[must_use]
pub fn blocking_threads() -> usize {
    threads_for_large_texts() + 1
}

/// Runs `work`, which would hold up other requests, on a thread for blocking work. Its logs belong to the request.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let span = tracing::Span::current();
    spawn_blocking(move || span.in_scope(work)).await.map_err(|error| ApiError::Internal(error.to_string()))
}
