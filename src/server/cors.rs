//! Which web pages of other origins may use the server (`--cors-allow-origin`).

use std::str::FromStr;
use std::time::Duration;

use axum::http::header::{ETAG, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::classify::{GENERATION, INFERENCE, QUEUE, TOKENIZATION, TOKENS, TRUNCATED};
use super::config::Config;
use super::context::TOTAL_TIME;
use super::request_id::REQUEST_ID;

/// For this time browsers may remember what is allowed.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The headers of answers that scripts may read. `Retry-After` says when to try again, and `ETag` has the generation for `If-Match`.
const EXPOSED: [HeaderName; 10] =
    [ETAG, GENERATION, INFERENCE, QUEUE, REQUEST_ID, RETRY_AFTER, TOKENIZATION, TOKENS, TOTAL_TIME, TRUNCATED];

/// An origin as browsers send it (`https://app.example:8443`), or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = &'static str;

    /// Refuses anything that no browser sends as an origin, because it would never match.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "must be * or scheme://host[:port], without a path";
        let header = || HeaderValue::from_str(text).map_err(|_| WRONG);
        if text == "*" {
            return header().map(Self);
        }
        let uri: Uri = text.parse().map_err(|_| WRONG)?;
        let (scheme, authority) = (uri.scheme_str().ok_or(WRONG)?, uri.authority().ok_or(WRONG)?);
        if format!("{scheme}://{authority}") != text || text.contains('@') {
            return Err(WRONG);
        }
        if text.chars().any(char::is_uppercase) {
            return Err("must be in lower case, as browsers send it");
        }
        header().map(Self)
    }
}

/// The layer for the origins of these settings; `None` if there are none.
pub(super) fn layer(config: &Config) -> Option<CorsLayer> {
    let origins = &config.cors_allow_origin;
    if origins.is_empty() {
        return None;
    }
    let mut methods = vec![Method::GET, Method::POST];
    // Without a key, any page that its user opens could replace adapters. A key is known only to the pages that may.
    if config.key().is_some() {
        methods.extend([Method::PUT, Method::DELETE]);
    }
    let all = origins.iter().any(|origin| origin.0 == "*");
    let origins = origins.iter().map(|origin| origin.0.clone());
    let layer = CorsLayer::new()
        .allow_origin(if all { AllowOrigin::any() } else { AllowOrigin::list(origins) })
        .allow_methods(methods)
        // A wildcard would not allow `Authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(REMEMBERED);
    Some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_send() {
        for text in ["*", "https://app.example", "http://localhost:3000", "http://127.0.0.1:80", "http://[::1]:80"] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        let wrong = [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://a.b/c",
            "https://u@a.b",
            "https://A.b",
            "null",
            "* ",
        ];
        for text in wrong {
            assert!(text.parse::<Origin>().is_err(), "{text:?}");
        }
    }
}
