//! Reading a request's body within its limit.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, HttpBody};

use super::error::ApiError;

/// A body that is larger than the limit, but at most this many times as large, is read to its end and thrown away. A client whose
/// connection is closed while it still writes often does not read the answer.
const DISCARD: usize = 16;

/// The whole body, at most `limit` bytes, whatever its content type.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    // Such a body would not be read to its end, so that reading a part of it would not help the client.
    if body.size_hint().lower() > (limit as u64).saturating_mul(DISCARD as u64) {
        return Err(ApiError::PayloadTooLarge { limit });
    }
    let mut bytes = Vec::new();
    let mut total = 0usize;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| ApiError::BadRequest(format!("reading the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total > limit {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&data);
        }
        if total > limit.saturating_mul(DISCARD) {
            break;
        }
    }
    if total > limit { Err(ApiError::PayloadTooLarge { limit }) } else { Ok(bytes) }
}
