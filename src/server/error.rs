//! Every error that a client may see, and the one table of their statuses.

use std::fmt::{self, Write};
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use thiserror::Error;
use utoipa::{IntoResponses, ToSchema};

use crate::engine::Error;
use crate::logging::printable;
use crate::registry::{Fault, RegistryError};
use crate::scheduler::{Failed, Refused};
use crate::text::TokenizeError;

/// After this time a client may try again, where no measurement gives a better estimate.
pub(super) const RETRY_SOON: Duration = Duration::from_secs(1);

/// An error returned to the client, with its text. The texts of [`ApiError::Internal`] and [`ApiError::Unavailable`] go to the log
/// instead.
#[derive(Debug, Error)]
pub enum ApiError {
    /// Not UTF-8, not JSON, or values of the wrong types.
    #[error("{0}")]
    BadRequest(String),
    /// No API key, or a wrong one.
    #[error("this server needs `Authorization: Bearer` with its API key")]
    Unauthorized,
    /// No adapter of that name.
    #[error("{0}")]
    UnknownAdapter(RegistryError),
    /// The request names no adapter, neither does its host, and there is no default adapter.
    #[error(
        "{}; name an adapter in the path (in `model` in the shape of vLLM), or start the server with --default-adapter",
        unnamed(host.as_deref())
    )]
    NoAdapter {
        /// The first label of the request's host.
        host: Option<String>,
    },
    /// No such route.
    #[error("no route {0}")]
    UnknownRoute(String),
    /// The route does not take this method.
    #[error("{0} is not a method of this route")]
    MethodNotAllowed(String),
    /// Another version is in service than the client or the files on disk say.
    #[error("{0}")]
    Conflict(RegistryError),
    /// A body over the limit.
    #[error("the body is larger than {limit} bytes")]
    PayloadTooLarge {
        /// `--payload-limit`.
        limit: usize,
    },
    /// More texts than a request may carry.
    #[error("the request has {texts} texts; at most {limit} are allowed")]
    TooManyTexts {
        /// Texts of the request.
        texts: usize,
        /// `--max-client-batch-size`.
        limit: usize,
    },
    /// More adapters than a request may ask.
    #[error("the request asks {adapters} adapters; at most {limit} are allowed")]
    TooManyAdapters {
        /// Adapters of the request.
        adapters: usize,
        /// `--max-client-batch-size`.
        limit: usize,
    },
    /// The body is compressed in a way that is not supported.
    #[error("content-encoding: expected gzip or none, found {0}")]
    UnsupportedEncoding(String),
    /// The request is well-formed but unusable.
    #[error("{0}")]
    Unprocessable(String),
    /// The requested adapter cannot be served.
    #[error("{0}")]
    InvalidAdapter(RegistryError),
    /// A queue is full, or the request could not be answered in time.
    #[error("{reason}")]
    Overloaded {
        /// Which queue is full, or how long the answer would take.
        reason: String,
        /// When the request is expected to be accepted, in whole seconds.
        retry_after: Duration,
    },
    /// The system cannot read an adapter or their folder at the moment, for example because too many files are open.
    #[error("adapters cannot be read now; the server's log has the cause")]
    Unavailable(String),
    /// The base is not open yet.
    #[error("the server is starting")]
    Starting,
    /// The adapter cannot be loaded yet: its files change, the disk is slow, or the adapters' folder is gone.
    #[error("{0}")]
    NotReady(RegistryError),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The forward pass has taken far too long. Only the health check reports it.
    #[error("the forward pass has stalled for {0:?}")]
    Stalled(Duration),
    /// The device of the forward passes is lost. Only the health check reports it.
    #[error("the device is lost; the server's log has the cause")]
    DeviceLost,
    /// No thread runs forward passes any more. Only the health check reports it.
    #[error("no thread runs forward passes any more; the server's log has the cause")]
    WorkerLost,
    /// The request was not answered within `--request-timeout`, or before its own deadline.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// A bug. Only the log has the text.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// The table: each error's status, and its `error_type`.
    #[must_use]
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::UnknownAdapter(_) => (StatusCode::NOT_FOUND, "UnknownAdapter"),
            Self::NoAdapter { .. } => (StatusCode::NOT_FOUND, "UnknownAdapter"),
            Self::UnknownRoute(_) => (StatusCode::NOT_FOUND, "UnknownRoute"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "Conflict"),
            Self::PayloadTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge"),
            Self::TooManyTexts { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "TooManyTexts"),
            Self::TooManyAdapters { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "TooManyAdapters"),
            Self::UnsupportedEncoding(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedEncoding"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Unprocessable"),
            Self::InvalidAdapter(_) => (StatusCode::UNPROCESSABLE_ENTITY, "InvalidAdapter"),
            Self::Overloaded { .. } => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
            Self::Starting => (StatusCode::SERVICE_UNAVAILABLE, "Starting"),
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "NotReady"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "Draining"),
            Self::Stalled(_) => (StatusCode::SERVICE_UNAVAILABLE, "Stalled"),
            Self::DeviceLost => (StatusCode::SERVICE_UNAVAILABLE, "DeviceLost"),
            Self::WorkerLost => (StatusCode::SERVICE_UNAVAILABLE, "WorkerLost"),
            Self::TimedOut(_) => (StatusCode::SERVICE_UNAVAILABLE, "TimedOut"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Internal"),
        }
    }

    /// The same with this server's limit of texts, which a parser does not know.
    pub(super) fn with_limit(self, limit: usize) -> Self {
        match self {
            Self::TooManyTexts { texts, .. } => Self::TooManyTexts { texts, limit },
            Self::TooManyAdapters { adapters, .. } => Self::TooManyAdapters { adapters, limit },
            error => error,
        }
    }

    /// After which time the client may try again, where that helps.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } => Some(*retry_after),
            Self::Unavailable(_) | Self::Starting | Self::NotReady(_) | Self::Draining | Self::TimedOut(_) => {
                Some(RETRY_SOON)
            }
            _ => None,
        }
    }

    /// The text that the client gets. It may quote what the client sent, of which it repeats no more than fits.
    fn message(&self) -> String {
        match self {
            Self::Internal(_) => "internal error; the server's log has the cause".into(),
            error => {
                let mut text = Cut(String::new());
                // It fails where the text is cut.
                let _ = write!(text, "{error}");
                text.0
            }
        }
    }
}

