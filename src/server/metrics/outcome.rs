//! How a request ended.

use axum::http::StatusCode;
use axum::response::Response;

use crate::server::error::ErrorType;

/// How a request ended. Every request has exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It got the answer that it asked for.
    Answered,
    /// The queue was full, or the deadline could not be met: 429.
    Refused,
    /// It was accepted, but its deadline or the time-out passed: 503.
    Expired,
    /// The request was at fault: 4xx.
    Rejected,
    /// The server could not serve it for a while, for example because it shuts down: 503.
    Unavailable,
    /// The server was at fault: 5xx.
    Failed,
    /// The client hung up before its answer.
    Abandoned,
}

impl Outcome {
    /// All outcomes, in the order of their counters.
    pub(super) const ALL: [Self; 7] = [
        Self::Answered,
        Self::Refused,
        Self::Expired,
        Self::Rejected,
        Self::Unavailable,
        Self::Failed,
        Self::Abandoned,
    ];

    /// The value of the label `outcome`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }

    /// The outcome of a request with this response.
    pub(super) fn of(response: &Response) -> Self {
        let status = response.status();
        let timed_out = || response.extensions().get() == Some(&ErrorType("TimedOut"));
        match status {
            StatusCode::TOO_MANY_REQUESTS => Self::Refused,
            StatusCode::SERVICE_UNAVAILABLE if timed_out() => Self::Expired,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            _ if status.is_client_error() => Self::Rejected,
            _ if status.is_server_error() => Self::Failed,
            _ => Self::Answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::response::IntoResponse;

    use super::*;
    use crate::server::error::ApiError;

    #[test]
    fn every_error_has_its_outcome() {
        let overloaded = ApiError::Overloaded { reason: String::new(), retry_after: Duration::ZERO };
        for (error, outcome) in [
            (ApiError::BadRequest(String::new()), Outcome::Rejected),
            (ApiError::Unauthorized, Outcome::Rejected),
            (ApiError::UnknownRoute(String::new()), Outcome::Rejected),
            (ApiError::PayloadTooLarge { limit: 1 }, Outcome::Rejected),
            (overloaded, Outcome::Refused),
            (ApiError::TimedOut(Duration::ZERO), Outcome::Expired),
            (ApiError::Draining, Outcome::Unavailable),
            (ApiError::Unavailable(String::new()), Outcome::Unavailable),
            (ApiError::Internal(String::new()), Outcome::Failed),
        ] {
            assert_eq!(Outcome::of(&error.into_response()), outcome);
        }
        assert_eq!(Outcome::of(&StatusCode::OK.into_response()), Outcome::Answered);
        assert_eq!(Outcome::of(&StatusCode::NOT_MODIFIED.into_response()), Outcome::Answered);
    }
}
