//! The name of an adapter in the host of a request: each adapter may have a Kubernetes Service of its own before the same server.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::header::HOST;
use axum::http::request::Parts;

use super::super::error::ApiError;

/// The first label of the host that a request was sent to, such as `intent` of `intent.models.svc:8080`. It is `None` if the host is an
/// IP address or is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct HostLabel(pub(super) Option<String>);

impl HostLabel {
    fn of(host: &str) -> Self {
        // The port, which an IPv6 address in brackets has after them.
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
            return Self(None);
        }
        let label = name.split('.').next().unwrap_or_default();
        Self(Some(label).filter(|label| !label.is_empty()).map(str::to_owned))
    }
}

impl<S: Sync> FromRequestParts<S> for HostLabel {
    type Rejection = ApiError;

    /// A host in the request's target takes precedence over the header, as RFC 9112 demands. It also demands that several headers are
    /// refused: a proxy before the server may have read another one.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if parts.headers.get_all(HOST).iter().count() > 1 {
            return Err(ApiError::BadRequest("Host: expected one, found several".into()));
        }
        let header = || parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        Ok(parts.uri.host().or_else(header).map_or(Self(None), Self::of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_label_of_a_name_is_taken() {
        for (host, label) in [
            ("intent", Some("intent")),
            ("intent:8080", Some("intent")),
            ("intent.models.svc.cluster.local:80", Some("intent")),
            ("127.0.0.1:8080", None),
            ("127.0.0.1", None),
            ("[::1]:8080", None),
            ("[::1]", None),
            ("", None),
            (":80", None),
            (".x", None),
        ] {
            assert_eq!(HostLabel::of(host).0.as_deref(), label, "{host}");
        }
    }
}
