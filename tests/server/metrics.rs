//! `/metrics` of a running server, read by a strict parser.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::*;

/// A series: its name and its labels, in order of name.
type Series = (String, BTreeMap<String, String>);

/// The samples of one scrape.
#[derive(Debug, Default)]
struct Scrape {
    samples: BTreeMap<Series, f64>,
    /// The type of each family.
    types: BTreeMap<String, String>,
}

impl Scrape {
    fn of(server: &Running) -> Self {
        let reply = get(server, "/metrics", "");
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        Self::parse(body)
    }

    /// Parses the text format 0.0.4. It panics where the text breaks the format's rules or Prometheus's conventions.
    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        let (mut family, mut described) = (String::new(), String::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(!help.is_empty() && !scrape.types.contains_key(name), "{line}");
                described = name.into();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, described, "a family without help");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(scrape.types.insert(name.into(), kind.into()).is_none(), "{line}");
                family = name.into();
            } else {
                let (series, value) = sample(line);
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.0.strip_suffix(end));
                let belongs = if scrape.types[&family] == "histogram" { base } else { Some(&*series.0) };
                assert_eq!(belongs, Some(&*family), "{line}");
                assert!(scrape.samples.insert(series, value).is_none(), "twice: {line}");
            }
        }
        scrape.check_histograms();
        scrape
    }

    /// Buckets must not decrease, and the last one must hold every observation.
    fn check_histograms(&self) {
        let mut last: BTreeMap<Series, Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            let Some(base) = name.strip_suffix("_bucket") else { continue };
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap();
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            last.entry((base.into(), labels)).or_default().push((bound, *value));
        }
        for ((base, labels), mut buckets) in last {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{base}");
            let (bound, count) = buckets.last().unwrap();
            assert_eq!((*bound, *count), (f64::INFINITY, self.samples[&(format!("{base}_count"), labels)]), "{base}");
        }
    }

    /// The value of the only series of this name.
    fn value(&self, name: &str) -> f64 {
        let mut all = self.samples.iter().filter(|((series, _), _)| series == name).map(|(_, value)| *value);
        let value = all.next().unwrap_or_else(|| panic!("no {name}"));
        assert!(all.next().is_none(), "several {name}");
        value
    }

    /// The requests counted for a route, by outcome, without zeros.
    fn outcomes(&self, method: &str, route: &str) -> BTreeMap<&str, f64> {
        let mine = self.samples.iter().filter(|((name, labels), value)| {
            name == "polyrank_requests_total" && labels["method"] == method && labels["route"] == route && **value > 0.0
        });
        mine.map(|((_, labels), value)| (&*labels["outcome"], *value)).collect()
    }

    fn series(&self) -> BTreeSet<&Series> {
        self.samples.keys().collect()
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Parses `name{label="value",...} value`.
fn sample(line: &str) -> (Series, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    while rest != "}" {
        let (label, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(label), "{line}");
        let (text, length) = quoted(after);
        assert!(labels.insert(label.into(), text).is_none(), "{line}");
        rest = &after[length..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    ((name.into(), labels), value)
}

/// The text before the closing quote without its escapes, and the length of all up to and with that quote.
fn quoted(text: &str) -> (String, usize) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, at + 1),
            '\\' => value.push(match characters.next().unwrap().1 {
                'n' => '\n',
                other @ ('"' | '\\') => other,
                other => panic!("\\{other}"),
            }),
            other => value.push(other),
        }
    }
    panic!("no closing quote: {text}")
}

fn get(server: &Running, path: &str, headers: &str) -> String {
    server.raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes())
}

/// The outcomes of `POST /classify/{adapter}`, once `outcome` is among them.
fn wait_for(server: &Running, outcome: &str) -> String {
    let outcomes = || format!("{:?}", Scrape::of(server).outcomes("POST", "/classify/{adapter}"));
    wait_until(|| outcomes().contains(outcome));
    outcomes()
}

#[test]
fn all_counters_are_there_with_zeros_at_the_start() {
    let server = World::new().start();
    let scrape = Scrape::of(&server);
    let nonzero = [
        "polyrank_build_info",
        "process_start_time_seconds",
        "polyrank_requests_in_flight",
        "polyrank_queued_tokens_limit",
        "polyrank_adapter_memory_limit_bytes",
        "polyrank_lora_requests_info",
    ];
    for ((name, labels), value) in &scrape.samples {
        assert_eq!(*value != 0.0, nonzero.contains(&&**name), "{name} {labels:?} {value}");
    }
    let outcomes = ["answered", "refused", "expired", "rejected", "unavailable", "failed", "abandoned"];
    for (method, route) in [("POST", "/classify/{adapter}"), ("GET", "/adapters/{name}"), ("other", "other")] {
        for outcome in outcomes {
            let labels = [("method", method), ("route", route), ("outcome", outcome)];
            let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            assert!(scrape.samples.contains_key(&("polyrank_requests_total".into(), labels)), "{route} {outcome}");
        }
    }
    assert_eq!(scrape.value("polyrank_requests_in_flight"), 1.0, "the scrape itself");
    assert_eq!(scrape.value("polyrank_adapters_resident"), 0.0);
    let age = scrape.value("process_start_time_seconds") - 1e9;
    assert!(age > 0.0, "seconds since 1970");
}

