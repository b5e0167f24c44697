//! HTTP: routes, types of requests and answers, and the table of statuses.
//!
//! [`run`] takes everything that it needs as arguments: a listener, an [`App`], and a future whose end shuts it down. Tests start it
//! on port 0.

mod app;
mod auth;
mod body;
mod classify;
mod config;
mod error;
mod extract;
mod metrics;
mod page;
mod routes;
mod tokenizing;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

pub use app::{App, StartError};
pub use config::{ApiKey, Config};
pub use error::ApiError;

/// Parses a body as `POST /classify/{adapter}` does, and drops the result.
#[cfg(fuzzing)]
pub(crate) fn parse_request(body: &[u8]) {
    let _ = classify::parse(body);
}

/// The pause after a failure to accept a connection. Mostly too many files are open then.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Serves until `shutdown` ends. Then new requests get 503, requests that were accepted before are answered, and connections close.
/// Clients that do not read their answers delay the end by one request time-out at most. The same limit applies to reading a
/// request's head.
pub async fn run(listener: TcpListener, app: Arc<App>, shutdown: impl Future<Output = ()> + Send + 'static) {
    let timeout = app.config().request_timeout;
    let router = routes::router(Arc::clone(&app));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(timeout);
    let connections = GracefulShutdown::new();
    let mut drained = pin!(async {
        shutdown.await;
        app.drain().await;
    });
    loop {
        let stream = tokio::select! {
            () = &mut drained => break,
            stream = accept(&listener) => stream,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        // A connection that fails concerns its client only.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    tokio::select! {
        () = connections.shutdown() => {}
        () = tokio::time::sleep(timeout) => {}
    }
}

/// The next connection. Connections that broke before they were accepted are skipped.
async fn accept(listener: &TcpListener) -> TcpStream {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Each answer is written at once, so that nothing is gained by holding packets back. If setting this fails, answers
                // only come later.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) => {}
            Err(error) => {
                tracing::error!("accepting a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
