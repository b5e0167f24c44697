//! Reading a request's body within its limit.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody};

use super::bodies::NoRoom;
use super::config::Config;
use super::error::ApiError;
use crate::logging::causes;

/// A body that is larger than the limit, but at most this many times as large, is read to its end and thrown away. A client whose
/// connection is closed while it still writes often does not read the answer.
const DISCARD: usize = 16;

/// The whole body, at most `--payload-limit` bytes, whatever its content type.
pub(super) async fn read(mut body: Body, config: &Config) -> Result<Vec<u8>, ApiError> {
    let (size, limit) = (body.size_hint(), config.payload_limit);
    // Such a body would not be read to its end, so that reading a part of it would not help the client.
    if size.lower() > (limit as u64).saturating_mul(DISCARD as u64) {
        return Err(ApiError::PayloadTooLarge { limit });
    }
    let known = size.exact().and_then(|bytes| usize::try_from(bytes).ok());
    let mut bytes = Vec::new();
    let mut total = 0usize;
    while let Some(data) = next(&mut body).await {
        let data = match data {
            Ok(data) => data,
            Err(error) => match causes(&error).find_map(|cause| cause.downcast_ref::<NoRoom>()) {
                Some(full) => {
                    let full = *full;
                    discard_later(body, config);
                    return Err(full.into());
                }
                None => return Err(ApiError::BadRequest(format!("reading the body: {error}"))),
            },
        };
        total = total.saturating_add(data.len());
        if total > limit {
            bytes = Vec::new();
        } else {
            extend(&mut bytes, &data, known);
        }
        if total > limit.saturating_mul(DISCARD) {
            break;
        }
    }
    if total > limit { Err(ApiError::PayloadTooLarge { limit }) } else { Ok(bytes) }
}

/// Adds `data`. The capacity at most doubles, as the body's room does, and does not exceed the `known` size.
fn extend(bytes: &mut Vec<u8>, data: &[u8], known: Option<usize>) {
    let needed = bytes.len() + data.len();
    if needed > bytes.capacity() {
        let wanted = (2 * bytes.capacity()).min(known.unwrap_or(usize::MAX)).max(needed);
        bytes.reserve_exact(wanted - bytes.len());
    }
    bytes.extend_from_slice(data);
}

/// Reads a body to its end and throws it away, for the same reason, up to the same size, while its request is answered.
pub(super) fn discard_later(mut body: Body, config: &Config) {
    let limit = config.payload_limit.saturating_mul(DISCARD);
    let discard = async move {
        let mut total = 0usize;
        while let Some(Ok(data)) = next(&mut body).await {
            total = total.saturating_add(data.len());
            if total > limit {
                return;
            }
        }
    };
    tokio::spawn(tokio::time::timeout(config.request_timeout, discard));
}

/// The next bytes of the body; trailers are none.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
