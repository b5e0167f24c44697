//! Limits the memory for the bodies of all requests together (`--body-memory`). Room for a body is taken before the body is read, and
//! is given back once its request is answered, because until then its texts are in memory as well.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};

use super::app::App;
use super::body;
use super::error::{ApiError, RETRY_SOON};

/// The memory for bodies.
pub(super) struct Bodies {
    limit: usize,
    taken: AtomicUsize,
}

/// There is no room for another body, or for more of this one.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the bodies of other requests take {taken} bytes; {wanted} more would exceed {limit}")]
pub(super) struct NoRoom {
    taken: usize,
    wanted: usize,
    limit: usize,
}

impl From<NoRoom> for ApiError {
    fn from(full: NoRoom) -> Self {
        Self::Overloaded { reason: full.to_string(), retry_after: RETRY_SOON }
    }
}

/// The room that one body has, until it is dropped.
pub(super) struct Room {
    bodies: Arc<Bodies>,
    bytes: AtomicUsize,
}

impl Bodies {
    /// Memory for `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: AtomicUsize::new(0) }
    }

    /// Takes room for `bytes` bytes.
    fn room(self: &Arc<Self>, bytes: usize) -> Result<Room, NoRoom> {
        let room = Room { bodies: Arc::clone(self), bytes: AtomicUsize::new(0) };
        room.grow_to(bytes).map(|()| room)
    }
}

impl Room {
    /// Takes more room, so that there are `bytes` bytes.
    pub(super) fn grow_to(&self, bytes: usize) -> Result<(), NoRoom> {
        let limit = self.bodies.limit;
        let wanted = bytes.saturating_sub(self.bytes.load(Ordering::Relaxed));
        let more = |taken: usize| taken.checked_add(wanted).filter(|taken| *taken <= limit);
        match self.bodies.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => {
                self.bytes.fetch_add(wanted, Ordering::Relaxed);
                Ok(())
            }
            Err(taken) => Err(NoRoom { taken, wanted, limit }),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bodies.taken.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

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
        None => Body::new(Counted { body, room: Arc::clone(&room), received: 0, limit }),
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
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            self.received = self.received.saturating_add(data.len());
            // A vector that grows has up to twice the capacity that it needs.
            if let Err(full) = self.room.grow_to(self.received.min(self.limit).saturating_mul(2)) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let bodies = Arc::new(Bodies::new(100));
        let first = bodies.room(60).unwrap();
        let full = bodies.room(41).err().unwrap();
        assert_eq!((full.taken, full.wanted, full.limit), (60, 41, 100));
        let second = bodies.room(10).unwrap();
        second.grow_to(40).unwrap();
        // It never shrinks.
        second.grow_to(5).unwrap();
        assert!(second.grow_to(41).is_err());
        drop(first);
        second.grow_to(100).unwrap();
        drop(second);
        assert_eq!(bodies.taken.load(Ordering::Relaxed), 0);
        assert!(bodies.room(usize::MAX).is_err());
    }
}
