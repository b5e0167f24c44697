//! HTTP: routes, types, and the table of statuses.
//!
//! [`run`] takes its world as arguments (a listener, an [`App`], a future that ends it), so that tests start it on port 0.

mod app;
mod auth;
mod body;
mod classify;
mod config;
mod error;
mod routes;
mod tokenising;

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use app::App;
pub use config::{ApiKey, Config};
pub use error::ApiError;

/// What `POST /classify/{adapter}` makes of a body, thrown away.
#[cfg(fuzzing)]
pub(crate) fn parse_request(body: &[u8]) {
    let _ = classify::parse(body);
}

/// Serves until `shutdown` ends. Then new requests get 503, those accepted before are answered, and connections close; clients
/// that do not take their answers hold it up for one request time-out at most.
///
/// # Errors
/// The listener fails.
pub async fn run(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let patience = app.config().request_timeout;
    let (drained, drain_ended) = oneshot::channel();
    let draining = Arc::clone(&app);
    let drain = async move {
        shutdown.await;
        draining.drain().await;
        let _ = drained.send(());
    };
    let server = axum::serve(listener, routes::router(app)).with_graceful_shutdown(drain);
    let give_up = async {
        match drain_ended.await {
            Ok(()) => tokio::time::sleep(patience).await,
            // The server ended by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = server => result,
        () = give_up => Ok(()),
    }
}
