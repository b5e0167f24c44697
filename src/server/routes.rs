//! The routes.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::normalize_path::NormalizePath;

use super::app::App;
use super::error::ApiError;
use super::{
    adapters, auth, body_permit, classify, context, cors, deadline, draining, metrics, models, openapi, page, probes,
};
use crate::panics;

/// All routes over `app`. A path with a slash at its end is the path without it.
pub(super) fn router(app: Arc<App>) -> Router {
    let cors = cors::layer(app.config());
    let routes = Router::new()
        .route("/classify", post(classify::bare))
        .route("/classify/{*adapter}", post(classify::classify))
        .route("/v1/classify", post(classify::v1))
        .route("/predict", post(classify::bare_predict))
        .route("/predict/{*adapter}", post(classify::predict))
        .route("/v1/models", get(models::list))
        .route("/adapters", get(adapters::list))
        .route("/adapters/{*name}", adapters::methods(&app))
        .route("/health", get(probes::health))
        .route("/ready", get(probes::ready))
        .route("/v2/health/live", get(probes::live))
        .route("/v2/health/ready", get(probes::v2_ready))
        .route("/info", get(probes::info))
        .route("/docs", get(openapi::docs))
        .route("/api-doc/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics::scrape::metrics))
        .route("/", get(page::page))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        // `Content` reads the body, and applies the limit.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&app), body_permit::take_permit))
        .layer(from_fn(draining::refuse_while_draining))
        .layer(from_fn_with_state(Arc::clone(&app), deadline::enforce))
        .layer(from_fn_with_state(Arc::clone(&app), auth::check))
        // A request that panics has an answer, too.
        .layer(CatchPanicLayer::custom(panicked))
        // Outside of the others, so that refused keys and time-outs are counted.
        .layer(from_fn_with_state(Arc::clone(&app), metrics::count::count))
        .layer(from_fn_with_state(Arc::clone(&app), context::attach))
        .with_state(app);
    // Layers of a router see a request after its route is chosen, so that the path must change before the router.
    let router = Router::new().fallback_service(NormalizePath::trim_trailing_slash(routes));
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    ApiError::Internal(format!("a request panicked: {}", panics::message(&*panic))).into_response()
}

async fn unknown_route(uri: Uri) -> ApiError {
    ApiError::UnknownRoute(uri.path().into())
}

async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::MethodNotAllowed(method.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn request_that_panics_is_answered_without_the_cause() {
        async fn panics() -> StatusCode {
            panic!("a secret")
        }
        let router = Router::new().route("/", get(panics)).layer(CatchPanicLayer::custom(panicked));
        let response = TowerToHyperService::new(router).call(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("Internal") && !body.contains("secret"), "{body}");
    }
}
