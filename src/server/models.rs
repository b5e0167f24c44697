//! `GET /v1/models`: the adapters in OpenAI's shape, as vLLM lists its adapters.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer_body;
use super::app::App;
use super::error::{ApiError, ListErrors};

/// The list of models.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    /// Always `list`.
    object: &'static str,
    data: Vec<Model>,
}

/// An adapter as a model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Model {
    /// The adapter's name.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When the server started, in seconds since 1970.
    created: u64,
    /// Always `polyrank`.
    owned_by: &'static str,
    /// The base.
    parent: String,
}

/// Lists the adapters in OpenAI's shape
#[utoipa::path(
    get, path = "/v1/models", operation_id = "models", tag = "other shapes",
    responses((status = 200, description = "All adapters, in order of name", body = Models), ListErrors)
)]
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let adapters = app.registry().listed().await?;
    let created = app.started().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let model =
        |id| Model { id, object: "model", created, owned_by: "polyrank", parent: app.config().model_id.clone() };
    let data = adapters.into_iter().map(|status| model(status.name)).collect();
    answer_body::answer(&app, &Models { object: "list", data })
}
