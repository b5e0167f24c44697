//! The shapes that clients speak: values are compared with the goldens, and each route refuses malformed bodies.

use std::sync::{Arc, Mutex};

use super::*;

/// The goldens' texts as this project's own shape has them.
fn texts() -> Vec<Value> {
    let golden = golden();
    let texts = golden["texts"].as_array().unwrap().iter();
    texts.map(|text| json!({"text": text["text"], "text_pair": text["text_pair"]})).collect()
}

/// The goldens' logits of an adapter, in order of id, for each text.
fn logits(adapter: &str) -> Vec<Vec<f64>> {
    serde_json::from_value(golden()["adapters"][adapter]["logits"].clone()).unwrap()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let powers: Vec<f64> = logits.iter().map(|logit| logit.exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-4, "{what}: {found} {expected}");
    }
}

/// The labels of an adapter in order of id.
fn names(adapter: &str) -> Vec<String> {
    let file = format!("{}/tests/goldens/bert/{adapter}/config.json", env!("CARGO_MANIFEST_DIR"));
    let config: Value = fs::read(file).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    let name = |id: usize| config["id2label"][id.to_string()].as_str().map_or(format!("LABEL_{id}"), str::to_owned);
    (0..logits(adapter)[0].len()).map(name).collect()
}

/// The scores of an adapter's labels in order of id. Each label must be there once, and no other, best first.
fn by_id(list: &Value, adapter: &str) -> Vec<f64> {
    assert!(scores(list).is_sorted_by(|a, b| a >= b), "{list}");
    assert_eq!(list.as_array().unwrap().len(), names(adapter).len(), "{list}");
    let score = |name: String| {
        let at = labels(list).iter().position(|label| *label == name);
        scores(list)[at.unwrap_or_else(|| panic!("{name}: {list}"))]
    };
    names(adapter).into_iter().map(score).collect()
}

#[test]
fn several_adapters_answer_like_peft_in_the_order_of_the_request() {
    let server = World::new().start();
    let names = ["ragged", "bighead", "plain", "absent"];
    let parameters = json!({"function_to_apply": "none"});
    let body = json!({"inputs": texts(), "adapters": names, "parameters": parameters}).to_string();
    let answer = server.post("/classify", &[], body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body.as_object().unwrap().keys().collect::<Vec<_>>(), names);
    for name in names {
        let lists = answer.body[name].as_array().unwrap();
        assert_eq!(lists.len(), texts().len());
        for (list, logits) in lists.iter().zip(logits(name)) {
            assert_near(&by_id(list, name), &logits, name);
        }
    }
    // `top_k` and the adapter's own function apply to each.
    let body = json!({"inputs": "good", "adapters": ["plain", "bighead"], "parameters": {"top_k": 1}}).to_string();
    let top = server.post("/classify", &[], body);
    for name in ["plain", "bighead"] {
        let best = softmax(&logits(name)[0]).into_iter().fold(0.0, f64::max);
        assert_eq!(top.body[name].as_array().unwrap().len(), 1, "nested, with one text");
        assert_near(&scores(&top.body[name][0]), &[best], name);
    }
    assert_eq!(top.header("x-adapter-generation"), Some("plain=3,bighead=2"));
    assert_eq!(server.classify("plain", TEXT).header("x-adapter-generation"), Some("3"));
}

/// The rows of a text follow each other in one request, so that the adapters share its prefix.
#[test]
fn several_adapters_are_one_request_of_the_scheduler() {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&batches);
    let server = World::new().start_with(move |rows| {
        let lengths = rows.iter().map(|row| (row.text.ids.len(), row.adapter.info.labels.len())).collect::<Vec<_>>();
        seen.lock().unwrap().push(lengths);
        Ok(rows.iter().map(|row| vec![0.5; row.adapter.info.labels.len()]).collect())
    });
    let body = r#"{"inputs": ["good", "The plot was not very good."], "adapters": ["plain", "bighead"]}"#;
    let answer = server.post("/classify", &[], body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(*batches.lock().unwrap(), [[(3, 2), (3, 17), (9, 2), (9, 17)]]);
    // Each text was encoded, and counts, once.
    assert_eq!(answer.header("x-compute-tokens"), Some("12"));
    assert_eq!(server.get("/adapters/plain").body["requests"], 1);
}

