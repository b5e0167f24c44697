//! `/adapters`: what is served, and its replacement and removal by requests.

use std::path::Path as FilePath;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::Deserialize;
use utoipa::ToSchema;

use super::answer_body;
use super::app::App;
use super::classify::json;
use super::content::Content;
use super::error::{ApiError, Errors, ListErrors};
use super::extract::path;
use crate::registry::{Expected, Registry, RegistryError, Status};

/// The methods of `/adapters/{name}`. Those that change what is served exist only with `--allow-adapter-updates`.
pub(super) fn methods(app: &App) -> MethodRouter<Arc<App>> {
    if app.config().allow_adapter_updates { get(one).put(put).delete(delete) } else { get(one) }
}

/// Lists the adapters
///
/// In order of name. None is loaded for it.
#[utoipa::path(
    get, path = "/adapters", tag = "adapters",
    responses((status = 200, description = "All adapters", body = Vec<Status>), ListErrors)
)]
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    answer_body::answer(&app, &app.registry().listed().await?)
}

/// Describes an adapter
///
/// An adapter that has not been in service is loaded.
#[utoipa::path(
    get, path = "/adapters/{name}", tag = "adapters", params(("name" = String, Path, description = "The adapter's name")),
    responses((status = 200, description = "The adapter; `ETag` is its generation", body = Status), Errors)
)]
pub(super) async fn one(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<impl IntoResponse, ApiError> {
    Ok(tagged(app.registry().describe(&path(name)?).await?))
}

/// The body of a `PUT`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Put {
    /// The folder, inside the folder of adapters. Without it, the folder has the adapter's name.
    path: Option<String>,
}

/// Loads an adapter, or swaps in another version of it
///
/// The files may lie in any folder inside the folder of adapters. Only with `--allow-adapter-updates`.
///
/// Generations begin anew when the server starts: an `If-Match` from before may match another version.
#[utoipa::path(
    put, path = "/adapters/{name}", tag = "adapters", request_body = Option<Put>,
    params(
        ("name" = String, Path, description = "The adapter's name"),
        ("if-match" = Option<String>, Header, description = "The generation that must be in service, in quotes, or *")
    ),
    responses((status = 200, description = "The version in service", body = Status), Errors)
)]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Content,
) -> Result<impl IntoResponse, ApiError> {
    if headers.contains_key(header::IF_NONE_MATCH) {
        return Err(ApiError::BadRequest("If-None-Match is not supported; If-Match is".into()));
    }
    let (name, expected) = (path(name)?, expected(&headers)?);
    let put = body.parse(|body| if body.trim_ascii().is_empty() { Ok(Put::default()) } else { json::read(body) });
    let put = put.await?;
    if !Registry::is_name(&name) {
        return Err(ApiError::Unprocessable(format!("{name:?} cannot be the name of an adapter")));
    }
    let folder = put.path.as_deref().unwrap_or(&name);
    let status = app.registry().put(&name, FilePath::new(folder), expected).await.map_err(|error| match error {
        RegistryError::NotFound { .. } => {
            ApiError::Unprocessable(format!("adapter {name:?}: {folder:?} is no folder of an adapter"))
        }
        RegistryError::OutsideRoot { .. } => ApiError::Unprocessable(error.to_string()),
        error => error.into(),
    })?;
    Ok(tagged(status))
}

/// Takes an adapter out of service
///
/// It stays so until a `PUT` or a restart. Its files stay. Only with `--allow-adapter-updates`.
///
/// Generations begin anew when the server starts: an `If-Match` from before may match another version.
#[utoipa::path(
    delete, path = "/adapters/{name}", tag = "adapters",
    params(
        ("name" = String, Path, description = "The adapter's name"),
        ("if-match" = Option<String>, Header, description = "The generation that must be in service, in quotes, or *")
    ),
    responses((status = 200, description = "The version that was in service", body = Status), Errors)
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    Ok(tagged(app.registry().delete(&path(name)?, expected(&headers)?).await?))
}

/// A status with its generation as `ETag`, if it has one.
fn tagged(status: Status) -> impl IntoResponse {
    let tag = status.generation.map(|generation| AppendHeaders([(header::ETAG, format!("\"{generation}\""))]));
    (tag, Json(status))
}

/// The generation that the client expects to be in service: `If-Match: "3"`, or `*` for any.
fn expected(headers: &HeaderMap) -> Result<Option<Expected>, ApiError> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::BadRequest("If-Match: expected one, found several".into()));
    }
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Some(Expected::Any));
    }
    let generation = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).parse();
    let generation = generation.map_err(|_| {
        ApiError::BadRequest(format!("If-Match: expected a generation in quotes, or *, found {text:?}"))
    })?;
    Ok(Some(Expected::Generation(generation)))
}
