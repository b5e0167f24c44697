//! The OpenAPI document, which is derived from the routes and their types, and a page that shows it without a network.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::app::App;
use super::{adapters, classify, models, probes};

/// What applies to every route.
const ABOUT: &str = "Text classification with many adapters over one frozen encoder. A request may carry an id (x-request-id), which the \
answer repeats, and say how long its client waits (x-request-timeout-ms). Bodies may be compressed with gzip. Answers to texts tell the \
version of the adapter (x-adapter-generation), how many texts were truncated (x-truncated), the number of tokens (x-compute-tokens), and \
milliseconds (x-total-time, x-tokenization-time, x-queue-time, x-inference-time).";

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "polyrank", description = ABOUT),
    paths(
        classify::classify,
        classify::bare,
        classify::v1,
        classify::predict,
        classify::bare_predict,
        models::list,
        adapters::list,
        adapters::one,
        adapters::put,
        adapters::delete,
        probes::health,
        probes::ready,
        probes::live,
        probes::v2_ready,
        probes::info,
    ),
    tags(
        (name = "classify", description = "Labels and scores of texts"),
        (name = "other shapes", description = "The same in the shapes of other servers"),
        (name = "adapters", description = "What is served"),
        (name = "server", description = "The state of the server"),
    ),
    modifiers(&ApiKey),
    security((), ("api_key" = [])),
)]
struct Document;

/// Adds the API key, which the server may or may not need.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("api_key", scheme);
    }
}

/// `GET /api-doc/openapi.json`. It shows the methods that change adapters only where the server allows them.
pub(super) async fn document(State(app): State<Arc<App>>) -> impl IntoResponse {
    static WITH_UPDATES: LazyLock<String> = LazyLock::new(|| json(&Document::openapi()));
    static WITHOUT: LazyLock<String> = LazyLock::new(|| {
        let mut document = Document::openapi();
        for item in document.paths.paths.values_mut() {
            (item.put, item.delete) = (None, None);
        }
        json(&document)
    });
    let document = if app.config().allow_adapter_updates { &WITH_UPDATES } else { &WITHOUT };
    ([(CONTENT_TYPE, "application/json")], document.as_str())
}

fn json(document: &utoipa::openapi::OpenApi) -> String {
    serde_json::to_string(document).unwrap_or_else(|_| "{}".into())
}

/// `GET /docs`: one file, which fetches nothing but the document.
pub(super) async fn docs() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(include_str!("openapi/docs.html")))
}
