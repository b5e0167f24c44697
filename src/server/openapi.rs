//! The OpenAPI document, which is derived from the routes and their types, and a page that shows it without a network.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{HeaderBuilder, RefOr, Required};
use utoipa::{Modify, OpenApi, PartialSchema};

use super::app::App;
use super::page::Page;
use super::{adapters, classify, metrics, models, probes};

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
        metrics::scrape::metrics,
    ),
    tags(
        (name = "classify", description = "Labels and scores of texts"),
        (name = "other shapes", description = "The same in the shapes of other servers"),
        (name = "adapters", description = "What is served"),
        (name = "server", description = "The state of the server"),
    ),
    modifiers(&ApiKey, &Headers),
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

/// Adds the headers of requests and answers, which several routes share.
struct Headers;

impl Modify for Headers {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let classifies = item.post.is_some();
            let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                if classifies {
                    operation
                        .parameters
                        .get_or_insert_default()
                        .extend(REQUEST.map(|header| RefOr::T(parameter(header))));
                }
                for (status, response) in &mut operation.responses.responses {
                    let RefOr::T(response) = response else { continue };
                    let of_answer = match status.as_str() {
                        "200" if classifies => &ANSWER[..],
                        "200" if path == "/adapters/{name}" => &[("etag", "The generation in service, in quotes")],
                        "429" | "503" => &[("retry-after", "Seconds after which to try again")],
                        _ => &[],
                    };
                    for (name, about) in of_answer {
                        let header =
                            HeaderBuilder::new().schema(Some(String::schema())).description(Some(*about)).build();
                        response.headers.insert((*name).to_owned(), header.into());
                    }
                }
            }
        }
    }
}

/// The headers of requests to classify texts.
const REQUEST: [(&str, &str); 2] = [
    ("x-request-id", "An id, which the answer repeats"),
    ("x-request-timeout-ms", "How long the client waits; a request that cannot be answered by then is refused"),
];

/// The headers of answers to texts.
const ANSWER: [(&str, &str); 8] = [
    ("x-request-id", "The request's id"),
    ("x-adapter-generation", "The version of the adapter that answered; a=3,b=7 for several"),
    ("x-truncated", "The number of texts that were truncated"),
    ("x-compute-tokens", "The number of tokens"),
    ("x-total-time", "Milliseconds until the answer"),
    ("x-tokenization-time", "Milliseconds"),
    ("x-queue-time", "Milliseconds"),
    ("x-inference-time", "Milliseconds"),
];

fn parameter((name, about): (&str, &str)) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).schema(Some(String::schema()));
    parameter.description(Some(about)).required(Required::False).build()
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

/// `GET /docs`: one file, which fetches nothing but the document and the list of adapters.
pub(super) async fn docs() -> impl IntoResponse {
    static DOCS: LazyLock<Page> = LazyLock::new(|| Page::new(include_str!("openapi/docs.html")));
    DOCS.answer()
}
