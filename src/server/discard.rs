//! Discards the rest of a body when a request is answered before all of it was read, because its key or path is wrong, there is no
//! memory for it, or it is too large. A connection that closes while the client still writes often takes the answer with it, and a
//! client that uses connections again would lose its next request. So the rest is read and thrown away while the request is answered.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::{Frame, Incoming, SizeHint};

use super::body;
use super::config::Config;
use super::stream::Phase;

/// How much of a body is read to its end, as a multiple of the largest body that is wanted.
const DISCARD: usize = 16;

/// How much is read and thrown away, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiscardLimits {
    bytes: usize,
    time: Duration,
}

impl DiscardLimits {
    pub(super) fn new(config: &Config) -> Self {
        Self { bytes: config.payload_limit.saturating_mul(DISCARD), time: config.request_timeout }
    }
}

/// The body of a request that is being answered. What is left of it can be taken back from whoever reads it.
pub(super) struct Rest {
    /// `None` if there is no body.
    body: Option<Shared>,
    /// Whether the client waits to be asked for the body.
    waits: bool,
}

impl Rest {
    /// The request, of whose body the rest can be discarded later.
    pub(super) fn of(request: Request<Incoming>) -> (Request<Body>, Self) {
        let waits = request.version() > Version::HTTP_10 && waits(request.headers());
        if request.body().is_end_stream() {
            return (request.map(|_| Body::empty()), Self { body: None, waits });
        }
        let mut shared = None;
        let request = request.map(|body| {
            let slot = Arc::new(Mutex::new(Slot { body: Body::new(body), begun: false }));
            shared = Some(Shared(Arc::clone(&slot)));
            Body::new(Shared(slot))
        });
        (request, Self { body: shared, waits })
    }

    /// Reads what is left of the body, besides, and throws it away. If the client is not asked for its body, or all of it would be too
    /// much, the answer says that the connection closes.
    pub(super) fn discard(self, answer: &mut Response<Body>, limits: DiscardLimits, phase: &Phase) {
        let Some((body, begun)) = self.body.map(|shared| shared.take()).filter(|(body, _)| !body.is_end_stream())
        else {
            return;
        };
        let asked = begun || !self.waits;
        if !asked || body.size_hint().lower() > limits.bytes as u64 {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if asked {
            phase.discard(true);
            tokio::spawn(read_on(body, limits, phase.clone()));
        }
    }
}

fn waits(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads and throws away what `limits` allow. Whoever sends more, or is slower, loses the connection.
async fn read_on(mut body: Body, DiscardLimits { bytes, time }: DiscardLimits, phase: Phase) {
    let discard = async {
        let mut total = 0usize;
        while let Some(Ok(data)) = body::next(&mut body).await {
            total = total.saturating_add(data.len());
            if total > bytes {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(time, discard).await;
    phase.discard(false);
}

/// A body that can be taken back from whoever reads it.
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