#[test]
fn answered_and_rejected_requests_are_counted_with_their_times() {
    let server = World::new().start();
    assert_eq!(server.classify("ragged", r#"{"inputs": ["good", "a good film"]}"#).status, 200);
    assert_eq!(server.classify("plain", TEXT).status, 200);
    assert_eq!(server.classify("plain", "{").status, 400);
    assert_eq!(server.classify("unknown", TEXT).status, 404);
    assert_eq!(server.get("/classify/plain").status, 405);
    let scrape = Scrape::of(&server);
    let outcomes = scrape.outcomes("POST", "/classify/{adapter}");
    assert_eq!(outcomes, BTreeMap::from([("answered", 2.0), ("rejected", 2.0)]));
    assert_eq!(scrape.outcomes("other", "other"), BTreeMap::from([("rejected", 1.0)]));
    for (name, count) in [
        ("polyrank_tokenization_duration_seconds", 2.0),
        ("polyrank_queue_duration_seconds", 2.0),
        ("polyrank_inference_duration_seconds", 2.0),
        ("polyrank_batch_duration_seconds", 2.0),
        ("polyrank_batch_rows", 2.0),
        ("polyrank_batch_tokens", 2.0),
        ("polyrank_batch_adapters", 2.0),
    ] {
        assert_eq!(scrape.value(&format!("{name}_count")), count, "{name}");
    }
    assert!(scrape.value("polyrank_tokenization_duration_seconds_sum") > 0.0);
    assert_eq!(scrape.value("polyrank_batch_rows_sum"), 3.0);
    assert_eq!(scrape.value("polyrank_batch_adapters_sum"), 2.0);
    assert!(scrape.value("polyrank_batch_tokens_sum") > 9.0);
    assert_eq!(scrape.value("polyrank_adapters_resident"), 2.0);
    assert_eq!(scrape.value("polyrank_adapter_memory_bytes"), server.app.registry().bytes() as f64);
    let residents = scrape.samples.keys().filter(|(name, _)| name == "polyrank_adapter_resident");
    let residents: Vec<_> = residents.map(|(_, labels)| (&*labels["adapter"], &*labels["generation"])).collect();
    assert_eq!(residents, [("plain", "2"), ("ragged", "1")]);
}

#[test]
fn refused_requests_are_counted() {
    let gate = Gate::default();
    let server = World::new().with(|config| config.max_queued_tokens = 10).start_with(gate.forward());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        let waiting =
            scope.spawn(|| server.classify("ragged", r#"{"inputs": ["good film", "good film", "good film"]}"#));
        wait_until(|| server.app.scheduler().queued_tokens() > 0);
        assert_eq!(server.classify("plain", TEXT).status, 429);
        let scrape = Scrape::of(&server);
        assert_eq!(scrape.outcomes("POST", "/classify/{adapter}"), BTreeMap::from([("refused", 1.0)]));
        assert_eq!(scrape.value("polyrank_requests_in_flight"), 3.0);
        assert!(scrape.value("polyrank_queued_tokens") > 0.0);
        gate.open();
        assert_eq!([running.join().unwrap().status, waiting.join().unwrap().status], [200; 2]);
    });
    assert_eq!(wait_for(&server, "answered"), r#"{"answered": 2.0, "refused": 1.0}"#);
}

#[test]
fn expired_requests_are_counted() {
    let gate = Gate::default();
    let short = |config: &mut polyrank::server::Config| config.request_timeout = Duration::from_millis(50);
    let server = World::new().with(short).start_with(gate.forward());
    assert_eq!(server.classify("plain", TEXT).status, 503);
    assert_eq!(wait_for(&server, "expired"), r#"{"expired": 1.0}"#);
    gate.open();
}

#[test]
fn failed_requests_are_counted() {
    let server = World::new().start_with(|_| panic!("a bug"));
    assert_eq!(server.classify("plain", TEXT).status, 500);
    assert_eq!(wait_for(&server, "failed"), r#"{"failed": 1.0}"#);
}

#[test]
fn requests_while_draining_are_counted_as_unavailable() {
    let server = World::new().start();
    server.app.scheduler().close();
    assert_eq!(server.classify("plain", TEXT).status, 503);
    assert_eq!(wait_for(&server, "unavailable"), r#"{"unavailable": 1.0}"#);
}

#[test]
fn requests_whose_client_hangs_up_are_counted_as_abandoned() {
    let gate = Gate::default();
    let server = World::new().start_with(gate.forward());
    let head = format!("POST /classify/plain HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{TEXT}", TEXT.len());
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    gate.began();
    drop(stream);
    assert_eq!(wait_for(&server, "abandoned"), r#"{"abandoned": 1.0}"#);
    assert_eq!(Scrape::of(&server).value("polyrank_requests_in_flight"), 1.0);
    gate.open();
}

/// An adapter that is broken from the start is counted once it was asked for. The count ends with its repair, which nobody has to ask for.
#[test]
fn broken_adapters_are_counted_until_they_are_repaired() {
    let world = World::new();
    let weights = world.root.join("plain/adapter_model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, "not a safetensors file").unwrap();
    let server = world.start();
    let broken = || Scrape::of(&server).value("polyrank_adapters_broken");
    assert_eq!(server.classify("plain", TEXT).status, 422);
    assert_eq!(server.classify("nobody", TEXT).status, 404);
    // A failed load answers requests for a second.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(broken(), 1.0);
    fs::write(&weights, whole).unwrap();
    wait_until(|| broken() == 0.0);
    assert_eq!(server.classify("plain", TEXT).status, 200);
}

#[test]
fn clients_cannot_add_series() {
    let server = World::new().start();
    let before = Scrape::of(&server);
    for n in 0..20 {
        for (method, path) in [
            ("GET", format!("/nowhere/{n}")),
            ("GET", format!("/adapters/unknown-{n}")),
            ("POST", format!("/classify/unknown-{n}?query={n}")),
            ("POST", format!("/v9/{n}")),
        ] {
            let reply =
                server.raw(format!("{method} {path} HTTP/1.1\r\nHost: {n}\r\nConnection: close\r\n\r\n").as_bytes());
            assert!(reply.starts_with("HTTP/1.1 4"), "{reply}");
        }
        let reply =
            server.raw(format!("METHOD{n} /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
        assert!(reply.starts_with("HTTP/1.1 405"), "{reply}");
    }
    let after = Scrape::of(&server);
    assert_eq!(after.series(), before.series());
    assert_eq!(after.outcomes("other", "other"), BTreeMap::from([("rejected", 60.0)]));
    assert_eq!(after.outcomes("GET", "/adapters/{name}"), BTreeMap::from([("rejected", 20.0)]));
}

#[test]
fn metrics_need_the_key_and_come_in_the_accepted_format() {
    let server = World::new().with(|config| config.api_key = Some(ApiKey::new("s3cret"))).start();
    assert!(get(&server, "/metrics", "").starts_with("HTTP/1.1 401"));
    let accept =
        "Authorization: Bearer s3cret\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let reply = get(&server, "/metrics", accept);
    assert!(reply.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{reply}");
    assert!(reply.contains("# TYPE polyrank_requests counter\n") && reply.ends_with("# EOF\n"), "{reply}");
    let text = get(&server, "/metrics", "Authorization: Bearer s3cret\r\nAccept: text/plain\r\n");
    let scrape = Scrape::parse(text.split_once("\r\n\r\n").unwrap().1);
    assert_eq!(scrape.outcomes("GET", "/metrics"), BTreeMap::from([("answered", 1.0), ("rejected", 1.0)]));
}

/// The source of the server's routes.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: std::path::PathBuf| {
        if path.is_dir() { sources(&path) } else { String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned() }
    };
    entries.map(text).collect()
}

#[test]
fn every_route_has_its_own_counters() {
    let code = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server"));
    let server = World::new().start();
    let scrape = Scrape::of(&server);
    let mut found = 0;
    for route in code.split(".route(\"").skip(1) {
        let (path, handlers) = route.split_once('"').unwrap();
        let handlers = handlers.lines().next().unwrap();
        for method in ["get", "post", "put", "delete"].iter().filter(|method| handlers.contains(&format!("{method}(")))
        {
            let (method, path) = (method.to_uppercase(), path.replace("{*", "{"));
            let known = scrape.samples.keys().any(|(name, labels)| {
                name == "polyrank_requests_total" && labels["method"] == method && labels["route"] == path
            });
            assert!(known, "{method} {path} is not in the table of src/server/metrics/requests.rs");
            found += 1;
        }
    }
    assert!(found >= 8, "{found}");
}

#[test]
fn alerts_and_board_name_only_metrics_that_exist() {
    let server = World::new().start();
    let scrape = Scrape::of(&server);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/observability");
    let mut used = BTreeSet::new();
    for file in ["alerts.yml", "grafana.json"] {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<_> =
            words.filter(|word| word.starts_with("polyrank_") || word.starts_with("process_")).collect();
        assert!(names.len() > 5, "{file}: {names:?}");
        for name in &names {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(
                [Some(*name), base].into_iter().flatten().any(|name| scrape.types.contains_key(name)),
                "{file}: {name}"
            );
        }
        used.extend(names.into_iter().map(str::to_owned));
    }
    serde_json::from_slice::<Value>(&fs::read(folder.join("grafana.json")).unwrap()).unwrap();
    // The board shows everything but the gauge that only the inference gateway reads.
    for family in scrape.types.keys().filter(|family| *family != "polyrank_lora_requests_info") {
        assert!(used.iter().any(|name| name.starts_with(family.as_str())), "no panel or alert uses {family}");
    }
}
