//! Bodies of answers, of which large ones take a permit for memory until their clients have read them.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use hyper::body::Bytes;
use serde::Serialize;

use super::app::App;
use super::bodies::MemoryPermit;
use super::error::ApiError;

/// Answers of more bytes take a permit.
const LARGE: usize = 64 * 1024;

/// An answer in memory, and its permit.
struct LargeAnswer {
    bytes: Vec<u8>,
    _permit: MemoryPermit,
}

impl AsRef<[u8]> for LargeAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer.
///
/// # Errors
/// Answers that clients have not read yet leave no room for it.
pub(super) fn body(app: &App, bytes: Vec<u8>) -> Result<Body, ApiError> {
    if bytes.len() <= LARGE {
        return Ok(Body::from(bytes));
    }
    // The bytes are dropped once they are written to the connection.
    let _permit = app.answers().permit(bytes.len())?;
    Ok(Body::from(Bytes::from_owner(LargeAnswer { bytes, _permit })))
}

/// `value` as bytes of JSON.
///
/// # Errors
/// It cannot be written.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|error| ApiError::Internal(format!("the answer cannot be written: {error}")))
}

/// An answer of JSON.
///
/// # Errors
/// As [`body`] and [`json`].
pub(super) fn answer(app: &App, value: &impl Serialize) -> Result<Response, ApiError> {
    let mut response = Response::new(body(app, json(value)?)?);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
