//! Answers before the base is open.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;

/// The answer to a request for `path`: the process runs, but is not ready.
pub(super) fn answer(path: &str) -> Response {
    // Slashes at the end do not count, as once the base is open.
    match path.trim_end_matches('/') {
        "/health" | "/v2/health/live" => Json(json!({ "status": "starting" })).into_response(),
        _ => ApiError::Starting.into_response(),
    }
}
