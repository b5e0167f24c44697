//! HTTP: routes, types of requests and answers, and the table of statuses.
//!
//! [`run`] takes everything that it needs as arguments: a listener, an [`App`], and a future whose end shuts it down. Tests start it
//! on port 0. [`serve`] answers probes already while the base is opened.

mod adapters;
mod answer_body;
mod app;
mod auth;
mod bodies;
mod body;
mod body_permit;
mod classify;
mod config;
mod content;
mod context;
mod cors;
mod deadline;
mod discard;
mod draining;
mod error;
mod extract;
mod key;
mod metrics;
mod models;
mod openapi;
mod page;
mod probes;
mod request_head;
mod request_id;
mod routes;
mod serving;
mod start_error;
mod starting;
mod stream;
mod times;
mod tokenizing;
#[cfg(feature = "otlp")]
mod traces;
mod unknown_hosts;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use self::serving::Serving;
use self::stream::{Stream, StreamLimits};

pub use app::App;
pub use config::{ApiKey, Config, Origin};
pub use error::ApiError;
pub use extract::blocking_threads;
pub use start_error::StartError;

/// Parses a body as the routes that classify do, and drops the result.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_request(body: &[u8]) {
    classify::parse(body);
}

/// The pause after a failure to accept a connection. Mostly too many files are open then.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// The largest part of a connection's input that is held before it is read on: a request's head, or a piece of its body.
const READ_BUFFER: usize = 32 * 1024;

/// How long the requests of the last connections may take to arrive.
const LAST_READ: Duration = Duration::from_millis(50);

/// How much longer than `--request-timeout` a shutdown may take. In the first half of it, the last requests time out; in the second
/// half, their answers are written.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// Serves `app` until `shutdown` ends, as [`serve`] does.
pub async fn run(listener: TcpListener, app: Arc<App>, shutdown: impl Future<Output = ()>) {
    let config = app.config().clone();
    let Ok(()) = serve::<Infallible>(listener, &config, ready(Ok(app)), shutdown).await;
}

/// Serves until `shutdown` ends. Until `opening` gives the app, `/health` and its alias answer 200, and everything else 503.
///
/// After `shutdown`, `/ready` answers 503 for `--shutdown-delay` while everything else goes on. Then new requests get 503, and requests
/// that were accepted before are answered. This takes at most `--request-timeout` and a second, whatever clients and threads for blocking
/// work do. Where this bound matters, neither the last [`App`] nor the runtime may be dropped: the one waits for the forward pass, the
/// other for threads.
///
/// # Errors
/// The error of `opening`.
pub async fn serve<E>(
    listener: TcpListener,
    config: &Config,
    opening: impl Future<Output = Result<Arc<App>, E>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), E> {
    let connections = Connections::new(config);
    let serving = Arc::clone(&connections.serving);
    let (mut opening, mut shutdown) = (pin!(opening), pin!(shutdown));
    loop {
        tokio::select! {
            // In this order: an app that is there already answers the first request.
            biased;
            () = &mut shutdown => break,
            app = &mut opening, if !serving.is_open() => serving.open(app?),
            stream = accept(&listener) => connections.spawn(stream),
        }
    }
    // While the base is opened, nobody sends requests that a delay would spare.
    if serving.is_open() && !config.shutdown_delay.is_zero() {
        serving.announce();
        let mut delayed = pin!(tokio::time::sleep(config.shutdown_delay));
        loop {
            tokio::select! {
                biased;
                () = &mut delayed => break,
                stream = accept(&listener) => connections.spawn(stream),
            }
        }
    }
    let end = Instant::now() + config.request_timeout + SHUTDOWN;
    let mut drained = pin!(tokio::time::timeout_at(end - SHUTDOWN / 2, serving.drain()));
    loop {
        tokio::select! {
            biased;
            _ = &mut drained => break,
            stream = accept(&listener) => connections.spawn(stream),
        }
    }
    waiting(listener).into_iter().for_each(|stream| connections.spawn(stream));
    serving.close();
    // The last connections may have sent requests that are not read yet. They get their answer, too.
    tokio::time::sleep(LAST_READ).await;
    let _ = tokio::time::timeout_at(end, connections.close()).await;
    #[cfg(feature = "otlp")]
    let _ = tokio::time::timeout_at(end, serving.finish_traces()).await;
    Ok(())
}

/// Closes the listener, and returns the connections that it holds, which would be reset otherwise. They are asked of the system: the
/// runtime may not have heard of them.
fn waiting(listener: TcpListener) -> Vec<TcpStream> {
    let listener = listener.into_std().ok();
    let next = move || {
        let stream = loop {
            match listener.as_ref()?.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if is_of_connection(&error) => {}
                Err(_) => return None,
            }
        };
        stream.set_nonblocking(true).ok()?;
        let _ = stream.set_nodelay(true);
        TcpStream::from_std(stream).ok()
    };
    std::iter::from_fn(next).collect()
}

/// The connections of a server.
struct Connections {
    http: http1::Builder,
    limits: StreamLimits,
    serving: Arc<Serving>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(config: &Config) -> Self {
        let mut http = http1::Builder::new();
        // `Stream` has limits of its own.
        http.header_read_timeout(None).max_buf_size(READ_BUFFER);
        let (request, idle, body) = (config.request_timeout, config.keep_alive_timeout, config.payload_limit);
        let limits = StreamLimits { head: request, idle, write: request, body, closing: Arc::default() };
        Self { http, limits, serving: Arc::new(Serving::new(config)), graceful: GracefulShutdown::new() }
    }

    /// Serves a connection in a task of its own.
    fn spawn(&self, stream: TcpStream) {
        let stream = Stream::new(stream, self.limits.clone());
        let (serving, phase) = (Arc::clone(&self.serving), stream.phase());
        let service = service_fn(move |request| Arc::clone(&serving).answer(phase.clone(), request));
        let connection = self.graceful.watch(self.http.serve_connection(TokioIo::new(stream), service));
        // A connection that fails concerns its client only.
        tokio::spawn(async move { drop(connection.await) });
    }

    /// Closes connections without a request, and waits until the answers of the others are written.
    async fn close(self) {
        self.limits.closing.store(true, Ordering::Relaxed);
        self.graceful.shutdown().await;
    }
}

/// Whether accepting failed because the connection broke before, so that the next one may be fine.
fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The next connection. Connections that broke before they were accepted are skipped.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Each answer is written at once, so that nothing is gained by holding packets back. If setting this fails, answers
                // only come later.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                tracing::error!("accepting a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
