//! The page at `/`: adapters with their ranks, a form to try a text, and live numbers. It is one file, which loads nothing else.
//!
//! The page itself needs no API key, because browsers send none when they open an address. Everything that it shows comes from the
//! routes, which check the key.

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::{Html, IntoResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// A page of one file.
pub(super) struct Page {
    html: &'static str,
    /// Allows the page's own script and style, and requests to this server. Nothing else runs, and text never becomes markup.
    policy: String,
}

impl Page {
    /// The page `html`, which has one `script` and one `style`, without attributes.
    pub(super) fn new(html: &'static str) -> Self {
        let (script, style) = (hash(html, "script"), hash(html, "style"));
        let policy = format!(
            "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
        );
        Self { html, policy }
    }

    /// The answer to a request for it.
    pub(super) fn answer(&'static self) -> impl IntoResponse {
        let headers = [
            (CONTENT_SECURITY_POLICY, self.policy.as_str()),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-cache"),
        ];
        (headers, Html(self.html))
    }
}

/// `GET /`.
pub(super) async fn page() -> impl IntoResponse {
    static PAGE: LazyLock<Page> = LazyLock::new(|| Page::new(include_str!("page.html")));
    PAGE.answer()
}

/// The hash of the text inside the page's only element `tag`, as a content security policy names it.
fn hash(page: &str, tag: &str) -> String {
    let inside = page.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    let text = inside.map_or("", |(text, _)| text);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_names_the_hash_of_script_and_style() {
        assert_eq!(hash("<b>abc</b>", "b"), "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        let nothing = hash("", "script");
        for html in [include_str!("page.html"), include_str!("../openapi/docs.html")] {
            let page = Page::new(html);
            for tag in ["script", "style"] {
                assert_eq!(html.matches(&format!("<{tag}")).count(), 1, "{tag}");
                assert!(page.policy.contains(&hash(html, tag)) && hash(html, tag) != nothing, "{tag}");
            }
        }
    }
}
