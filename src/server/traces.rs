//! A trace of each request, sent to an OpenTelemetry collector (`--otlp-endpoint`, feature `otlp`). A span covers the request, and its
//! children the time of the tokenizer, of the queue and of the forward pass. A request that carries `traceparent` continues its
//! client's trace.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::extract::MatchedPath;
use axum::http::{Method, Uri};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::request_id::RequestId;
use super::times::Measured;

/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(10);
/// How long a shutdown waits for the last export.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// Sends traces from a thread of its own. Spans that the collector does not take in time are dropped.
pub(super) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The trace of a request that is not answered yet.
pub(super) struct Traced<'a> {
    tracer: &'a SdkTracer,
    /// The trace of the client.
    parent: Context,
    /// The method and the route, such as `POST /classify/{*adapter}`, without what a client can choose.
    name: String,
    path: String,
}

impl Traces {
    /// Traces for the collector at `endpoint`.
    ///
    /// # Errors
    /// The endpoint is no address.
    pub(super) fn to(endpoint: &Uri) -> Result<Self, ExporterBuildError> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(EXPORT)).build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(agent.into()))
            .with_endpoint(address(endpoint))
            .build()?;
        let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok(Self { provider, tracer })
    }

    /// Begins the trace of a request, or continues that of its client.
    pub(super) fn began(&self, request: &axum::extract::Request) -> Traced<'_> {
        let route = request.extensions().get::<MatchedPath>().map_or("unknown route", MatchedPath::as_str);
        Traced {
            tracer: &self.tracer,
            parent: TraceContextPropagator::new().extract(&HeaderExtractor(request.headers())),
            name: format!("{} {route}", method(request.method())),
            path: request.uri().path().to_owned(),
        }
    }
}

/// The name of a standard method. A client may make up others.
fn method(method: &Method) -> &str {
    const STANDARD: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    if STANDARD.contains(method) { method.as_str() } else { "other" }
}

impl Traced<'_> {
    /// Records the span of a request that was answered just now, and those of its parts.
    pub(super) fn answered(self, id: &RequestId, status: u16, took: Duration, measured: Option<Measured>) {
        let Self { tracer, parent, name, path } = self;
        let ended = SystemTime::now();
        let mut attributes = vec![
            KeyValue::new("http.response.status_code", i64::from(status)),
            KeyValue::new("url.path", path),
            KeyValue::new("request.id", id.to_string()),
        ];
        attributes.extend(measured.map(|measured| KeyValue::new("tokens", measured.tokens as i64)));
        let builder = tracer.span_builder(name).with_kind(SpanKind::Server).with_start_time(ended - took);
        let context = parent.with_span(builder.with_attributes(attributes).start_with_context(tracer, &parent));
        if let Some(Measured { times, .. }) = measured {
            let mut at = ended - times.begun.elapsed();
            let parts = [("tokenization", times.tokenization), ("queue", times.queue), ("inference", times.inference)];
            for (name, took) in parts {
                let builder = tracer.span_builder(name).with_start_time(at);
                let mut part = builder.start_with_context(tracer, &context);
                at += took;
                part.end_with_timestamp(at);
            }
        }
        if status >= 500 {
            context.span().set_status(Status::error(""));
        }
        context.span().end_with_timestamp(ended);
    }
}

impl Traces {
    /// Sends the spans that were not sent yet, and waits for it.
    pub(super) fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_EXPORT) {
            tracing::warn!("sending the last traces: {error}");
        }
    }
}

/// The address of the collector's route for traces. An endpoint without a path gets the usual one.
fn address(endpoint: &Uri) -> String {
    match endpoint.path() {
        "" | "/" => format!("{}/v1/traces", endpoint.to_string().trim_end_matches('/')),
        _ => endpoint.to_string(),
    }
}

/// Sends over `ureq`, which blocks. Only the exporter's own thread calls it.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let mut response = self.0.run(Request::from_parts(parts, &body[..]))?;
        let body = response.body_mut().read_to_vec()?;
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = response.status();
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn methods_that_clients_make_up_have_one_name() {
        let made_up = Method::from_bytes(b"AAAA1").unwrap();
        assert_eq!((method(&Method::PATCH), method(&made_up)), ("PATCH", "other"));
    }

    #[test]
    fn endpoint_without_a_path_gets_the_usual_one() {
        for (endpoint, expected) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
            ("https://a.example/otlp/v1/traces", "https://a.example/otlp/v1/traces"),
        ] {
            assert_eq!(address(&Uri::from_static(endpoint)), expected);
        }
    }
}
