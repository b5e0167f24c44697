//! What is around every request: ids, deadlines, times, compressed bodies, paths, other origins and logs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use polyrank::server::Origin;

use super::*;

#[test]
fn request_id_is_kept_or_made() {
    let server = World::new().start();
    let kept = server.post("/classify/plain", &[("x-request-id", "3f2a-77")], TEXT);
    assert_eq!(kept.header("x-request-id"), Some("3f2a-77"));
    for id in ["a b", &"x".repeat(129)] {
        let made = server.post("/classify/plain", &[("x-request-id", id)], TEXT);
        assert!(made.header("x-request-id").is_some_and(|made| made.len() == 32), "{made:?}");
    }
    let (one, two) = (server.get("/nowhere"), server.get("/nowhere"));
    assert_eq!(one.status, 404);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"), "errors have an id, too");
}

#[test]
fn client_can_shorten_the_time_limit() {
    let gate = Gate::default();
    let server = World::new().start_with(gate.forward());
    let ask = |timeout: &str| server.post("/classify/plain", &[("x-request-timeout-ms", timeout)], TEXT);
    assert_error(&ask("40"), 503, "TimedOut", "40ms");
    for wrong in ["0", "-1", "soon", "1.5", ""] {
        assert_error(&ask(wrong), 400, "BadRequest", "x-request-timeout-ms: expected a whole number of milliseconds");
    }
    gate.open();
    assert_eq!(ask("30000").status, 200);
    // The server's own limit stays.
    let gate = Gate::default();
    let timed = World::new().with(|config| config.request_timeout = Duration::from_millis(50));
    let server = timed.start_with(gate.forward());
    let answer = server.post("/classify/plain", &[("x-request-timeout-ms", "18446744073709551615")], TEXT);
    assert_error(&answer, 503, "TimedOut", "50ms");
    gate.open();
}

#[test]
fn answers_tell_their_times_and_tokens() {
    let server = World::new().start_with(|rows| {
        thread::sleep(Duration::from_millis(30));
        Ok(rows.iter().map(|row| vec![0.5; row.adapter.info.labels.len()]).collect())
    });
    let answer = server.classify("plain", TEXT);
    let number = |name: &str| answer.header(name).unwrap_or_else(|| panic!("{name}")).parse::<u64>().unwrap();
    let [total, tokenization, queue, inference] =
        ["x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"].map(number);
    assert!(inference >= 30 && total >= tokenization + queue + inference, "{answer:?}");
    // The text has 9 tokens in the goldens.
    assert_eq!(number("x-compute-tokens"), 9);
    assert_eq!(answer.header("x-adapter-generation"), Some("1"));
}

#[test]
fn compressed_bodies_are_read_within_the_limit() {
    let server = World::new().with(|config| config.payload_limit = 100_000).start();
    let ask = |encoding: &str, body: &[u8]| server.post("/classify/plain", &[("content-encoding", encoding)], body);
    let plain = server.classify("plain", TEXT);
    for (encoding, body) in [
        ("gzip", gzip(TEXT.as_bytes())),
        ("GZIP", gzip(TEXT.as_bytes())),
        ("x-gzip", gzip(TEXT.as_bytes())),
        // A file of several members.
        ("gzip", [gzip(&TEXT.as_bytes()[..5]), gzip(&TEXT.as_bytes()[5..])].concat()),
        ("identity", TEXT.into()),
    ] {
        let answer = ask(encoding, &body);
        assert_eq!((answer.status, &answer.body), (200, &plain.body), "{encoding}");
    }
    // 1 GiB in a megabyte, and one byte over the limit in a few hundred.
    let bomb = gzip(&vec![b' '; 1 << 30]);
    assert_error(&ask("gzip", &bomb), 413, "PayloadTooLarge", "100000 bytes");
    let over = gzip(format!("{{\"inputs\": \"{}\"}}", "a".repeat(100_001 - 14)).as_bytes());
    assert!(over.len() < 1000);
    assert_error(&ask("gzip", &over), 413, "PayloadTooLarge", "100000 bytes");
    assert_error(&ask("gzip", TEXT.as_bytes()), 400, "BadRequest", "the body is not gzip");
    let packed = gzip(TEXT.as_bytes());
    assert_error(&ask("gzip", &packed[..packed.len() - 4]), 400, "BadRequest", "the body is not gzip");
    assert_error(&ask("gzip", b""), 400, "BadRequest", "the body is not");
    for encoding in ["br", "zstd", "deflate", "gzip, gzip"] {
        let answer = ask(encoding, TEXT.as_bytes());
        assert_error(&answer, 415, "UnsupportedEncoding", encoding);
        assert_eq!(answer.header("accept-encoding"), Some("gzip"));
    }
}

