//! Writes all metrics as text, in a fixed order and under Prometheus's conventions of names: units are seconds and bytes, and counters
//! end in `_total`, which the encoder adds.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::measured::Metrics;
use super::outcome::Outcome;
use super::sources::Snapshot;

/// A format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus's text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format for a client that sends this `Accept` header. Clients that name OpenMetrics prefer it to the older format.
    pub(super) fn for_accept(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// The content type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// All metrics and the state of the server as text.
    pub(super) fn exposition(self: &Arc<Self>, snapshot: Snapshot, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape { metrics: Arc::clone(self), snapshot, now: SystemTime::now() }));
        let mut text = String::new();
        match format {
            Format::Text => prometheus_text::encode(&mut text, &registry)?,
            Format::OpenMetrics => text::encode(&mut text, &registry)?,
        }
        Ok(text)
    }
}

/// The values of one scrape.
struct Scrape {
    metrics: Arc<Metrics>,
    snapshot: Snapshot,
    now: SystemTime,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let out = &mut encoder;
        self.server(out)?;
        self.requests(out)?;
        self.queue(out)?;
        self.batches(out)?;
        self.adapters(out)?;
        self.residents(out)
    }
}

impl Scrape {
    fn server(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let state = &self.snapshot;
        let labels = [
            ("version", state.version),
            ("model_id", &state.model_id),
            ("device", state.device),
            ("dtype", state.dtype),
        ];
        let help = "The version of the server, and the base that it serves";
        out.encode_descriptor("polyrank_build", help, None, MetricType::Info)?.encode_info(&labels)?;
        let help = "When the server started, in seconds since 1970";
        gauge(out, "process_start_time_seconds", help, seconds(self.metrics.started))?;
        let help = "How long the running forward pass has taken, if that is many times what it should; else 0";
        gauge(out, "polyrank_worker_stalled_seconds", help, state.stalled.unwrap_or_default().as_secs_f64())
    }

