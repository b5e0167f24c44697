//! The id of a request, which its answer and its logs carry.

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};

/// The id of a request. A client may choose it.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is accepted from a client.
const LONGEST_ID: usize = 128;

/// The id of a request: visible ASCII characters, at most [`LONGEST_ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    /// The client's id if it is acceptable, else a random one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let acceptable =
            |id: &&str| (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(acceptable);
        Self(given.map_or_else(|| format!("{:032x}", fastrand::u128(..)).into(), Arc::from))
    }

    /// The id.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderValue;

    use super::*;

    fn of(id: &[u8]) -> RequestId {
        RequestId::of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(id).unwrap())]))
    }

    #[test]
    fn acceptable_ids_are_kept_and_others_replaced() {
        let longest = "x".repeat(LONGEST_ID);
        for id in ["a", "3f2a-77!~", &longest] {
            assert_eq!(&*of(id.as_bytes()).0, id);
        }
        for id in [&b""[..], b"a b", b"\xe9", b"a\tb", format!("{longest}x").as_bytes()] {
            let made = of(id);
            assert!(made.0.len() == 32 && made.0.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
    }
}