/// The most bytes of an error's text, besides the mark of a cut.
const LONGEST: usize = 2000;

/// A text that ends with `...` where it would be longer than [`LONGEST`].
struct Cut(String);

impl fmt::Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = LONGEST.saturating_sub(self.0.len());
        if part.len() <= room {
            self.0.push_str(part);
            return Ok(());
        }
        let end = (0..=room).rev().find(|&end| part.is_char_boundary(end)).unwrap_or(0);
        self.0.push_str(&part[..end]);
        self.0.push_str("...");
        Err(fmt::Error)
    }
}

/// Why no adapter is asked.
fn unnamed(host: Option<&str>) -> String {
    host.map_or("the request names no adapter".into(), |host| format!("the request's host names no adapter ({host:?})"))
}

/// The `error_type` of a response, which its extensions carry for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorType(pub(super) &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, error_type) = self.status();
        if let Self::Internal(cause) | Self::Unavailable(cause) = &self {
            tracing::error!("{cause}");
        }
        let error = self.message();
        if status.is_client_error() {
            // It may quote what the client sent.
            tracing::debug!(status = status.as_u16(), error_type, "{}", printable(&error));
        }
        let mut response = (status, Json(ErrorBody { error, error_type })).into_response();
        response.extensions_mut().insert(ErrorType(error_type));
        let headers = response.headers_mut();
        if let Some(time) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(time.as_secs()));
        }
        if let Self::Unauthorized = self {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Self::UnsupportedEncoding(_) = self {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// What is wrong, in words.
    error: String,
    /// The kind of the error, which does not change between versions.
    error_type: &'static str,
}

/// The errors of a route that classifies, for the OpenAPI document.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it only describes the table of `ApiError::status`")]
pub(super) enum Errors {
    /// Not JSON, or values of the wrong types
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// No API key, or a wrong one
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// No such adapter
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// Another version is in service than `If-Match` says, a `DELETE` undid this `PUT`, or the adapter's files have changed
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The body is too large, or has too many texts or adapters
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body has a content encoding other than gzip
    #[response(status = 415)]
    UnsupportedEncoding(ErrorBody),
    /// Well-formed but unusable: no texts, a text that is too long and must not be truncated, or an adapter that cannot be served
    #[response(status = 422)]
    Unprocessable(ErrorBody),
    /// The queue is full, the answer would come too late, adapters in use leave no room for this one, or bodies take all their memory;
    /// `Retry-After` says when to try again
    #[response(status = 429)]
    Overloaded(ErrorBody),
    /// A bug or a fault of the device; the server's log has the cause
    #[response(status = 500)]
    Internal(ErrorBody),
    /// Shutting down, timed out, or not ready; `Retry-After` says when to try again
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// The errors of a route that lists adapters, for the OpenAPI document.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it only describes the table of `ApiError::status`")]
pub(super) enum ListErrors {
    /// No API key, or a wrong one
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Too many clients wait for a list
    #[response(status = 429)]
    Overloaded(ErrorBody),
    /// A bug or a fault of the device; the server's log has the cause
    #[response(status = 500)]
    Internal(ErrorBody),
    /// Shutting down, timed out, not ready, or the adapters' folder cannot be read
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match &error {
            RegistryError::NotFound { .. } | RegistryError::OutsideRoot { .. } => Self::UnknownAdapter(error),
            RegistryError::Changed { .. } | RegistryError::Stale { .. } | RegistryError::Deleted { .. } => {
                Self::Conflict(error)
            }
            RegistryError::RootGone | RegistryError::Changing { .. } | RegistryError::Slow { .. } => {
                Self::NotReady(error)
            }
            RegistryError::Stopped => Self::Draining,
            RegistryError::Panicked { .. } => Self::Internal(error.to_string()),
            RegistryError::RootUnreadable { .. } => Self::Unavailable(error.to_string()),
            RegistryError::Busy { .. }
            | RegistryError::DeviceMemory { .. }
            | RegistryError::TooManyWaiters { .. }
            | RegistryError::TooManyLoads { .. }
            | RegistryError::TooManyLists { .. } => {
                Self::Overloaded { reason: error.to_string(), retry_after: RETRY_SOON }
            }
            RegistryError::TooLargeTogether { .. } => Self::Unprocessable(error.to_string()),
            RegistryError::TooLarge { .. } | RegistryError::NoRoom { .. } | RegistryError::OtherBase { .. } => {
                Self::InvalidAdapter(error)
            }
            RegistryError::Invalid { error: cause, .. } => match Fault::of(cause) {
                Fault::Files => Self::InvalidAdapter(error),
                Fault::Machine => Self::Unavailable(error.to_string()),
                Fault::Engine => Self::Internal(error.to_string()),
            },
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded { retry_after, .. }
            | Refused::ShareExceeded { retry_after, .. }
            | Refused::DeadlineExceeded { retry_after, .. } => {
                Self::Overloaded { reason: refused.to_string(), retry_after }
            }
            Refused::Draining => Self::Draining,
        }
    }
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Expired(waited) => Self::TimedOut(waited),
            failed => Self::Internal(failed.to_string()),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<TokenizeError> for ApiError {
    fn from(error: TokenizeError) -> Self {
        match error {
            TokenizeError::TooLong { .. }
            | TokenizeError::Limit { .. }
            | TokenizeError::Word { .. }
            | TokenizeError::Segment { .. }
            | TokenizeError::Nothing
            | TokenizeError::Text(_) => Self::Unprocessable(error.to_string()),
            TokenizeError::File { .. } | TokenizeError::Unsupported { .. } => Self::Internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::adapter::AdapterError;
    use crate::registry::Expected;

    fn status(source: AdapterError) -> u16 {
        let error = RegistryError::Invalid { name: "a".into(), reason: String::new(), error: Arc::new(source.into()) };
        ApiError::from(error).status().0.as_u16()
    }

    #[test]
    fn failures_of_the_machine_are_not_invalid_adapters() {
        let io = |source: IoError| AdapterError::Io { file: PathBuf::from("x"), source };
        assert_eq!(status(io(ErrorKind::NotFound.into())), 422);
        assert_eq!(status(io(ErrorKind::PermissionDenied.into())), 422);
        // Too many open files.
        #[cfg(unix)]
        assert_eq!(status(io(IoError::from_raw_os_error(24))), 503);
        assert_eq!(status(io(ErrorKind::OutOfMemory.into())), 503);
        assert_eq!(status(AdapterError::Tensor(candle_core::Error::Msg("out of memory".into()))), 500);
    }

    #[test]
    fn long_names_are_not_repeated_whole() {
        for (name, most) in [("\u{7f}".repeat(1 << 20), LONGEST + 3), ("ä".repeat(1500), LONGEST + 3)] {
            let error = ApiError::from(RegistryError::NotFound { name });
            let text = error.message();
            assert!(text.len() <= most && text.len() > most - 20 && text.ends_with("..."), "{}", text.len());
        }
        let short = ApiError::Unprocessable("a".repeat(LONGEST));
        assert_eq!(short.message().len(), LONGEST);
    }

    #[test]
    fn every_error_of_the_registry_has_its_status() {
        use RegistryError::*;
        let name = || "a".to_owned();
        let (bytes, held, budget, limit, reason) = (2, 1, 2, 3, String::new);
        for (error, status, error_type, may_retry) in [
            (NotFound { name: name() }, 404, "UnknownAdapter", false),
            (OutsideRoot { name: name(), file: name() }, 404, "UnknownAdapter", false),
            (RootGone, 503, "NotReady", true),
            (RootUnreadable { reason: reason() }, 503, "Unavailable", true),
            (Changing { name: name() }, 503, "NotReady", true),
            (Changed { name: name(), folder: PathBuf::from("a") }, 409, "Conflict", false),
            (Stale { name: name(), expected: Expected::Generation(2), found: Some(1) }, 409, "Conflict", false),
            (Deleted { name: name() }, 409, "Conflict", false),
            (OtherBase { name: name(), warning: reason() }, 422, "InvalidAdapter", false),
            (Panicked { name: name(), reason: reason() }, 500, "Internal", false),
            (TooLarge { name: name(), bytes, budget }, 422, "InvalidAdapter", false),
            (NoRoom { name: name(), bytes, held, budget }, 422, "InvalidAdapter", false),
            (TooLargeTogether { adapters: 2, bytes, budget }, 422, "Unprocessable", false),
            (Busy { name: name(), bytes, held, budget }, 429, "Overloaded", true),
            (DeviceMemory { name: name(), needed: 2, free: 1 }, 429, "Overloaded", true),
            (TooManyWaiters { name: name(), limit }, 429, "Overloaded", true),
            (TooManyLoads { limit }, 429, "Overloaded", true),
            (TooManyLists { limit }, 429, "Overloaded", true),
            (Slow { name: name(), taken: Duration::ZERO }, 503, "NotReady", true),
            (Stopped, 503, "Draining", true),
        ] {
            let what = error.to_string();
            let error = ApiError::from(error);
            let (found, found_type) = error.status();
            let found = (found.as_u16(), found_type, error.retry_after().is_some());
            assert_eq!(found, (status, error_type, may_retry), "{what}");
        }
    }
}
