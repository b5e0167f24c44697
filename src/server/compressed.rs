//! Bodies that the client has compressed with gzip. `--payload-limit` applies to the compressed body and to the body that it contains,
//! so that a small body cannot expand without bound.

use std::io::Read;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::middleware::Next;
use axum::response::Response;
use flate2::read::MultiGzDecoder;

use super::app::App;
use super::bodies::Room;
use super::body;
use super::error::ApiError;
use super::extract::blocking;

/// Replaces a compressed body by the body that it contains.
pub(super) async fn inflate(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    if !is_gzip(&request)? {
        return Ok(next.run(request).await);
    }
    let limit = app.config().payload_limit;
    let (mut parts, body) = request.into_parts();
    let packed = body::read(body, limit).await?;
    let room = parts.extensions.get::<Arc<Room>>().cloned();
    let bytes = blocking(move || unpack(&packed, limit, room.as_deref())).await??;
    parts.headers.remove(CONTENT_ENCODING);
    parts.headers.remove(CONTENT_LENGTH);
    Ok(next.run(Request::from_parts(parts, Body::from(bytes))).await)
}

/// Whether the body is compressed with gzip.
///
/// # Errors
/// The body has another encoding, or several.
fn is_gzip(request: &Request) -> Result<bool, ApiError> {
    let mut encodings = request.headers().get_all(CONTENT_ENCODING).iter();
    let (Some(encoding), None) = (encodings.next(), encodings.next()) else {
        let several = request.headers().contains_key(CONTENT_ENCODING);
        return if several { Err(ApiError::UnsupportedEncoding("several encodings".into())) } else { Ok(false) };
    };
    match encoding.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Ok(false),
        b"gzip" | b"x-gzip" => Ok(true),
        _ => Err(ApiError::UnsupportedEncoding(format!("{encoding:?}"))),
    }
}

/// How many bytes are unpacked before more room is taken for them.
const PIECE: u64 = 64 * 1024;

/// Unpacks at most `limit` bytes, and takes room for them beside that of the packed ones.
fn unpack(packed: &[u8], limit: usize, room: Option<&Room>) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut decoder = MultiGzDecoder::new(packed);
    loop {
        let read = decoder.by_ref().take(PIECE).read_to_end(&mut bytes);
        if bytes.len() > limit {
            return Err(ApiError::PayloadTooLarge { limit });
        }
        if let Some(room) = room {
            room.grow_to(packed.len() + bytes.capacity())?;
        }
        if read.map_err(|error| ApiError::BadRequest(format!("the body is not gzip: {error}")))? == 0 {
            return Ok(bytes);
        }
    }
}
