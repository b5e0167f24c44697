//! The outermost layer: what happens to the rest of a body when a request is answered before all of it was read, because its key or path
//! is wrong, there is no room for it, or it is too large. A connection that closes while the client still writes often takes the answer
//! with it, and a client that uses connections again would lose its next request. So the rest is read and thrown away while the request
//! is answered; or the answer says that the connection closes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, EXPECT};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use super::app::App;
use super::body;

/// A body of at most this many times the limit is read to its end.
const DISCARD: usize = 16;

/// Lets the request be answered, and deals with what is left of its body.
pub(super) async fn discard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if HttpBody::is_end_stream(request.body()) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    // A client that waits to be asked for its body has sent none of it.
    let waits = head.headers.contains_key(EXPECT);
    let shared = Shared(Arc::new(Mutex::new(Slot { body, begun: false })));
    let mut answer = next.run(Request::from_parts(head, Body::new(Shared(Arc::clone(&shared.0))))).await;
    let (left, begun) = shared.take();
    if !left.is_end_stream() {
        let most = app.config().payload_limit.saturating_mul(DISCARD);
        if (waits && !begun) || left.size_hint().lower() > most as u64 {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        } else {
            tokio::spawn(read_on(left, most, app.config().request_timeout));
        }
    }
    answer
}

/// Reads at most `most` bytes for at most this time, and throws them away.
async fn read_on(mut body: Body, most: usize, at_most: Duration) {
    let discard = async {
        let mut total = 0usize;
        while let Some(Ok(data)) = body::next(&mut body).await {
            total = total.saturating_add(data.len());
            if total > most {
                return;
            }
        }
    };
    // Whoever is too slow loses the connection.
    let _ = tokio::time::timeout(at_most, discard).await;
}

/// A body that this layer can take back from whoever reads it.
struct Shared(Arc<Mutex<Slot>>);

struct Slot {
    body: Body,
    /// Whether any of it was asked for.
    begun: bool,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left of it, and whether any of it was asked for.
    fn take(&self) -> (Body, bool) {
        let mut slot = self.slot();
        (std::mem::take(&mut slot.body), slot.begun)
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut slot = self.slot();
        slot.begun = true;
        Pin::new(&mut slot.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.slot().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.slot().body.size_hint()
    }
}
