//! The OpenAPI document, which is derived from the routes and their types, and a page that shows it without a network.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{HeaderBuilder, RefOr, Required};
use utoipa::{Modify, OpenApi, PartialSchema};

use super::app::App;
use super::page::Page;
use super::{adapters, classify, metrics, models, probes};

/// What applies to every route.
const ABOUT: &str = "Text classification with many adapters over one frozen encoder. A request may carry an id (x-request-id), which the \
answer repeats, and say how long its client waits (x-request-timeout-ms). Bodies may be compressed with gzip. Answers to texts have the \
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
                        .extend(REQUEST.map(|header| RefOr::T(header.of_request())));
                }
                for (status, response) in &mut operation.responses.responses {
                    let RefOr::T(response) = response else { continue };
                    let of_answer = match status.as_str() {
                        "200" if classifies => &ANSWER[..],
                        "200" if path == "/adapters/{name}" => &[ETAG],
                        "429" | "503" => &[RETRY_AFTER],
                        _ => &[],
                    };
                    for header in of_answer {
                        response.headers.insert(header.name.to_owned(), header.of_response().into());
                    }
                }
            }
        }
    }
}

/// A header.
struct Header {
    name: &'static str,
    about: &'static str,
    /// The least whole number that it may have; `None` if it is text.
    least: Option<i64>,
}

impl Header {
    const fn text(name: &'static str, about: &'static str) -> Self {
        Self { name, about, least: None }
    }

    const fn number(name: &'static str, about: &'static str, least: i64) -> Self {
        Self { name, about, least: Some(least) }
    }

    fn schema(&self) -> RefOr<Schema> {
        let number = |least| ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).into();
        self.least.map_or_else(String::schema, number)
    }

    fn of_request(&self) -> Parameter {
        let parameter = ParameterBuilder::new().name(self.name).parameter_in(ParameterIn::Header);
        parameter.schema(Some(self.schema())).description(Some(self.about)).required(Required::False).build()
    }

    fn of_response(&self) -> utoipa::openapi::Header {
        HeaderBuilder::new().schema(Some(self.schema())).description(Some(self.about)).build()
    }
}

const ETAG: Header = Header::text("etag", "The generation in service, in quotes");
const RETRY_AFTER: Header = Header::number("retry-after", "Seconds after which to try again", 1);

/// The headers of requests to classify texts.
const REQUEST: [Header; 2] = [
    Header::text("x-request-id", "An id, which the answer repeats"),
    Header::number(
        "x-request-timeout-ms",
        "How long the client waits; a request that cannot be answered by then is refused",
        1,
    ),
];

/// The headers of answers to texts.
const ANSWER: [Header; 8] = [
    Header::text("x-request-id", "The request's id"),
    Header::text("x-adapter-generation", "The version of the adapter that answered; a=3,b=7 for several"),
    Header::number("x-truncated", "The number of texts that were truncated", 0),
    Header::number("x-compute-tokens", "The number of tokens", 0),
    Header::number("x-total-time", "Milliseconds until the answer", 0),
    Header::number("x-tokenization-time", "Milliseconds", 0),
    Header::number("x-queue-time", "Milliseconds", 0),
    Header::number("x-inference-time", "Milliseconds", 0),
];

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
