//! The body of a request, as its handler gets it, also where the client has compressed it with gzip. `--payload-limit` applies to the
//! compressed body and to the body that it contains, so that a small body cannot expand without bound.

use std::io::Read;
use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_ENCODING;
use flate2::read::MultiGzDecoder;

use super::app::App;
use super::bodies::MemoryPermit;
use super::body;
use super::error::ApiError;
use super::extract::blocking;

/// The whole body of a request, unpacked. Only routes with a body read one, so that a client without a key cannot make the server wait
/// for one.
pub(super) struct Content {
    bytes: Vec<u8>,
    /// The permit for the bytes, which they have until they are parsed, whatever becomes of their request.
    permit: Option<Arc<MemoryPermit>>,
    /// The maximum number of texts of a request.
    most_texts: usize,
}

impl FromRequest<Arc<App>> for Content {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (limit, most_texts) = (app.config().payload_limit, app.config().max_client_batch_size);
        let is_gzip = is_gzip(&request)?;
        let permit = request.extensions().get::<Arc<MemoryPermit>>().cloned();
        let bytes = body::read(request.into_body(), app.config()).await?;
        if !is_gzip {
            return Ok(Self { bytes, permit, most_texts });
        }
        blocking(move || {
            let bytes = unpack(&bytes, limit, permit.as_deref())?;
            Ok(Self { bytes, permit, most_texts })
        })
        .await?
    }
}

/// A body of more bytes takes so long to parse that other requests would wait for it.
const LARGE: usize = 64 * 1024;

impl Content {
    /// Parses the body: a small one at once, a large one on a thread for blocking work. The error for a list that is longer than any
    /// server allows names this server's limit.
    pub(super) async fn parse<T: Send + 'static>(
        self,
        parse: impl FnOnce(&[u8]) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Self { bytes, permit, most_texts } = self;
        let parse = move |bytes: &[u8]| parse(bytes).map_err(|error| error.with_limit(most_texts));
        if bytes.len() <= LARGE {
            return parse(&bytes);
        }
        blocking(move || {
            // The thread that parses holds the permit, because it continues after its request has timed out.
            let _permit = permit;
            parse(&bytes)
        })
        .await?
    }
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

/// How many bytes are unpacked before the permit for them is extended.
const PIECE: u64 = 64 * 1024;

/// Unpacks at most `limit` bytes, which the permit then covers beside the packed ones.
fn unpack(packed: &[u8], limit: usize, permit: Option<&MemoryPermit>) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut decoder = MultiGzDecoder::new(packed);
    loop {
        let read = decoder.by_ref().take(PIECE).read_to_end(&mut bytes);
        if bytes.len() > limit {
            return Err(ApiError::PayloadTooLarge { limit });
        }
        if let Some(permit) = permit {
            permit.grow_to(packed.len() + bytes.capacity())?;
        }
        if read.map_err(|error| ApiError::BadRequest(format!("the body is not gzip: {error}")))? == 0 {
            return Ok(bytes);
        }
    }
}
