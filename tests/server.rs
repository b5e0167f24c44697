//! The server on a real socket, with the goldens' tiny base.

mod clients;
mod connections;
mod envelope;
mod harness;
mod load;
mod metrics;
mod openapi;
mod page;
mod shapes;
mod swap;
#[cfg(feature = "otlp")]
mod traces;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use candle_core::Device;
use polyrank::engine::{Engine, Error, Row};
use polyrank::params::{Backend, Precision};
use polyrank::server::{ApiKey, Config};
use serde_json::{Value, json};

use self::harness::{Answer, Gate, Running, World, golden, gzip, wait_until};

const TEXT: &str = r#"{"inputs": "The plot was not very good."}"#;

fn labels(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["label"].as_str().unwrap()).collect()
}

fn scores(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|entry| entry["score"].as_f64().unwrap()).collect()
}

fn assert_error(answer: &Answer, status: u16, error_type: &str, part: &str) {
    assert_eq!((answer.status, answer.body["error_type"].as_str()), (status, Some(error_type)), "{answer:?}");
    let error = answer.body["error"].as_str().unwrap();
    assert!(error.contains(part), "{error}");
    assert_eq!(answer.body.as_object().unwrap().len(), 2, "{answer:?}");
}

#[test]
fn concurrent_requests_of_several_adapters_answer_like_peft() {
    let server = World::new().start();
    let expected = golden();
    let texts = expected["texts"].as_array().unwrap().iter();
    let texts: Vec<Value> = texts.map(|text| json!({"text": text["text"], "text_pair": text["text_pair"]})).collect();
    let body = json!({"inputs": texts, "parameters": {"function_to_apply": "none"}}).to_string();
    thread::scope(|scope| {
        for name in ["plain", "ragged", "bighead", "onelabel", "absent", "plain", "ragged"] {
            let (server, body, expected) = (&server, &body, &expected);
            scope.spawn(move || {
                let answer = server.classify(name, body);
                assert_eq!(answer.status, 200, "{answer:?}");
                let logits = expected["adapters"][name]["logits"].as_array().unwrap();
                assert_eq!(answer.body.as_array().unwrap().len(), logits.len());
                for (list, logits) in answer.body.as_array().unwrap().iter().zip(logits) {
                    let mut logits: Vec<f64> = serde_json::from_value(logits.clone()).unwrap();
                    logits.sort_by(|a, b| b.total_cmp(a));
                    assert_eq!(scores(list).len(), logits.len());
                    for (score, logit) in scores(list).iter().zip(&logits) {
                        assert!((score - logit).abs() <= 1e-4, "{name}: {score} {logit}");
                    }
                }
            });
        }
    });
}

