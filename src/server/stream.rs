//! A client's stream with its time limits.
//!
//! hyper's own limit for heads (`header_read_timeout`) also runs while a connection is idle between two requests, so that it cannot be
//! short for half-sent heads and long for idle connections. hyper has no limit for clients that do not read their answers. Both limits
//! are here, and so are the answers to requests that are not HTTP, which hyper writes without a body.
//!
//! Of a client that has closed only its writing side, hyper can assume either always or never that it has gone. Here, such a client has
//! a short time in which it gets its answer.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::error::ApiError;
use super::request_head::RequestHead;

/// How many bytes a second a client must take of a long answer. Otherwise clients that take a little of it again and again would hold the
/// memory of their answers for hours.
const LEAST_RATE: usize = 64 * 1024;

/// How long a request goes on whose client has closed its writing side. Until an answer is written, a client that still reads looks the
/// same as one that hung up, whose request must not keep its place in the queue.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// The limits of all connections.
#[derive(Clone)]
pub(super) struct StreamLimits {
    /// How long a request's head may take.
    pub(super) head: Duration,
    /// How long a connection may be idle between two requests.
    pub(super) idle: Duration,
    /// How long a client may take no bytes of its answer. For all of it, it has this time and a second for each [`LEAST_RATE`] bytes.
    pub(super) write: Duration,
    /// The most bytes of a body, for the error that names this limit. Bodies are limited elsewhere.
    pub(super) body: usize,
    /// Set once connections without a request are closed.
    pub(super) closing: Arc<AtomicBool>,
}

/// What a connection does. The stream and the service of a connection, which run in one task, share it.
#[derive(Clone, Default)]
pub(super) struct Phase(Arc<State>);

#[derive(Default)]
struct State {
    phase: AtomicU8,
    /// Whether the rest of a body is read after its request was answered.
    discards: AtomicBool,
}

/// The client sends a request's head. A new connection begins with this.
const HEAD: u8 = 0;
/// A request was received, and is being answered.
const REQUEST: u8 = 1;
/// An answer is ready, and not all of it is written.
const ANSWER: u8 = 2;
/// The client has sent nothing since the last answer was written.
const IDLE: u8 = 3;

impl Phase {
    /// A request's head was received.
    pub(super) fn request(&self) {
        self.set(REQUEST);
    }

    /// Its answer is ready.
    pub(super) fn answer(&self) {
        self.set(ANSWER);
    }

    /// Whether the rest of the body is still read, whatever happens to its request. What arrives then is no new head.
    pub(super) fn discard(&self, discards: bool) {
        self.0.discards.store(discards, Ordering::Relaxed);
    }

    fn set(&self, phase: u8) {
        self.0.phase.store(phase, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.phase.load(Ordering::Relaxed)
    }

    fn discards(&self) -> bool {
        self.0.discards.load(Ordering::Relaxed)
    }
}

/// A stream that fails with [`ErrorKind::TimedOut`] once a limit has passed.
pub(super) struct Stream<S> {
    inner: S,
    limits: StreamLimits,
    phase: Phase,
    /// When the head must be complete, or the next one must begin.
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
    /// Since when a write waits: its deadline, and a timer for it.
    blocked: Option<Pin<Box<Sleep>>>,
    /// Since when an answer is written, and how many bytes of it the client has taken.
    answer: Option<(Instant, usize)>,
    /// The head, as far as it has arrived.
    head: RequestHead,
    /// Set once the client has closed its writing side: when it counts as gone.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// The answer to a request that is not HTTP, and how much of it is written.
    refusal: Option<(Vec<u8>, usize)>,
}

impl<S> Stream<S> {
    pub(super) fn new(inner: S, limits: StreamLimits) -> Self {
        let deadline = Instant::now() + limits.head;
        let timer = Box::pin(tokio::time::sleep_until(deadline));
        let phase = Phase::default();
        Self {
            inner,
            limits,
            phase,
            deadline,
            timer,
            blocked: None,
            answer: None,
            head: RequestHead::default(),
            half_closed: None,
            refusal: None,
        }
    }

