//! Counts the requests of each route by outcome.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::buckets::SECONDS;
use super::outcome::Outcome;

/// The routes by method, as the router spells them. The most frequent ones come first, because they are searched in this order.
const ROUTES: [(&str, &str); 19] = [
    ("POST", "/classify/{*adapter}"),
    ("POST", "/classify"),
    ("POST", "/predict/{*adapter}"),
    ("POST", "/predict"),
    ("POST", "/v1/classify"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/info"),
    ("GET", "/adapters"),
    ("GET", "/adapters/{*name}"),
    ("PUT", "/adapters/{*name}"),
    ("DELETE", "/adapters/{*name}"),
    ("GET", "/v1/models"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/api-doc/openapi.json"),
];

/// The method and the route of all requests for which [`ROUTES`] has no entry.
const OTHER: &str = "other";

/// The counters of all routes.
pub(super) struct Requests {
    /// The routes of [`ROUTES`], in their order.
    known: Vec<Route>,
    other: Route,
    /// Requests that are being answered.
    pub(super) in_flight: Gauge,
}

/// The counters of one route and method.
pub(super) struct Route {
    pub(super) method: &'static str,
    /// The route's template, such as `/classify/{adapter}`.
    pub(super) template: String,
    /// A counter for each of [`Outcome::ALL`].
    pub(super) outcomes: [Counter; Outcome::ALL.len()],
    /// The time to each answer, in seconds. Errors do not count: refusals come at once, and would hide slow answers.
    pub(super) durations: Histogram,
}

impl Route {
    fn new((method, path): (&'static str, &str)) -> Self {
        let template = path.replace("{*", "{");
        Self { method, template, outcomes: Default::default(), durations: Histogram::new(SECONDS) }
    }
}

impl Requests {
    pub(super) fn new() -> Self {
        let known = ROUTES.into_iter().map(Route::new).collect();
        Self { known, other: Route::new((OTHER, OTHER)), in_flight: Gauge::default() }
    }

    /// All routes.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.known.iter().chain([&self.other])
    }

    /// The counters of a request.
    pub(super) fn route(&self, method: &str, path: Option<&str>) -> &Route {
        let index = path.and_then(|path| ROUTES.iter().position(|route| *route == (method, path)));
        index.map_or(&self.other, |index| &self.known[index])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn counters_follow_the_order_of_outcomes() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }

    #[test]
    fn unknown_routes_and_methods_share_one_counter() {
        let requests = Requests::new();
        assert_eq!(requests.route("POST", Some("/classify/{*adapter}")).template, "/classify/{adapter}");
        assert_eq!(requests.route("PUT", Some("/adapters/{*name}")).method, "PUT");
        for (method, path) in [("PATCH", Some("/health")), ("GET", None), ("GET", Some("/x")), ("X", None)] {
            assert_eq!(requests.route(method, path).template, OTHER, "{method} {path:?}");
        }
    }
}
