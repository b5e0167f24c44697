//! The layer that takes room for a request's body before the body is read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};

use super::app::App;
use super::bodies::Room;
use super::body;
use super::error::ApiError;

/// Takes room for the request's body, or refuses the request at once.
pub(super) async fn take_room(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let limit = app.config().payload_limit;
    let (mut head, body) = request.into_parts();
    let size = HttpBody::size_hint(&body);
    // What exceeds the limit is never kept.
    let known = size.exact().map(|bytes| usize::try_from(bytes).unwrap_or(limit).min(limit));
    let room = match app.bodies().room(known.unwrap_or(0)) {
        Ok(room) => Arc::new(room),
        Err(full) => {
            // The client may read the answer only after it has sent the whole body, unless it waits to be asked for it.
            if !head.headers.contains_key(EXPECT) {
                tokio::spawn(tokio::time::timeout(app.config().request_timeout, body::discard(body, limit)));
            }
            return Err(full.into());
        }
    };
    let body = match known {
        Some(_) => body,
        None => Body::new(Counted { body, room: Arc::clone(&room), received: 0, limit, refused: false }),
    };
    // A body that grows when it is unpacked takes more room.
    head.extensions.insert(Arc::clone(&room));
    let answer = next.run(Request::from_parts(head, body)).await;
    drop(room);
    Ok(answer)
}

/// A body of unknown length, which takes room as it arrives.
struct Counted {
    body: Body,
    room: Arc<Room>,
    received: usize,
    limit: usize,
    /// Whether there was no room for it. The rest of it is not kept, and takes none.
    refused: bool,
}

impl HttpBody for Counted {
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
            if let Err(full) = self.room.grow_to(self.received.min(self.limit).saturating_mul(2)) {
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