#[test]
fn every_shape_of_inputs_gets_a_nested_answer() {
    let server = World::new().start();
    let one = server.classify("plain", TEXT);
    assert_eq!(one.status, 200, "{one:?}");
    assert_eq!(one.body.as_array().unwrap().len(), 1);
    assert_eq!(labels(&one.body[0]), ["LABEL_1", "LABEL_0"]);
    let two = server.classify("plain", r#"{"inputs": ["The plot was not very good.", ""]}"#);
    assert_eq!(two.body[0], one.body[0]);
    assert_eq!(two.body.as_array().unwrap().len(), 2);
    let pair = r#"{"text": "The movie was boring.", "text_pair": "It was not fun."}"#;
    let single = server.classify("plain", format!(r#"{{"inputs": {pair}}}"#));
    let list = server.classify("plain", format!(r#"{{"inputs": [{pair}, {pair}]}}"#));
    assert_eq!(list.body, json!([single.body[0], single.body[0]]));
    assert_ne!(single.body[0], one.body[0]);
}

/// The scores are the sigmoids of the golden logits of the text "good", in order.
fn assert_sigmoids(list: &Value, adapter: &str) {
    let logits: Vec<f64> = serde_json::from_value(golden()["adapters"][adapter]["logits"][0].clone()).unwrap();
    let mut expected: Vec<f64> = logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    expected.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(scores(list).len(), expected.len());
    for (score, expected) in scores(list).iter().zip(&expected) {
        assert!((score - expected).abs() <= 1e-4, "{adapter}: {score} {expected}");
    }
}

/// Each label of several has a sigmoid of its own, and so has one output of which nothing says that it is a regression.
#[test]
fn problem_type_decides_the_scores() {
    let server = World::new().start();
    let path = |name: &str| server.root.join(name).join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(path("ragged")).unwrap()).unwrap();
    config["problem_type"] = json!("multi_label_classification");
    fs::write(path("ragged"), config.to_string()).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(path("onelabel")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("problem_type");
    fs::write(path("onelabel"), config.to_string()).unwrap();
    for name in ["ragged", "onelabel"] {
        assert_sigmoids(&server.classify(name, r#"{"inputs": "good"}"#).body[0], name);
    }
}

/// Texts that do not fit into one batch together run in several.
#[test]
fn batches_have_at_most_the_tokens_of_the_setting() {
    let (sender, batches) = std::sync::mpsc::channel();
    let forward = move |rows: &[Row]| {
        sender.send(rows.len()).unwrap();
        Ok(rows.iter().map(|row| vec![0.5; row.adapter.info.labels.len()]).collect())
    };
    // "good" has three tokens.
    let server = World::new().with(|config| config.max_batch_tokens = 4).start_with(forward);
    assert_eq!(server.classify("plain", r#"{"inputs": ["good", "good good"]}"#).status, 200);
    assert_eq!(batches.try_iter().collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn labels_are_sorted_by_score_and_limited_by_top_k() {
    let server = World::new().start();
    let ask =
        |parameters: &str| server.classify("bighead", format!(r#"{{"inputs": "good", "parameters": {parameters}}}"#));
    let all = ask("{}").body[0].clone();
    assert_eq!(all.as_array().unwrap().len(), 17);
    assert!(scores(&all).is_sorted_by(|a, b| a >= b));
    assert!((scores(&all).iter().sum::<f64>() - 1.0).abs() < 1e-5, "several labels get a softmax");
    assert_eq!(ask(r#"{"top_k": 3}"#).body[0].as_array().unwrap()[..], all.as_array().unwrap()[..3]);
    assert_eq!(ask(r#"{"top_k": 18446744073709551615}"#).body[0], all);
    let sigmoid = ask(r#"{"function_to_apply": "sigmoid"}"#).body[0].clone();
    assert_eq!(labels(&sigmoid), labels(&all));
    assert_sigmoids(&sigmoid, "bighead");
    // A regression answers with the value itself.
    let value = server.classify("onelabel", r#"{"inputs": "good"}"#).body[0].clone();
    assert_eq!(labels(&value), ["similarity"]);
    let expected = golden()["adapters"]["onelabel"]["logits"][0][0].as_f64().unwrap();
    assert!((scores(&value)[0] - expected).abs() <= 1e-4);
}

#[test]
fn truncation_is_reported_or_refused() {
    let long = "this film is fun and ".repeat(50);
    let body = |parameters: Value| json!({"inputs": [long, "good"], "parameters": parameters}).to_string();
    let server = World::new().start();
    let cut = server.classify("plain", body(json!({})));
    assert_eq!((cut.status, cut.header("x-truncated")), (200, Some("1")));
    assert_eq!(server.classify("plain", TEXT).header("x-truncated"), Some("0"));
    let shorter = server.classify("plain", body(json!({"max_length": 4})));
    assert_ne!(shorter.body[0], cut.body[0]);
    assert_error(&server.classify("plain", body(json!({"truncation": false}))), 422, "Unprocessable", "64");
    assert_error(&server.classify("plain", body(json!({"max_length": 1}))), 422, "Unprocessable", "max_length");

    let strict = World::new().with(|config| config.auto_truncate = false).start();
    assert_error(&strict.classify("plain", body(json!({}))), 422, "Unprocessable", "64");
    assert_eq!(strict.classify("plain", body(json!({"truncation": true}))).status, 200);
}

#[test]
fn accepts_any_content_type() {
    let server = World::new().start();
    for content_type in [None, Some("application/json"), Some("text/plain"), Some("nonsense")] {
        let mut head = "POST /classify/plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_owned();
        if let Some(content_type) = content_type {
            head += &format!("Content-Type: {content_type}\r\n");
        }
        let reply = server.raw(format!("{head}Content-Length: {}\r\n\r\n{TEXT}", TEXT.len()).as_bytes());
        assert!(reply.starts_with("HTTP/1.1 200 OK"), "{content_type:?}: {reply}");
    }
}

#[test]
fn adapter_inside_anothers_folder_is_named_with_a_slash() {
    let world = World::new();
    let inner = world.root.join("plain/other");
    fs::create_dir(&inner).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(world.root.join("onelabel").join(file), inner.join(file)).unwrap();
    }
    let server = world.start();
    for name in ["plain/other", "plain%2Fother"] {
        assert_eq!(server.classify(name, TEXT).body[0].as_array().unwrap().len(), 1);
        assert_eq!(server.get(&format!("/adapters/{name}")).body["name"], "plain/other");
    }
    assert_error(&server.classify("plain/none", TEXT), 404, "UnknownAdapter", "plain/none");
}

#[test]
fn unknown_adapters_routes_and_methods_get_json_errors() {
    let server = World::new().start();
    for name in ["nobody", "..", "%2e%2e", "..%2Fgoldens", "plain%2F..%2Fragged", "plain%00", "config.json", "%20"] {
        assert_error(&server.classify(name, TEXT), 404, "UnknownAdapter", "");
    }
    assert_error(&server.classify("%ff", TEXT), 400, "BadRequest", "");
    assert_error(&server.get("/adapters/nobody"), 404, "UnknownAdapter", "nobody");
    assert_error(&server.get("/nowhere"), 404, "UnknownRoute", "/nowhere");
    let wrong = server.get("/classify/plain");
    assert_error(&wrong, 405, "MethodNotAllowed", "GET");
    assert_eq!(wrong.header("allow"), Some("POST"));
}

#[test]
fn malformed_requests_are_refused() {
    let server = World::new().with(|config| config.max_client_batch_size = 2).start();
    let cases: [(&[u8], u16, &str, &str); 8] = [
        (b"", 400, "BadRequest", "not JSON"),
        (b"{\"inputs\": \"\xff\"}", 400, "BadRequest", "not JSON"),
        (br#"{"inputs": ["a", {"text": 1}]}"#, 400, "BadRequest", "inputs[1].text: invalid type: integer `1`"),
        (br#"{"text": "a"}"#, 400, "BadRequest", "`inputs`"),
        (br#"{"inputs": "a", "parameters": {"topk": 1}}"#, 400, "BadRequest", "topk"),
        (br#"{"inputs": []}"#, 422, "Unprocessable", "inputs: "),
        (br#"{"inputs": "a", "parameters": {"top_k": 0}}"#, 422, "Unprocessable", "parameters.top_k: "),
        (br#"{"inputs": ["a", "b", "c"]}"#, 413, "TooManyTexts", "3 texts"),
    ];
    for (body, status, error_type, part) in cases {
        assert_error(&server.classify("plain", body), status, error_type, part);
    }
    // So many that the parser keeps no more of them.
    let many = json!({"inputs": vec!["a"; 20_000]}).to_string();
    assert_error(&server.classify("plain", many), 413, "TooManyTexts", "20000 texts; at most 2");
    assert_eq!(server.classify("plain", r#"{"inputs": ["a", ""]}"#).status, 200);
}

#[test]
fn body_over_the_limit_gets_413() {
    let server = World::new().with(|config| config.payload_limit = 1000).start();
    let body = |length: usize| format!("{{\"inputs\": \"{}\"}}", "a".repeat(length - 14));
    assert_eq!(server.classify("plain", body(1000)).status, 200);
    // The client still writes when the limit is exceeded, and must get the answer nonetheless.
    for length in [1001, 15_000] {
        assert_error(&server.classify("plain", body(length)), 413, "PayloadTooLarge", "1000 bytes");
    }
    let chunk = format!("{:x}\r\n{}\r\n", 600, "a".repeat(600));
    let head = "POST /classify/plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = server.raw(format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes());
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
    // A body whose announced length is far too long is refused before the client sends any of it.
    let head = "POST /classify/plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n\
                Expect: 100-continue\r\n\r\n";
    let reply = server.raw(head.as_bytes());
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
    // So is one whose length fits into no number.
    for length in ["18446744073709551613", "18446744073709551615", "18446744073709551616", &"9".repeat(100)] {
        let reply = server.raw(head.replace("99999999999", length).as_bytes());
        assert!(reply.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{length}: {reply}");
        let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body, json!({"error": "the body is larger than 1000 bytes", "error_type": "PayloadTooLarge"}));
    }
}

#[test]
fn error_names_file_of_invalid_adapter() {
    let world = World::new();
    fs::copy(world.root.join("config.json"), world.root.join("plain/adapter_model.safetensors")).unwrap();
    let server = world.start();
    let answer = server.classify("plain", TEXT);
    assert_error(&answer, 422, "InvalidAdapter", "adapter_model.safetensors");
    assert!(!answer.body["error"].as_str().unwrap().contains(&*server.root.to_string_lossy()), "{answer:?}");
    assert_error(&server.get("/adapters/plain"), 422, "InvalidAdapter", "adapter_model.safetensors");
    assert_eq!(server.classify("ragged", TEXT).status, 200);
}

/// The error names the base, and not the first shape that differs.
#[test]
fn error_says_that_an_adapter_is_of_another_base() {
    let world = World::new();
    let path = world.root.join("ragged/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["polyrank"] = json!({"base_fingerprint": "sha256:other"});
    fs::write(&path, config.to_string()).unwrap();
    // The shapes of this adapter's tensors differ as well.
    fs::copy(world.root.join("bighead/adapter_model.safetensors"), world.root.join("ragged/adapter_model.safetensors"))
        .unwrap();
    assert_error(
        &world.start().classify("ragged", TEXT),
        422,
        "InvalidAdapter",
        "trained on the base base (sha256:other)",
    );
}

#[test]
fn info_reports_the_precision() {
    let world = World::new();
    let base = world.root.clone();
    let engine = Engine::prepacked(&base, &Device::Cpu, Precision::Int8, None).unwrap();
    assert_eq!(world.start_over(engine).get("/info").body["dtype"], "int8");
}

/// The reference and the CPU's kernels give the same answers to 1e-4, for every adapter, for one text and for several.
#[test]
fn server_on_the_reference_answers_as_on_the_cpu() {
    let cpu = World::new().start();
    let world = World::new();
    let reference = Backend::reference(Device::Cpu);
    let engine = Engine::open(&world.root, &reference).unwrap();
    let server = world.start_over(engine);
    assert_eq!(server.get("/info").body["device"], "reference");
    let golden = golden();
    let texts: Vec<Value> = golden["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| json!({"text": text["text"], "text_pair": text["text_pair"]}))
        .collect();
    let parameters = json!({"function_to_apply": "none"});
    let (mut compared, mut worst) = (0, 0.0f64);
    for name in golden["adapters"].as_object().unwrap().keys() {
        let all = json!({"inputs": texts, "parameters": parameters}).to_string();
        let each = texts.iter().map(|text| json!({"inputs": text, "parameters": parameters}).to_string());
        for body in std::iter::once(all).chain(each) {
            let [ours, theirs] = [&cpu, &server].map(|server| server.classify(name, &body));
            assert_eq!((ours.status, theirs.status), (200, 200), "{ours:?} {theirs:?}");
            let scores = |answer: &Value| -> Vec<Vec<(String, f64)>> {
                let texts = answer.as_array().unwrap().iter();
                texts
                    .map(|text| {
                        let mut scored: Vec<(String, f64)> = text
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|scored| {
                                (scored["label"].as_str().unwrap().to_owned(), scored["score"].as_f64().unwrap())
                            })
                            .collect();
                        scored.sort_by(|a, b| a.0.cmp(&b.0));
                        scored
                    })
                    .collect()
            };
            let (ours, theirs) = (scores(&ours.body), scores(&theirs.body));
            assert_eq!(ours.len(), theirs.len());
            for ((label, a), (other, b)) in ours.iter().flatten().zip(theirs.iter().flatten()) {
                assert_eq!(label, other);
                worst = worst.max((a - b).abs());
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared} scores");
    assert!(worst <= 1e-4, "scores differ by {worst}");
}

/// However many requests arrive at once, only a few are tokenized at a time, and each is answered.
#[test]
fn large_texts_wait_for_permits_to_be_tokenized() {
    let server = World::new().with(|config| config.payload_limit = 600_000).start();
    let body = json!({"inputs": "this film is fun and ".repeat(25_000)}).to_string();
    thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| server.classify("plain", body.clone()))).collect();
        let small: Vec<_> = (0..4).map(|_| scope.spawn(|| server.classify("ragged", TEXT))).collect();
        for answer in asked {
            let answer = answer.join().unwrap();
            assert_eq!((answer.status, answer.header("x-truncated")), (200, Some("1")), "{answer:?}");
        }
        for answer in small {
            assert_eq!(answer.join().unwrap().status, 200);
        }
    });
}

#[test]
fn adapters_are_evicted_refused_or_pinned_within_memory() {
    // The memory is just enough for `plain`; `ragged` is larger.
    let bytes = {
        let server = World::new().start();
        server.get("/adapters/plain").body["bytes"].as_u64().unwrap() as usize
    };
    let server = World::new().with(|config| config.adapter_memory = bytes).start();
    assert_eq!(server.classify("plain", TEXT).status, 200);
    assert_error(&server.classify("ragged", TEXT), 422, "InvalidAdapter", &format!("{bytes} bytes"));
    assert_eq!(server.classify("absent", TEXT).status, 200, "plain is evicted");
    assert_eq!(server.get("/adapters/plain").body["tier"], "disk");
    // It is not evicted while a running request pins it.
    let gate = Gate::default();
    let short = |config: &mut Config| (config.adapter_memory, config.request_timeout) = (bytes, Duration::from_secs(4));
    let server = World::new().with(short).start_with(gate.forward());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        let busy = server.classify("absent", TEXT);
        assert_error(&busy, 429, "Overloaded", "in use");
        assert_eq!(busy.header("retry-after"), Some("1"));
        gate.open();
        assert_eq!(running.join().unwrap().status, 200);
    });
    assert_eq!(server.classify("absent", TEXT).status, 200);
}

#[test]
fn reports_its_settings_and_adapters() {
    let server = World::new().with(|config| config.preload = vec!["onelabel".into()]).start();
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").status, 200);
    let info = server.get("/info").body;
    assert_eq!((&info["model_id"], &info["device"], &info["max_length"]), (&json!("tiny"), &json!("cpu"), &json!(64)));
    assert_eq!((&info["adapters_in_memory"], &info["dtype"]), (&json!(1), &json!("f32")));

    let list = server.get("/adapters").body;
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|adapter| adapter["name"].as_str().unwrap()).collect();
    assert!(names.is_sorted() && ["plain", "ragged", "onelabel"].iter().all(|name| names.contains(name)), "{names:?}");
    let of = |name: &str| list.as_array().unwrap().iter().find(|adapter| adapter["name"] == name).unwrap();
    assert_eq!(
        of("plain"),
        &json!({"name": "plain", "tier": "disk", "pinned": false, "requests": 0, "generation": null, "bytes": null,
        "ranks": {"query": [4, 4, 4], "key": [0, 0, 0], "value": [4, 4, 4], "attention output": [0, 0, 0],
                  "intermediate": [4, 4, 4], "output": [0, 0, 0]},
        "labels": ["LABEL_0", "LABEL_1"], "problem_type": null,
        "first_active_site": {"layer": 0, "module": "attention.self.query"}, "problem": null, "warning": null})
    );
    assert_eq!((&of("onelabel")["tier"], &of("onelabel")["labels"]), (&json!("memory"), &json!(["similarity"])));

    for _ in 0..3 {
        server.classify("plain", TEXT);
    }
    let plain = server.get("/adapters/plain").body;
    assert_eq!((&plain["requests"], &plain["generation"], &plain["tier"]), (&json!(3), &json!(2), &json!("memory")));
    assert_eq!(plain["ranks"]["query"], json!([4, 4, 4]));
    assert_eq!(plain["ranks"]["key"], json!([0, 0, 0]));
    assert_eq!(plain["first_active_site"], json!({"layer": 0, "module": "attention.self.query"}));
    // Deltas of rank 4 for query and value (32 x 32) and intermediate (32 x 64) in three layers, and a head of two labels.
    assert_eq!(plain["bytes"], 4 * (3 * 4 * (64 + 64 + 96) + 2 * 32 + 2));
}

#[test]
fn every_route_except_probes_needs_the_api_key() {
    let server = World::new().with(|config| config.api_key = Some(ApiKey::new("s3cret"))).start();
    let probes = ["/health", "/ready", "/v2/health/live", "/v2/health/ready"];
    for path in probes {
        assert_eq!(server.get(path).status, 200, "probes carry no key");
    }
    let others = openapi::registered().into_iter().chain(["/nowhere".to_owned()]);
    for path in others.filter(|path| !probes.contains(&&**path)) {
        let path = path.replace("{adapter}", "plain").replace("{name}", "plain");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let reply = server.raw(head.as_bytes());
            assert!(
                reply.starts_with("HTTP/1.1 401") && reply.contains("www-authenticate: Bearer"),
                "{method} {path}: {reply}"
            );
        }
    }
    for (authorization, status) in [
        (None, 401),
        (Some("Bearer wrong"), 401),
        (Some("Bearer s3cret2"), 401),
        (Some("Bearer"), 401),
        (Some("Basic s3cret"), 401),
        (Some("s3cret"), 401),
        (Some("Bearer s3cret"), 200),
        (Some("bearer s3cret"), 200),
    ] {
        let answer = server.classify_as(authorization, "plain", TEXT);
        assert_eq!(answer.status, status, "{authorization:?}");
    }
}
