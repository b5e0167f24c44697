//! Reading a request's body within its limit.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody};

use super::bodies::NoRoom;
use super::error::ApiError;
use crate::logging::causes;

/// A body that is larger than the limit, but at most this many times as large, is read to its end and thrown away. A client whose
/// connection is closed while it still writes often does not read the answer.
const DISCARD: usize = 16;

/// The whole body, at most `limit` bytes, whatever its content type.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let size = body.size_hint();
    // Such a body would not be read to its end, so that reading a part of it would not help the client.
    if size.lower() > (limit as u64).saturating_mul(DISCARD as u64) {
        return Err(ApiError::PayloadTooLarge { limit });
    }
    // A vector that grows would take more memory than the body.
    let known = size.exact().and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes <= limit);
    let mut bytes = Vec::with_capacity(known.unwrap_or(0));
    let (mut total, mut refused) = (0usize, None);
    while let Some(data) = next(&mut body).await {
        let data = match data {
            Ok(data) => data,
            Err(error) => match causes(&error).find_map(|cause| cause.downcast_ref::<NoRoom>()) {
                Some(full) => {
                    bytes = Vec::new();
                    refused = Some(*full);
                    continue;
                }
                None => return Err(ApiError::BadRequest(format!("reading the body: {error}"))),
            },
        };
        total = total.saturating_add(data.len());
        if total > limit {
            bytes = Vec::new();
        } else if refused.is_none() {
            bytes.extend_from_slice(&data);
        }
        if total > limit.saturating_mul(DISCARD) {
            break;
        }
    }
    match refused {
        Some(full) => Err(full.into()),
        None if total > limit => Err(ApiError::PayloadTooLarge { limit }),
        None => Ok(bytes),
    }
}

/// Reads a body to its end and throws it away, for the same reason, up to the same size.
pub(super) async fn discard(mut body: Body, limit: usize) {
    let mut total = 0usize;
    while let Some(Ok(data)) = next(&mut body).await {
        total = total.saturating_add(data.len());
        if total > limit.saturating_mul(DISCARD) {
            return;
        }
    }
}

/// The next bytes of the body; trailers are none.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
