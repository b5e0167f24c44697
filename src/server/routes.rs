//! The routes.
//!
//! The time-out and the check of the API key are layers of our own, of a few lines each. Those of `tower-http` answer without our
//! JSON body, and the time of its comparison of bearer tokens depends on the token.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::{adapters, auth, bodies, classify, site};

/// All routes over `app`.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/classify/{*adapter}", post(classify::classify))
        .route("/adapters", get(adapters::list))
        .route("/adapters/{*name}", adapters::methods(&app))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/info", get(info))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        // `body::read` reads the body, and applies the limit.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), bodies::take_room))
        .layer(middleware::from_fn(site::refuse_late))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), time_out))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::check))
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

/// `GET /health`: the process runs, and its forward pass does not stand still.
async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    app.scheduler().stalled().map_or(Ok(Json(json!({ "status": "ok" }))), |time| Err(ApiError::Stalled(time)))
}

/// `GET /ready`: the server accepts requests.
async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if app.is_draining() {
        return Err(ApiError::Draining);
    }
    app.registry().ready()?;
    Ok(Json(json!({ "status": "ready" })))
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
