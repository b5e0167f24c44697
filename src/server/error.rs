//! Every error that a client may see, and the one table of their statuses.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use thiserror::Error;

use crate::adapter::AdapterError;
use crate::engine::Error;
use crate::registry::RegistryError;
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
    /// No such route.
    #[error("no route {0}")]
    UnknownRoute(String),
    /// The route does not take this method.
    #[error("{0} is not a method of this route")]
    MethodNotAllowed(String),
    /// The adapter's files are no longer those of the version in service.
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
    /// The system cannot read the adapter at the moment, for example because too many files are open.
    #[error("the adapter cannot be read now; the server's log has the cause")]
    Unavailable(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The request was not answered within `--request-timeout`.
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
            Self::UnknownRoute(_) => (StatusCode::NOT_FOUND, "UnknownRoute"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "Conflict"),
            Self::PayloadTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge"),
            Self::TooManyTexts { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "TooManyTexts"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Unprocessable"),
            Self::InvalidAdapter(_) => (StatusCode::UNPROCESSABLE_ENTITY, "InvalidAdapter"),
            Self::Overloaded { .. } => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "Draining"),
            Self::TimedOut(_) => (StatusCode::SERVICE_UNAVAILABLE, "TimedOut"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Internal"),
        }
    }

    /// After which time the client may try again, where that helps.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } => Some(*retry_after),
            Self::Unavailable(_) | Self::Draining | Self::TimedOut(_) => Some(RETRY_SOON),
            _ => None,
        }
    }

    /// The text that the client gets.
    fn message(&self) -> String {
        match self {
            Self::Internal(_) => "internal error; the server's log has the cause".into(),
            error => error.to_string(),
        }
    }
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
        let body = json!({ "error": self.message(), "error_type": error_type });
        let mut response = (status, Json(body)).into_response();
        response.extensions_mut().insert(ErrorType(error_type));
        let headers = response.headers_mut();
        if let Some(time) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(time.as_secs()));
        }
        if let Self::Unauthorized = self {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match &error {
            RegistryError::NotFound { .. } | RegistryError::OutsideRoot { .. } => Self::UnknownAdapter(error),
            RegistryError::Changed { .. } => Self::Conflict(error),
            RegistryError::Busy { .. } => Self::Overloaded { reason: error.to_string(), retry_after: RETRY_SOON },
            RegistryError::TooLarge { .. } => Self::InvalidAdapter(error),
            RegistryError::Invalid { source, .. } => match &**source {
                Error::Adapter(AdapterError::Io { source, .. }) if !is_fault_of_file(source) => {
                    Self::Unavailable(error.to_string())
                }
                // Not the adapter's fault: the base or the device failed.
                Error::Adapter(AdapterError::Tensor(_)) => Self::Internal(error.to_string()),
                Error::Adapter(_) => Self::InvalidAdapter(error),
                _ => Self::Internal(error.to_string()),
            },
        }
    }
}

/// Whether the file is at fault, rather than the machine (which may be out of memory or of file handles).
fn is_fault_of_file(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
            | ErrorKind::FileTooLarge
    )
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded { retry_after, .. } | Refused::DeadlineExceeded { retry_after, .. } => {
                Self::Overloaded { reason: refused.to_string(), retry_after }
            }
            Refused::Draining => Self::Draining,
        }
    }
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        Self::Internal(failed.to_string())
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

    fn status(source: AdapterError) -> u16 {
        let error = RegistryError::Invalid { name: "a".into(), reason: String::new(), source: Arc::new(source.into()) };
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
}