    fn requests(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let requests = &self.metrics.requests;
        let help = "Requests by route and outcome";
        let mut family = out.encode_descriptor("polyrank_requests", help, None, MetricType::Counter)?;
        for route in requests.routes() {
            for (outcome, counter) in Outcome::ALL.iter().zip(&route.outcomes) {
                let labels = [("method", route.method), ("route", &route.template), ("outcome", outcome.name())];
                counter.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Time to the answer, for requests that got the answer that they asked for";
        let mut family =
            out.encode_descriptor("polyrank_request_duration_seconds", help, None, MetricType::Histogram)?;
        for route in requests.routes() {
            let labels = [("method", route.method), ("route", &*route.template)];
            route.durations.encode(family.encode_family(&labels)?)?;
        }
        let help = "Requests that are being answered, this one included";
        metric(out, "polyrank_requests_in_flight", help, &requests.in_flight)
    }

    fn queue(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let (state, metrics) = (&self.snapshot, &self.metrics);
        gauge(out, "polyrank_queued_tokens", "Tokens in the queue", state.queued_tokens as u64)?;
        let help = "Tokens that the queue may hold; requests beyond that are refused";
        gauge(out, "polyrank_queued_tokens_limit", help, state.queued_tokens_limit as u64)?;
        let help = "Time that a request's texts took to tokenize";
        metric(out, "polyrank_tokenization_duration_seconds", help, &metrics.tokenization)?;
        let help = "Time that a request waited until its first text ran";
        metric(out, "polyrank_queue_duration_seconds", help, &metrics.queue)?;
        let help = "Time that the batches with a request's texts took";
        metric(out, "polyrank_inference_duration_seconds", help, &metrics.inference)?;
        let help =
            "The adapters of the running batch and of the queue, joined by commas; the value is the time of the scrape";
        let labels = [
            ("max_lora", state.adapters_that_fit().to_string()),
            ("running_lora_adapters", joined(&state.running)),
            ("waiting_lora_adapters", joined(&state.waiting)),
        ];
        let mut family = out.encode_descriptor("polyrank_lora_requests_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(seconds(self.now)).encode(family.encode_family(&labels)?)
    }

    fn batches(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let metrics = &self.metrics;
        let help = "Time of a forward pass";
        metric(out, "polyrank_batch_duration_seconds", help, &metrics.batch_duration)?;
        let help = "Rows of a batch: a row is a text for one adapter";
        metric(out, "polyrank_batch_rows", help, &metrics.batch_rows)?;
        metric(out, "polyrank_batch_tokens", "Tokens of a batch", &metrics.batch_tokens)?;
        metric(out, "polyrank_batch_adapters", "Different adapters of a batch", &metrics.batch_adapters)
    }

    fn adapters(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let state = &self.snapshot;
        let counters = &state.counters;
        for (name, help, count) in [
            (
                "polyrank_adapter_hits",
                "Requests whose adapter was in memory, for each adapter that they ask",
                counters.hits,
            ),
            ("polyrank_adapter_loads", "Adapters that were loaded", counters.loads),
            ("polyrank_adapter_failed_loads", "Adapters that could not be loaded", counters.failed_loads),
            ("polyrank_adapter_swaps", "New versions that replaced an adapter in service", counters.swaps),
            (
                "polyrank_adapter_refused_updates",
                "New versions that were refused, for example because they were malformed",
                counters.refused_updates,
            ),
            ("polyrank_adapter_evictions", "Adapters that made room for others", counters.evictions),
        ] {
            metric(out, name, help, &ConstCounter::new(count))?;
        }
        gauge(
            out,
            "polyrank_adapters_resident",
            "Adapters in service that are in memory",
            state.residents.len() as u64,
        )?;
        let help = "Adapters that are not in service because they could not be loaded, and whose files have not changed since; \
                    GET /adapters says why";
        gauge(out, "polyrank_adapters_broken", help, state.broken as u64)?;
        gauge(out, "polyrank_adapter_memory_bytes", "Bytes of the adapters in memory", state.adapter_bytes as u64)?;
        let help = "Bytes that the adapters in memory may have together";
        gauge(out, "polyrank_adapter_memory_limit_bytes", help, state.adapter_bytes_limit as u64)
    }

    fn residents(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let help = "1 for each adapter in memory";
        let mut family = out.encode_descriptor("polyrank_adapter_resident", help, None, MetricType::Gauge)?;
        for resident in &self.snapshot.residents {
            let generation = resident.generation.to_string();
            let pinned = if resident.pinned { "true" } else { "false" };
            let labels = [("adapter", &*resident.name), ("generation", &generation), ("pinned", pinned)];
            ConstGauge::new(1u64).encode(family.encode_family(&labels)?)?;
        }
        let help = "1 for each adapter of which a newer version on disk is not served, because it is invalid, its files still change \
                    (changing), there is no room for it (memory), or it waits for a PUT (manual); GET /adapters/{name} says more";
        let updates = if self.snapshot.manual { "manual" } else { "auto" };
        let mut family = out.encode_descriptor("polyrank_adapter_update_refused", help, None, MetricType::Gauge)?;
        for (name, cause) in &self.snapshot.unserved {
            let labels = [("adapter", &**name), ("updates", updates), ("reason", cause.name())];
            ConstGauge::new(1u64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// About how many adapters fit into the memory for them, judged by those in it. It is rounded down to a power of two, because
    /// each new value of this label begins a new time series.
    fn adapters_that_fit(&self) -> usize {
        let mean = self.adapter_bytes.checked_div(self.versions).unwrap_or_default().max(1);
        let fit = if self.versions == 0 { 1 } else { self.adapter_bytes_limit / mean };
        1 << fit.max(1).ilog2()
    }
}

/// Writes a metric without labels.
fn metric(out: &mut DescriptorEncoder, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
    let encoder: MetricEncoder = out.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

/// Writes a gauge without labels.
fn gauge<N>(out: &mut DescriptorEncoder, name: &str, help: &str, value: N) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
{
    metric(out, name, help, &ConstGauge::new(value))
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// The names, sorted and joined by commas. A name with a comma is left out, because it would read as two adapters.
fn joined(names: &[Arc<str>]) -> String {
    let mut names: Vec<&str> = names.iter().map(|name| &**name).filter(|name| !name.contains(',')).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::sources::Resident;
    use super::*;
    use crate::registry::{Cause, Counters};

    fn exposition(snapshot: Snapshot) -> String {
        Arc::new(Metrics::new()).exposition(snapshot, Format::Text).unwrap()
    }

    #[test]
    fn state_of_adapters_is_written_with_escaped_names() {
        let resident = |name: &str, generation| Resident { name: name.into(), generation, pinned: generation == 2 };
        let text = exposition(Snapshot {
            running: vec!["b".into(), "a".into(), "b".into(), "x,y".into()],
            waiting: vec!["c".into()],
            adapter_bytes: 200,
            adapter_bytes_limit: 1000,
            counters: Counters { hits: 1, loads: 2, failed_loads: 3, swaps: 4, refused_updates: 5, evictions: 6 },
            residents: vec![resident("a\"\\\n", 1), resident("b", 2)],
            versions: 3,
            broken: 7,
            unserved: vec![("b".into(), Cause::Invalid)],
            stalled: Some(Duration::from_millis(1500)),
            ..Snapshot::default()
        });
        for line in [
            "polyrank_lora_requests_info{max_lora=\"8\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"c\"} 1",
            "polyrank_adapter_hits_total 1\n",
            "polyrank_adapter_loads_total 2\n",
            "polyrank_adapter_failed_loads_total 3\n",
            "polyrank_adapter_swaps_total 4\n",
            "polyrank_adapter_refused_updates_total 5\n",
            "polyrank_adapter_evictions_total 6\n",
            "polyrank_adapters_resident 2\n",
            "polyrank_adapters_broken 7\n",
            "polyrank_adapter_memory_bytes 200\n",
            "polyrank_adapter_memory_limit_bytes 1000\n",
            "polyrank_adapter_resident{adapter=\"a\\\"\\\\\\n\",generation=\"1\",pinned=\"false\"} 1\n",
            "polyrank_adapter_resident{adapter=\"b\",generation=\"2\",pinned=\"true\"} 1\n",
            "polyrank_adapter_update_refused{adapter=\"b\",updates=\"auto\",reason=\"invalid\"} 1\n",
            "polyrank_worker_stalled_seconds 1.5\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn estimate_of_adapters_that_fit_is_a_power_of_two() {
        let fit = |bytes, limit, versions| {
            Snapshot { adapter_bytes: bytes, adapter_bytes_limit: limit, versions, ..Snapshot::default() }
                .adapters_that_fit()
        };
        assert_eq!(fit(0, 1 << 30, 0), 1, "unknown");
        assert_eq!(fit(300, 1000, 3), 8);
        assert_eq!(fit(10, 5, 1), 1);
        assert_eq!(fit(0, 1 << 30, 2), 1 << 30);
    }
}
