//! What the server measures, and `GET /metrics`, which Prometheus reads.
//!
//! | file | idea |
//! | --- | --- |
//! | `outcome` | how a request ended |
//! | `requests` | a counter for each route and outcome |
//! | `measured` | all counters and histograms of a server |
//! | `buckets` | the histograms' buckets |
//! | `count` | the layer around all routes, which counts requests |
//! | `sources` | reads the registry and the scheduler at the moment of a scrape |
//! | `exposition` | writes everything as text |
//! | `scrape` | `GET /metrics` |
//!
//! A client cannot add a label value: routes and methods come from a table, and adapters appear only while they are in memory or have
//! requests. `/metrics` needs the API key like every other route, because it names the adapters; Prometheus can send the key.

mod buckets;
pub(super) mod count;
mod exposition;
pub(super) mod measured;
mod outcome;
mod requests;
pub(super) mod scrape;
mod sources;