    /// The connection's phase, for its service.
    pub(super) fn phase(&self) -> Phase {
        self.phase.clone()
    }

    /// What a read returns that has no bytes yet.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.phase.get(), HEAD | IDLE) {
            return Poll::Pending;
        }
        if self.limits.closing.load(Ordering::Relaxed) {
            // As if the client had closed it.
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_deadline(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }

    /// What a read returns once the client has closed its writing side.
    fn ended(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(timer) = &mut self.half_closed else {
            self.half_closed = Some(Box::pin(tokio::time::sleep(HALF_CLOSED)));
            // hyper may have read all of a request whose service has not begun. It begins before hyper reads again.
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        match self.phase.get() {
            REQUEST => timer.as_mut().poll(context).map(Ok),
            // Writing it shows whether the client is gone.
            ANSWER => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ready once the deadline has passed, at which the task is woken.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The deadline moves with every request. The timer follows only once it fires too early, or would fire too late.
        if self.timer.is_elapsed() || self.timer.deadline() > self.deadline {
            self.timer.as_mut().reset(self.deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.deadline);
        }
    }

    /// All of an answer is written: the client may be idle from now on.
    fn answered(&mut self, context: &mut Context<'_>) {
        self.phase.set(IDLE);
        self.deadline = Instant::now() + self.limits.idle;
        // hyper may not read again until the client sends something, so that the timer has to wake it. The timer may have fired while the
        // request was answered. The deadline has not passed yet.
        let _ = self.poll_deadline(context);
        if self.half_closed.is_some() {
            // hyper has not heard yet that the client sends nothing more.
            context.waker().wake_by_ref();
        }
    }

    /// The result of a write, which must not wait for too long.
    fn wrote(&mut self, context: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let limit = self.limits.write;
        let (since, taken) = self.answer.get_or_insert_with(|| (Instant::now(), 0));
        let Poll::Ready(result) = result else {
            let latest = *since + limit + Duration::from_secs((*taken / LEAST_RATE) as u64);
            let by = || latest.min(Instant::now() + limit);
            let timer = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by())));
            ready!(timer.as_mut().poll(context));
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        };
        *taken += result.as_ref().map_or(0, |bytes| *bytes);
        self.blocked = None;
        if self.phase.get() == IDLE {
            // The answer has further parts.
            self.deadline = Instant::now() + self.limits.idle;
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_pending() {
            return self.wait(context);
        }
        let received = buffer.filled().get(before..).unwrap_or_default();
        if received.is_empty() && buffer.remaining() > 0 && matches!(read, Poll::Ready(Ok(()))) {
            return self.ended(context);
        }
        if !received.is_empty() && self.phase.get() == IDLE {
            if self.phase.discards() {
                self.deadline = Instant::now() + self.limits.idle;
            } else {
                self.phase.set(HEAD);
                self.deadline = Instant::now() + self.limits.head;
                (self.head, self.answer) = (RequestHead::default(), None);
            }
        }
        if self.phase.get() == HEAD {
            self.head.read(received);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    /// Writes a body of our own in place of hyper's empty answer `head` to a request that is not HTTP. `None` for all other bytes.
    fn refuse(&mut self, context: &mut Context<'_>, head: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.refusal.is_none() && matches!(self.phase.get(), HEAD | IDLE) {
            let huge = self.head.is_huge.then_some(self.limits.body);
            self.refusal = refusal(head, self.head.has_line, huge).map(|answer| (answer, 0));
        }
        let (answer, written) = self.refusal.as_mut()?;
        while *written < answer.len() {
            match Pin::new(&mut self.inner).poll_write(context, &answer[*written..]) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(more)) => *written += more,
                waits => return Some(self.wrote(context, waits)),
            }
        }
        self.refusal = None;
        Some(self.wrote(context, Poll::Ready(Ok(head.len()))))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(done) = self.refuse(context, bytes) {
            return done;
        }
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.wrote(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(done) = slices.first().and_then(|first| self.refuse(context, first)) {
            return done;
        }
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.wrote(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        // hyper flushes once it has written all that there is.
        if self.phase.get() == ANSWER && matches!(flushed, Poll::Ready(Ok(()))) {
            self.answered(context);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// The answer in place of hyper's `head`, if that is one of the answers that hyper writes itself. `line` tells whether the request's
/// first line was received, and `huge` is the limit for bodies, if the request announces a huge one.
fn refusal(head: &[u8], line: bool, huge: Option<usize>) -> Option<Vec<u8>> {
    let status = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let too_large = huge.map(|limit| ApiError::PayloadTooLarge { limit }.to_string());
    let (status, error, error_type) = match (status, line, &too_large) {
        ("400" | "431", _, Some(error)) => ("413 Payload Too Large", error.as_str(), "PayloadTooLarge"),
        ("400", ..) => ("400 Bad Request", "the request is not HTTP/1.1", "BadRequest"),
        // hyper reports a long path only from 64 KiB on, which is more than its buffer here.
        ("414", ..) | ("431", false, _) => ("414 URI Too Long", "the request's path is too long", "UriTooLong"),
        ("431", true, _) => ("431 Request Header Fields Too Large", "the request's head is too large", "HeadTooLarge"),
        _ => return None,
    };
    let body = json!({ "error": error, "error_type": error_type }).to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}");
    Some(format!("{head}\r\nconnection: close\r\n\r\n{body}").into_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    /// A client that sends nothing, and takes 50 bytes at a time.
    struct Client;

    impl AsyncRead for Client {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Client {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len().min(50)))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A client that takes 50 bytes every 30 milliseconds.
    struct SlowClient(Pin<Box<Sleep>>);

    impl SlowClient {
        fn new() -> Self {
            Self(Box::pin(tokio::time::sleep(SHORT * 3 / 10)))
        }
    }

    impl AsyncWrite for SlowClient {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            ready!(self.0.as_mut().poll(context));
            *self = Self::new();
            Poll::Ready(Ok(50))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// No single wait is too long, but all of them together are.
    #[tokio::test]
    async fn answer_that_is_taken_bit_by_bit_ends_in_time() {
        let limits = StreamLimits { head: LONG, idle: LONG, write: SHORT, body: 0, closing: Arc::default() };
        let mut stream = Stream::new(SlowClient::new(), limits);
        stream.phase().answer();
        let (begun, mut bytes) = (Instant::now(), 0);
        let error = loop {
            match poll_fn(|context| Pin::new(&mut stream).poll_write(context, &[1; 1000])).await {
                Ok(taken) => bytes += taken,
                Err(error) => break error,
            }
            assert!(begun.elapsed() < LONG);
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(bytes > 0 && begun.elapsed() >= SHORT, "{bytes}");
    }

    async fn read(stream: &mut Stream<Client>) -> io::Result<()> {
        let mut bytes = [0; 1];
        poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut ReadBuf::new(&mut bytes))).await
    }

    /// A client that takes its answer slowly is not idle.
    #[tokio::test]
    async fn idle_time_begins_with_the_end_of_an_answer() {
        let limits = StreamLimits { head: SHORT, idle: SHORT, write: LONG, body: 0, closing: Arc::default() };
        let mut stream = Stream::new(Client, limits);
        stream.phase().answer();
        let written = poll_fn(|context| Pin::new(&mut stream).poll_write(context, &[1; 100])).await;
        assert_eq!(written.unwrap(), 50);
        assert!(timeout(5 * SHORT, read(&mut stream)).await.is_err(), "the rest is not written yet");
        // The timer of the head has fired meanwhile.
        poll_fn(|context| Pin::new(&mut stream).poll_flush(context)).await.unwrap();
        let idle = timeout(LONG, read(&mut stream)).await.unwrap();
        assert_eq!(idle.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