#[test]
fn byte_order_mark_before_the_json_is_skipped() {
    let server = World::new().start();
    let marked = server.classify("plain", format!("\u{feff}{TEXT}"));
    assert_eq!((marked.status, &marked.body), (200, &server.classify("plain", TEXT).body));
    let several = server.post("/classify", &[], "\u{feff}{\"inputs\": \"a\", \"adapters\": [\"plain\"]}");
    assert_eq!(several.status, 200, "{several:?}");
}

#[test]
fn slash_at_the_end_of_a_path_does_not_matter() {
    let server = World::new().start();
    for path in ["/health", "/ready", "/v2/health/live", "/v2/health/ready", "/info", "/adapters", "/adapters/plain"] {
        let (without, with) = (server.get(path), server.get(&format!("{path}/")));
        assert_eq!((with.status, with.body), (200, without.body), "{path}");
    }
    assert_eq!(server.classify("plain/", TEXT).body, server.classify("plain", TEXT).body);
    let several = r#"{"inputs": "a", "adapters": ["plain"]}"#;
    assert_eq!(server.post("/classify/", &[], several).status, 200);
    assert_error(&server.get("/nowhere/"), 404, "UnknownRoute", "/nowhere");
}

/// The head of the reply to a request with these lines.
fn head(server: &Running, request: &str, lines: &str) -> String {
    let reply = server.raw(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n").as_bytes());
    reply.split("\r\n\r\n").next().unwrap().to_lowercase()
}

/// A client could fill the memory with errors that repeat what it has sent compressed.
#[test]
fn errors_repeat_no_long_names() {
    let server = World::new().start();
    let name = "\u{7f}".repeat(900_000);
    for (path, body, status) in [
        ("/v1/classify", serde_json::json!({"model": name, "input": "a"}), 404),
        ("/classify", serde_json::json!({"adapters": [name, name], "inputs": "a"}), 422),
        ("/classify/plain", serde_json::json!({"inputs": "a", "parameters": {"function_to_apply": name}}), 422),
        ("/classify/plain", serde_json::json!({"inputs": "a", "parameters": {name.as_str(): 1}}), 400),
    ] {
        let reply = server.post(path, &[], body.to_string());
        assert_eq!(reply.status, status);
        let length = reply.body.to_string().len();
        assert!(length < 5000, "{path}: {length} bytes");
    }
}

#[test]
fn only_listed_origins_may_use_the_server() {
    let preflight =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n";
    let origin = |text: &str| text.parse::<Origin>().unwrap();
    let closed = World::new().start();
    let reply = head(&closed, "GET /health", "Origin: https://app.example\r\n");
    assert!(!reply.contains("access-control"), "none by default: {reply}");

    let listed = World::new().with(|config| {
        config.cors_allow_origin = vec![origin("https://app.example"), origin("http://localhost:3000")];
        config.api_key = Some(ApiKey::new("s3cret"));
    });
    let server = listed.start();
    for origin in ["https://app.example", "http://localhost:3000"] {
        // A browser sends no key with its question whether it may.
        let reply = head(&server, "OPTIONS /classify/plain", &format!("Origin: {origin}\r\n{preflight}"));
        assert!(reply.starts_with("http/1.1 200"), "{reply}");
        assert!(reply.contains(&format!("access-control-allow-origin: {origin}")), "{reply}");
        assert!(reply.contains("access-control-allow-headers: authorization,content-type"), "{reply}");
        let reply = head(&server, "GET /info", &format!("Origin: {origin}\r\nAuthorization: Bearer s3cret\r\n"));
        assert!(reply.contains(&format!("access-control-allow-origin: {origin}")), "{reply}");
        let exposed = reply.lines().find_map(|line| line.strip_prefix("access-control-expose-headers: ")).unwrap();
        for name in ["x-request-id", "etag", "retry-after", "x-adapter-generation"] {
            assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name}: {exposed}");
        }
    }
    let reply = head(&server, "OPTIONS /classify/plain", &format!("Origin: https://other.example\r\n{preflight}"));
    assert!(!reply.contains("access-control-allow-origin"), "{reply}");

    let open = World::new().with(|config| config.cors_allow_origin = vec![origin("*")]).start();
    assert!(head(&open, "GET /health", "Origin: https://a.b\r\n").contains("access-control-allow-origin: *"));
    // Pages may replace adapters only where they need a key for it.
    let methods = |server: &Running, origin: &str| {
        let reply = head(server, "OPTIONS /adapters/plain", &format!("Origin: {origin}\r\n{preflight}"));
        reply.lines().find_map(|line| line.strip_prefix("access-control-allow-methods: ").map(str::to_owned)).unwrap()
    };
    assert_eq!(methods(&open, "https://a.b"), "get,post");
    assert_eq!(methods(&server, "https://app.example"), "get,post,put,delete");
}

