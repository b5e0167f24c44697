//! The routes.
//!
//! The time-out and the check of the API key are layers of our own, of a few lines each. Those of `tower-http` answer without our
//! JSON body, and the time of its comparison of bearer tokens depends on the token.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::extract::{blocking, path};
use super::{auth, classify, metrics, page};
use crate::registry::Status;

/// All routes over `app`.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/classify/{*adapter}", post(classify::classify))
        .route("/adapters", get(adapters))
        .route("/adapters/{*name}", get(adapter))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/info", get(info))
        .route("/metrics", get(metrics::metrics))
        .route("/", get(page::page))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        // `body::read` reads the body, and applies the limit.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), time_out))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::check))
        // The outermost layer, so that refused keys and time-outs are counted.
        .layer(middleware::from_fn_with_state(Arc::clone(&app), metrics::count))
        .with_state(app)
}

/// Answers a request with an error once `--request-timeout` has passed.
async fn time_out(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let limit = app.config().request_timeout;
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| ApiError::TimedOut(limit))
}

async fn unknown_route(uri: Uri) -> ApiError {
    ApiError::UnknownRoute(uri.path().into())
}

async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::MethodNotAllowed(method.to_string())
}

/// `GET /health`: the process runs.
async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /ready`: the server accepts requests.
async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if app.scheduler().is_draining() { Err(ApiError::Draining) } else { Ok(Json(json!({ "status": "ready" }))) }
}

async fn info(State(app): State<Arc<App>>) -> Json<Value> {
    let (config, registry) = (app.config(), app.registry());
    Json(json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "model_id": config.model_id,
        "device": app.engine().backend().name(),
        "dtype": app.engine().precision().name(),
        "max_length": app.engine().max_length(),
        "max_batch_tokens": config.max_batch_tokens,
        "max_queued_tokens": config.max_queued_tokens,
        "max_client_batch_size": config.max_client_batch_size,
        "payload_limit": config.payload_limit,
        "request_timeout_ms": config.request_timeout.as_millis(),
        "auto_truncate": config.auto_truncate,
        "adapter_memory": config.adapter_memory,
        "adapter_bytes": registry.bytes(),
        "adapters_in_memory": registry.resident(),
        "queued_tokens": app.scheduler().queued_tokens(),
    }))
}

async fn adapters(State(app): State<Arc<App>>) -> Result<Json<Vec<Status>>, ApiError> {
    let registry = Arc::clone(app.registry());
    Ok(Json(blocking(move || registry.list()).await??))
}

async fn adapter(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Status>, ApiError> {
    let (name, registry) = (path(name)?, Arc::clone(app.registry()));
    Ok(Json(blocking(move || registry.describe(&name)).await??))
}
