//! The layer that takes a permit for the memory of a request's body. A large body has its permit before it is read. Otherwise,
//! many bodies that are half read could fill the memory, and none could be completed. Small bodies have memory of their own, where they are
//! counted as they arrive, so that clients that announce large bodies, and send nothing, hold up none of them. Tiny bodies need none: they are no
//! larger than what a connection may have read anyway, and clients that send small bodies slowly do not hold them up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_ENCODING;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};

use super::app::App;
use super::bodies::MemoryPermit;
use super::error::ApiError;

/// A body of at most this many bytes is small, unless it is compressed.
const SMALL: usize = 64 * 1024;
/// A small body of at most this many bytes is tiny.
const TINY: usize = 16 * 1024;

/// Takes a permit for the request's body, or refuses the request at once.
pub(super) async fn take_permit(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let limit = app.config().payload_limit;
    let (mut head, body) = request.into_parts();
    let size = HttpBody::size_hint(&body);
    // What exceeds the limit is never kept.
    let known = size.exact().map(|bytes| usize::try_from(bytes).unwrap_or(limit).min(limit));
    let is_small = known.is_some_and(|known| known <= SMALL) && !head.headers.contains_key(CONTENT_ENCODING);
    // A body that is too large gets its 413 also while there is no memory: to try again later would not help.
    let is_too_large = size.lower() > limit as u64;
    let bodies = if is_small { app.small_bodies() } else { app.bodies() };
    let permit = Arc::new(bodies.permit(if is_small || is_too_large { 0 } else { known.unwrap_or(0) })?);
    let body = match known {
        Some(known) if !is_small || known <= TINY => body,
        _ => {
            let most = known.unwrap_or(limit.saturating_mul(2));
            Body::new(CountedBody { body, permit: Arc::clone(&permit), received: 0, most, refused: false })
        }
    };
    // The permit of a body that grows when it is unpacked grows, too.
    head.extensions.insert(Arc::clone(&permit));
    let answer = next.run(Request::from_parts(head, body)).await;
    drop(permit);
    Ok(answer)
}

/// A small body, or one of unknown length, which is counted as it arrives.
struct CountedBody {
    body: Body,
    permit: Arc<MemoryPermit>,
    received: usize,
    /// The most memory that it takes.
    most: usize,
    /// Whether there was no memory for it. The rest of it is not kept, and takes none.
    refused: bool,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if !self.refused
            && let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref)
        {
            self.received = self.received.saturating_add(data.len());
            // A vector that grows has up to twice the capacity that it needs.
            if let Err(full) = self.permit.grow_to(self.received.saturating_mul(2).min(self.most)) {
                self.refused = true;
                return Poll::Ready(Some(Err(axum::Error::new(full))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