/// The program on a free port, which ends when dropped.
struct Program {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    address: String,
    _home: tempfile::TempDir,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let base = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert");
        let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank"));
        command.args(["serve", "--model-id", base, "--adapters", base, "--port", "0"]).args(arguments);
        command.env("POLYRANK_HOME", home.path()).env("RUST_LOG", "warn,polyrank=debug");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the program ended");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split(|c: char| c != ':' && c != '.' && !c.is_ascii_digit()).next().unwrap().to_owned();
            }
        };
        Self { child, log, address, _home: home }
    }

    /// The first line of the log from now on that holds `part`.
    fn line_with(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the program ended");
            if line.contains(part) {
                return line;
            }
        }
    }

    fn post(&self, path: &str, id: &str, body: &str) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.post(format!("http://{}{path}", self.address)).header("x-request-id", id).send(body).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn access_log_has_a_line_for_each_request_with_its_id() {
    let mut program = Program::start(&["--access-log", "--json-output"]);
    program.post("/classify/plain", "first-1", TEXT);
    let line: Value = serde_json::from_str(&program.line_with("answered")).unwrap();
    assert_eq!(line["level"], "INFO");
    let (fields, span) = (&line["fields"], &line["span"]);
    assert_eq!((&fields["status"], &fields["tokens"]), (&json!(200), &json!(9)), "{line}");
    assert!(fields["ms"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(
        (&span["id"], &span["method"], &span["path"]),
        (&json!("first-1"), &json!("POST"), &json!("/classify/plain"))
    );

    // An error that is the client's is told at the level of debugging, with its reason.
    program.post("/classify/nobody", "second-2", TEXT);
    let line: Value = serde_json::from_str(&program.line_with("UnknownAdapter")).unwrap();
    assert_eq!((&line["level"], &line["span"]["id"]), (&json!("DEBUG"), &json!("second-2")), "{line}");
    assert_eq!((&line["fields"]["status"], &line["fields"]["error_type"]), (&json!(404), &json!("UnknownAdapter")));
    assert!(line["fields"]["message"].as_str().unwrap().contains("nobody"), "{line}");
    let line: Value = serde_json::from_str(&program.line_with("answered")).unwrap();
    assert_eq!((&line["fields"]["status"], &line["fields"]["tokens"]), (&json!(404), &json!(0)), "{line}");
}
