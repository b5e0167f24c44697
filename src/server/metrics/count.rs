//! The layer around all routes, which counts requests.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::metrics::gauge::Gauge;

use super::outcome::Outcome;
use super::requests::Route;
use crate::server::app::App;

/// Counts a request when it is dropped. A request is abandoned unless its outcome is known by then.
struct CountedRequest<'a> {
    route: &'a Route,
    in_flight: &'a Gauge,
    begun: Instant,
    outcome: Outcome,
}

impl Drop for CountedRequest<'_> {
    fn drop(&mut self) {
        self.in_flight.dec();
        self.route.outcomes[self.outcome as usize].inc();
        if self.outcome == Outcome::Answered {
            self.route.durations.observe(self.begun.elapsed().as_secs_f64());
        }
    }
}

/// The layer around all routes: counts each request by its route and outcome.
pub(in crate::server) async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let requests = &app.metrics().requests;
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = requests.route(request.method().as_str(), path);
    requests.in_flight.inc();
    let (in_flight, begun) = (&requests.in_flight, Instant::now());
    let mut counted = CountedRequest { route, in_flight, begun, outcome: Outcome::Abandoned };
    let response = next.run(request).await;
    counted.outcome = Outcome::of(&response);
    response
}