#[test]
fn several_adapters_are_refused_where_one_is_unknown_or_listed_twice() {
    let server = World::new().with(|config| config.max_client_batch_size = 2).start();
    let ask = |body: &str| server.post("/classify", &[], body);
    let unknown = ask(r#"{"inputs": "a", "adapters": ["plain", "nobody"]}"#);
    assert_error(&unknown, 404, "UnknownAdapter", "\"nobody\"");
    let twice = ask(r#"{"inputs": "a", "adapters": ["plain", "plain"]}"#);
    assert_error(&twice, 422, "Unprocessable", "\"plain\" is listed more than once");
    assert_error(&ask(r#"{"inputs": "a", "adapters": []}"#), 422, "Unprocessable", "at least one name");
    assert_error(&ask(r#"{"inputs": "a", "adapters": "plain"}"#), 400, "BadRequest", "adapters: invalid type");
    let many = ask(r#"{"inputs": "a", "adapters": ["plain", "ragged", "absent"]}"#);
    assert_error(&many, 413, "TooManyAdapters", "3 adapters");
    let inside = server.classify("plain", r#"{"inputs": "a", "adapters": ["plain", "ragged"]}"#);
    assert_error(&inside, 422, "Unprocessable", "the path names the adapter");
}

/// As the semantic router's client checks it.
#[test]
fn one_text_to_the_bare_path_gets_the_flat_distribution_of_the_adapter_of_the_host() {
    let server = World::new().with(|config| config.default_adapter = Some("bighead".into())).start();
    for (host, adapter) in [
        ("RAGGED.Models", "ragged"),
        ("plain", "plain"),
        ("plain:8080", "plain"),
        ("ragged.models.svc.cluster.local:80", "ragged"),
        ("nobody.models", "bighead"),
        ("127.0.0.1:80", "bighead"),
        ("..", "bighead"),
    ] {
        let answer = server.post("/classify", &[("host", host)], r#"{"inputs": "good"}"#);
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        let scores = by_id(&answer.body, adapter);
        assert_near(&scores, &softmax(&logits(adapter)[0]), host);
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{answer:?}");
    }
    let flat = server.post("/classify", &[("host", "plain")], r#"{"inputs": {"text": "good"}}"#);
    let nested = server.post("/classify", &[("host", "plain")], r#"{"inputs": ["good"]}"#);
    assert_eq!(json!([flat.body]), nested.body);
    assert_eq!(nested.body, server.classify("plain", r#"{"inputs": "good"}"#).body);
    // A host in the request's target takes precedence over the header.
    let body = r#"{"inputs": "good"}"#;
    let reply = server.raw(
        format!(
            "POST http://plain.x/classify HTTP/1.1\r\nHost: ragged\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    assert!(reply.ends_with(&flat.body.to_string()), "{reply} {}", flat.body);
}

#[test]
fn bare_path_without_an_adapter_gets_404() {
    let server = World::new().start();
    let ask = |host: &str| server.post("/classify", &[("host", host)], r#"{"inputs": "good"}"#);
    assert_error(&ask("nobody.models"), 404, "UnknownAdapter", "host names no adapter (\"nobody\")");
    assert_error(&ask("127.0.0.1"), 404, "UnknownAdapter", "names no adapter");
    // The default adapter is named where it is missing itself.
    let server = World::new().with(|config| config.default_adapter = Some("gone".into())).start();
    let answer = server.post("/classify", &[("host", "nobody")], r#"{"inputs": "good"}"#);
    assert_error(&answer, 404, "UnknownAdapter", "\"gone\"");
}

#[test]
fn vllm_shape_has_probabilities_by_id_and_true_token_counts() {
    let server = World::new().start();
    let golden = golden();
    let single: Vec<usize> = (0..texts().len()).filter(|&i| golden["texts"][i]["text_pair"].is_null()).collect();
    let input: Vec<&Value> = single.iter().map(|&i| &golden["texts"][i]["text"]).collect();
    let tokens: usize = single.iter().map(|&i| golden["texts"][i]["ids"].as_array().unwrap().len()).sum();
    for path in ["/classify", "/v1/classify"] {
        for (use_activation, name) in [(Value::Null, "bighead"), (json!(true), "plain"), (json!(false), "ragged")] {
            let body = json!({"model": name, "input": input, "use_activation": use_activation}).to_string();
            let answer = server.post(path, &[("x-request-id", "r1")], body);
            assert_eq!(answer.status, 200, "{answer:?}");
            let body = &answer.body;
            assert_eq!(
                (&body["id"], &body["object"], &body["model"]),
                (&json!("classify-r1"), &json!("list"), &json!(name))
            );
            assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
            assert_eq!(
                body["usage"],
                json!({"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": null})
            );
            let data = body["data"].as_array().unwrap();
            assert_eq!(data.len(), single.len());
            for (index, (entry, &text)) in data.iter().zip(&single).enumerate() {
                let logits = &logits(name)[text];
                let expected = if use_activation == json!(false) { logits.clone() } else { softmax(logits) };
                let probs: Vec<f64> = serde_json::from_value(entry["probs"].clone()).unwrap();
                assert_near(&probs, &expected, name);
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                assert_eq!((&entry["index"], &entry["num_classes"]), (&json!(index), &json!(logits.len())));
                assert_eq!(entry["label"], names(name)[best]);
            }
        }
    }
    let one = server.post("/v1/classify", &[("host", "plain")], r#"{"input": "good", "truncate_prompt_tokens": 2}"#);
    assert_error(&one, 422, "Unprocessable", "max_length");
    let one =
        server.post("/v1/classify", &[("host", "plain")], r#"{"input": "good film", "truncate_prompt_tokens": 3}"#);
    assert_eq!((&one.body["model"], one.header("x-truncated")), (&json!("plain"), Some("1")), "{one:?}");
}

#[test]
fn predict_reads_lists_as_text_embeddings_inference_does() {
    let server = World::new().with(|config| config.default_adapter = Some("ragged".into())).start();
    let golden = golden();
    let sequence = |text: &Value| match &text["text_pair"] {
        Value::Null => json!([text["text"]]),
        pair => json!([text["text"], pair]),
    };
    let batch: Vec<Value> = golden["texts"].as_array().unwrap().iter().map(sequence).collect();
    for raw in [false, true] {
        let expected = |i: usize| if raw { logits("bighead")[i].clone() } else { softmax(&logits("bighead")[i]) };
        let answer = server.post("/predict/bighead", &[], json!({"inputs": batch, "raw_scores": raw}).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        for (i, list) in answer.body.as_array().unwrap().iter().enumerate() {
            assert_near(&by_id(list, "bighead"), &expected(i), "batch");
        }
        for (i, sequence) in batch.iter().enumerate() {
            let answer =
                server.post("/predict/bighead", &[], json!({"inputs": sequence, "raw_scores": raw}).to_string());
            assert_near(&by_id(&answer.body, "bighead"), &expected(i), "flat");
        }
    }
    // A `model` beside the texts names the adapter, in place of the default one.
    let named = |model: &str| server.post("/predict", &[], json!({"inputs": "good", "model": model}).to_string());
    assert_eq!(named("bighead").body, server.post("/predict/bighead", &[], r#"{"inputs": "good"}"#).body);
    assert_error(&named("nobody"), 404, "UnknownAdapter", "nobody");
    let text = server.post("/predict", &[], r#"{"inputs": "good", "truncate": null, "truncation_direction": "Right"}"#);
    assert_near(&by_id(&text.body, "ragged"), &softmax(&logits("ragged")[0]), "the default adapter");
    // At the left, the beginning is cut off: what is left is as long as the model allows.
    let words = "this film is fun and ".repeat(20);
    let ask = |inputs: &str, direction: &str| {
        let body = json!({"inputs": inputs, "truncation_direction": direction}).to_string();
        by_id(&server.post("/predict/plain", &[], body).body, "plain")
    };
    let (front, back) = (format!("boring plot {words}"), format!("{words} boring plot"));
    assert_near(&ask(&front, "left"), &ask(&words, "left"), "cut at the left");
    assert_near(&ask(&back, "right"), &ask(&words, "right"), "cut at the right");
    assert_ne!(ask(&back, "left"), ask(&back, "right"));
    let long = json!({"inputs": "this film is fun and ".repeat(50), "truncate": false}).to_string();
    assert_error(&server.post("/predict/plain", &[], long), 422, "Unprocessable", "64");
}

#[test]
fn adapters_that_cannot_be_served_are_told_before_they_are_asked() {
    let world = World::new();
    let [path, weights] =
        ["adapter_config.json", "adapter_model.safetensors"].map(|file| world.root.join("ragged").join(file));
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["use_dora"] = true.into();
    fs::write(&path, config.to_string()).unwrap();
    let server = world.start();
    let list = || -> Value {
        let list = server.get("/adapters").body;
        list.as_array().unwrap().iter().find(|status| status["name"] == "ragged").unwrap().clone()
    };
    let before = list();
    assert!(before["problem"].as_str().is_some_and(|problem| problem.contains("use_dora")), "{before}");
    assert_eq!((&before["ranks"], &before["labels"]), (&Value::Null, &Value::Null));
    let answer = server.classify("ragged", TEXT);
    assert_eq!((answer.status, &answer.body["error"]), (422, &before["problem"]));
    config["use_dora"] = false.into();
    fs::write(&path, config.to_string()).unwrap();
    wait_until(|| list()["problem"].is_null() && list()["ranks"].is_object());
    // Weights that are missing or too short for a header may still be copied for a moment.
    for (short, told) in [(Some("xx"), "adapter_model.safetensors"), (None, "adapter_model.safetensors")] {
        let of =
            |path: &std::path::PathBuf| short.map_or_else(|| fs::remove_file(path), |short| fs::write(path, short));
        of(&weights).unwrap();
        wait_until(|| list()["problem"].as_str().is_some_and(|problem| problem.contains(told)));
        let answer = server.classify("ragged", TEXT);
        assert_eq!((answer.status, &answer.body["error"]), (422, &list()["problem"]));
    }
}

#[test]
fn adapters_are_listed_as_models_of_the_base() {
    let server = World::new().start();
    let models = server.get("/v1/models").body;
    assert_eq!(models["object"], "list");
    let models = models["data"].as_array().unwrap().clone();
    let names: Vec<&Value> = models.iter().map(|model| &model["id"]).collect();
    let adapters = server.get("/adapters").body;
    assert_eq!(names, adapters.as_array().unwrap().iter().map(|adapter| &adapter["name"]).collect::<Vec<_>>());
    let find = |name: &str| adapters.as_array().unwrap().iter().find(|adapter| adapter["name"] == name).unwrap();
    for ragged in [find("ragged"), &server.get("/adapters/ragged").body] {
        assert_eq!(ragged["problem_type"], "single_label_classification");
    }
    assert_eq!(find("absent")["problem_type"], Value::Null, "its config.json does not say");
    for model in &models {
        assert_eq!(
            (&model["object"], &model["parent"], &model["owned_by"]),
            (&json!("model"), &json!("tiny"), &json!("polyrank"))
        );
        assert!(model["created"].as_u64().unwrap() > 1_700_000_000);
    }
}

/// Bodies that are refused on every route that classifies.
#[test]
fn every_route_refuses_malformed_bodies() {
    let world = World::new().with(|config| config.max_client_batch_size = 2).with(|config| config.payload_limit = 500);
    let server = world.with(|config| config.default_adapter = Some("plain".into())).start();
    let large = format!("{{\"inputs\": \"{}\"}}", "a".repeat(600));
    let everywhere: [(&[u8], u16, &str, &str); 6] = [
        (b"", 400, "BadRequest", "not JSON"),
        (b"{\"inputs\": \"\xff\"}", 400, "BadRequest", "not JSON"),
        (b"[]", 400, "BadRequest", "the body: invalid type: sequence"),
        (b"{}", 400, "BadRequest", "missing field `input"),
        (b"\xef\xbb\xbf", 400, "BadRequest", "not JSON"),
        (large.as_bytes(), 413, "PayloadTooLarge", "500 bytes"),
    ];
    for path in ["/classify", "/classify/plain", "/v1/classify", "/predict", "/predict/plain"] {
        for (body, status, error_type, part) in everywhere {
            assert_error(&server.post(path, &[], body), status, error_type, part);
        }
        assert_error(&server.get(path), 405, "MethodNotAllowed", "GET");
    }
    let each: [(&str, &str, u16, &str, &str); 16] = [
        ("/classify", r#"{"inputs": ["a", "b", "c"]}"#, 413, "TooManyTexts", "3 texts"),
        ("/classify", r#"{"inputs": []}"#, 422, "Unprocessable", "inputs: expected at least one text"),
        ("/classify", r#"{"inputs": "a", "parameters": {"top_k": 0}}"#, 422, "Unprocessable", "parameters.top_k"),
        ("/classify", r#"{"inputs": "a", "model": "plain"}"#, 422, "Unprocessable", "both `inputs` and `model`"),
        ("/classify", r#"{"inputs": "a", "input": "b"}"#, 422, "Unprocessable", "both `inputs` and `input`"),
        ("/classify", r#"{"model": "nobody", "input": "a"}"#, 404, "UnknownAdapter", "nobody"),
        ("/classify", r#"{"model": "plain"}"#, 400, "BadRequest", "missing field `input`"),
        ("/v1/classify", r#"{"model": "plain", "input": []}"#, 422, "Unprocessable", "input: expected at least one"),
        (
            "/v1/classify",
            r#"{"model": "plain", "input": [[1]]}"#,
            400,
            "BadRequest",
            "input[0]: invalid type: sequence, expected a string",
        ),
        ("/v1/classify", r#"{"model": "plain", "input": ["a", "b", "c"]}"#, 413, "TooManyTexts", "3 texts"),
        ("/v1/classify", r#"{"model": "../plain", "input": "a"}"#, 404, "UnknownAdapter", "plain"),
        ("/predict/plain", r#"{"inputs": ["a", "b", "c"]}"#, 422, "Unprocessable", "a batch is a list of lists"),
        ("/predict/plain", r#"{"inputs": [["a"], ["b"], ["c"]]}"#, 413, "TooManyTexts", "3 texts"),
        ("/predict/plain", r#"{"inputs": [[]]}"#, 422, "Unprocessable", "inputs[0]: expected one string or a pair"),
        (
            "/predict/plain",
            r#"{"inputs": "a", "truncation_direction": "up"}"#,
            422,
            "Unprocessable",
            "truncation_direction: expected left or right, found \"up\"",
        ),
        ("/predict/nobody", r#"{"inputs": "a"}"#, 404, "UnknownAdapter", "nobody"),
    ];
    for (path, body, status, error_type, part) in each {
        assert_error(&server.post(path, &[], body), status, error_type, part);
    }
}

/// The answer is 404, because trying again would not help.
#[test]
fn full_queue_refuses_every_shape_but_names_unknown_adapters() {
    let gate = Gate::default();
    let server = World::new().with(|config| config.max_queued_tokens = 1).start_with(gate.forward());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        let waiting = scope.spawn(|| server.classify("plain", TEXT));
        wait_until(|| server.app.scheduler().queued_tokens() > 0);
        for (path, known, unknown) in [
            (
                "/classify",
                r#"{"inputs": "a", "adapters": ["plain"]}"#,
                r#"{"inputs": "a", "adapters": ["plain", "nobody"]}"#,
            ),
            ("/v1/classify", r#"{"model": "plain", "input": "a"}"#, r#"{"model": "nobody", "input": "a"}"#),
        ] {
            assert_error(&server.post(path, &[], known), 429, "Overloaded", "tokens");
            assert_error(&server.post(path, &[], unknown), 404, "UnknownAdapter", "nobody");
        }
        assert_error(&server.post("/predict/plain", &[], r#"{"inputs": "a"}"#), 429, "Overloaded", "tokens");
        assert_error(&server.post("/predict/nobody", &[], r#"{"inputs": "a"}"#), 404, "UnknownAdapter", "nobody");
        gate.open();
        assert_eq!([running.join().unwrap().status, waiting.join().unwrap().status], [200; 2]);
    });
}
