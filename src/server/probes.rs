//! Routes for the server's state: probes, and what it serves.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::error::{ApiError, ErrorBody};

/// The state of the process.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` or `ready`; `starting` before the base is open.
    status: &'static str,
}

/// Whether the process runs, its forward pass does not stand still, and its device works
#[utoipa::path(
    get, path = "/health", tag = "server", security(()),
    responses(
        (status = 200, description = "It runs", body = Health),
        (status = 503, description = "A forward pass has taken many times what it should, or none can run any more", body = ErrorBody)
    )
)]
pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    computes(&app)?;
    Ok(Json(Health { status: "ok" }))
}

/// Checks that the forward pass does not stand still, and that its device works.
fn computes(app: &App) -> Result<(), ApiError> {
    if app.scheduler().device_lost() {
        return Err(ApiError::DeviceLost);
    }
    if app.scheduler().abandoned() {
        return Err(ApiError::WorkerLost);
    }
    app.scheduler().stalled().map_or(Ok(()), |time| Err(ApiError::Stalled(time)))
}

/// Whether the server accepts requests
#[utoipa::path(
    get, path = "/ready", tag = "server", security(()),
    responses(
        (status = 200, description = "It accepts requests", body = Health),
        (status = 503, description = "It does not, for example because it is shutting down", body = ErrorBody)
    )
)]
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    if app.is_draining() {
        return Err(ApiError::Draining);
    }
    computes(&app)?;
    app.registry().ready()?;
    Ok(Json(Health { status: "ready" }))
}

/// The same as `/health`, at KServe's path
#[utoipa::path(
    get, path = "/v2/health/live", tag = "server", security(()),
    responses(
        (status = 200, description = "It runs", body = Health),
        (status = 503, description = "A forward pass has taken many times what it should, or none can run any more", body = ErrorBody)
    )
)]
pub(super) async fn live(app: State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    health(app).await
}

/// The same as `/ready`, at KServe's path
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "server", security(()),
    responses(
        (status = 200, description = "It accepts requests", body = Health),
        (status = 503, description = "It does not", body = ErrorBody)
    )
)]
pub(super) async fn v2_ready(app: State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    ready(app).await
}

/// The server's settings and what it holds.
#[derive(Serialize, ToSchema)]
pub(super) struct Info {
    /// Always `polyrank`.
    name: &'static str,
    /// The version of the program.
    version: &'static str,
    /// The base: a folder, or the id of its repository on the hub.
    model_id: String,
    /// The device and the form of the operations, such as `cpu`.
    device: String,
    /// The precision of the base's products: `f32`, `bf16` or `int8`.
    dtype: &'static str,
    /// The maximum number of tokens of a text.
    max_length: usize,
    max_batch_tokens: usize,
    max_queued_tokens: usize,
    max_client_batch_size: usize,
    /// Bytes.
    payload_limit: usize,
    request_timeout_ms: u64,
    auto_truncate: bool,
    /// The adapter for requests that name none.
    default_adapter: Option<String>,
    /// Bytes that adapters in memory may take.
    adapter_memory: usize,
    /// Bytes that adapters in memory take.
    adapter_bytes: usize,
    /// The number of adapters in memory.
    adapters_in_memory: usize,
    /// Tokens in the queue.
    queued_tokens: usize,
}

/// The server's settings, and what it holds
#[utoipa::path(
    get, path = "/info", tag = "server",
    responses(
        (status = 200, description = "Settings", body = Info),
        (status = 401, description = "The API key is missing or wrong", body = ErrorBody),
        (status = 503, description = "The base is not open yet", body = ErrorBody)
    )
)]
pub(super) async fn info(State(app): State<Arc<App>>) -> Json<Info> {
    let (config, registry) = (app.config(), app.registry());
    Json(Info {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        model_id: config.model_id.clone(),
        device: app.engine().backend().name().into(),
        dtype: app.engine().precision().name(),
        max_length: app.engine().max_length(),
        max_batch_tokens: config.max_batch_tokens,
        max_queued_tokens: config.max_queued_tokens,
        max_client_batch_size: config.max_client_batch_size,
        payload_limit: config.payload_limit,
        request_timeout_ms: config.request_timeout.as_millis() as u64,
        auto_truncate: config.auto_truncate,
        default_adapter: config.default_adapter.clone(),
        adapter_memory: config.adapter_memory,
        adapter_bytes: registry.bytes(),
        adapters_in_memory: registry.resident(),
        queued_tokens: app.scheduler().queued_tokens(),
    })
}
