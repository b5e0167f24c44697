//! Reading a request's body within its limit.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody};

use super::bodies::NoPermit;
use super::config::Config;
use super::error::ApiError;
use crate::logging::causes;

/// The whole body, at most `--payload-limit` bytes, whatever its content type.
pub(super) async fn read(mut body: Body, config: &Config) -> Result<Vec<u8>, ApiError> {
    let (size, limit) = (body.size_hint(), config.payload_limit);
    if size.lower() > limit as u64 {
        return Err(ApiError::PayloadTooLarge { limit });
    }
    let known = size.exact().and_then(|bytes| usize::try_from(bytes).ok());
    let mut bytes = Vec::new();
    while let Some(data) = next(&mut body).await {
        let data = match data {
            Ok(data) => data,
            Err(error) => match causes(&error).find_map(|cause| cause.downcast_ref::<NoPermit>()) {
                Some(full) => return Err((*full).into()),
                None => return Err(ApiError::BadRequest(format!("reading the body: {error}"))),
            },
        };
        if bytes.len().saturating_add(data.len()) > limit {
            return Err(ApiError::PayloadTooLarge { limit });
        }
        extend(&mut bytes, &data, known);
    }
    Ok(bytes)
}

/// Adds `data`. The capacity at most doubles, as its permit does, and does not exceed the `known` size.
fn extend(bytes: &mut Vec<u8>, data: &[u8], known: Option<usize>) {
    let needed = bytes.len() + data.len();
    if needed > bytes.capacity() {
        let wanted = (2 * bytes.capacity()).min(known.unwrap_or(usize::MAX)).max(needed);
        bytes.reserve_exact(wanted - bytes.len());
    }
    bytes.extend_from_slice(data);
}

/// The next bytes of the body; trailers are none.
pub(super) async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
