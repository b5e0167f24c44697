//! The OpenAPI document and the page that shows it.

use std::collections::BTreeSet;

use super::*;

/// The routes that are registered in `src/server/routes.rs`, except pages, the document itself, and the metrics, which are no JSON.
pub(super) fn registered() -> BTreeSet<String> {
    let source = include_str!("../../src/server/routes.rs");
    let paths = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().replace("{*", "{"));
    let others = ["/", "/docs", "/api-doc/openapi.json"];
    paths.filter(|path| !others.contains(&path.as_str())).collect()
}

#[test]
fn every_route_is_documented() {
    let server = World::new().with(|config| config.allow_adapter_updates = true).start();
    let document = server.get("/api-doc/openapi.json").body;
    let documented: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert!(documented.len() >= 10, "{documented:?}");
    assert_eq!(documented, registered());
    // Each documented method exists.
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{adapter}", "plain").replace("{name}", "plain");
            // This answer is no JSON.
            if path == "/metrics" {
                let reply = server.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
                continue;
            }
            let answer = match method.as_str() {
                "get" => server.get(&path),
                "put" => server.put("plain", "{}", None),
                "delete" => {
                    let answer = server.delete("plain", None);
                    assert_eq!(server.put("plain", "{}", None).status, 200);
                    answer
                }
                _ => server.post(&path, &[], "{}"),
            };
            assert!(![404, 405, 500].contains(&answer.status), "{method} {path}: {answer:?}");
            let status = answer.status.to_string();
            assert!(operation["responses"].get(&status).is_some(), "{method} {path}: {status} is not documented");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{method} {path}");
        }
    }
}

#[test]
fn documented_headers_are_sent() {
    let server = World::new().start();
    let document = server.get("/api-doc/openapi.json").body;
    let answer = server.post("/classify/plain", &[("x-request-id", "a")], TEXT);
    let adapter = server.get("/adapters/plain");
    for (path, method, answer) in [("/classify/{adapter}", "post", &answer), ("/adapters/{name}", "get", &adapter)] {
        let headers = document["paths"][path][method]["responses"]["200"]["headers"].as_object().unwrap();
        assert!(
            !headers.is_empty() && headers.keys().all(|name| answer.header(name).is_some()),
            "{answer:?} {headers:?}"
        );
        for (name, header) in headers.iter().filter(|(_, header)| header["schema"]["type"] == "integer") {
            assert!(answer.header(name).unwrap().parse::<u64>().is_ok(), "{name}: {answer:?} {header}");
        }
    }
    let parameters = &document["paths"]["/classify"]["post"]["parameters"];
    assert_eq!(parameters[0]["name"], "x-request-id");
    assert_eq!(parameters[1]["schema"], json!({"type": "integer", "minimum": 1}));
}

/// Lists of strings are a text or a pair on TEI's routes, and lists of such lists batches.
#[test]
fn schema_of_tei_has_the_lists_that_are_read() {
    let server = World::new().start();
    let document = server.get("/api-doc/openapi.json").body;
    let schema = &document["components"]["schemas"]["PredictBody"]["properties"]["inputs"];
    let string = json!({"type": "string"});
    let sequence = json!({"type": "array", "items": string, "minItems": 1, "maxItems": 2});
    assert_eq!(
        schema["oneOf"],
        json!([string, sequence, {"type": "array", "items": sequence, "minItems": 1}]),
        "{schema}"
    );
    for (inputs, status) in [(json!(["a", "b"]), 200), (json!([["a", "b"], ["c"]]), 200), (json!(["a", "b", "c"]), 422)]
    {
        assert_eq!(
            server.post("/predict/plain", &[], json!({"inputs": inputs}).to_string()).status,
            status,
            "{inputs}"
        );
    }
}

#[test]
fn methods_that_change_adapters_are_documented_only_where_they_exist() {
    let server = World::new().start();
    let document = server.get("/api-doc/openapi.json").body;
    let methods: Vec<&String> = document["paths"]["/adapters/{name}"].as_object().unwrap().keys().collect();
    assert_eq!(methods, ["get"]);
    assert_eq!(server.put("plain", "{}", None).status, 405);
}

/// Every reference leads to a schema, and every schema of an answer has the fields that the answer has.
#[test]
fn schemas_describe_the_answers() {
    let server = World::new().start();
    let document = server.get("/api-doc/openapi.json").body;
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let vllm = server.post("/v1/classify", &[], r#"{"model": "plain", "input": "a"}"#).body;
    for (name, answer) in [
        ("Info", &server.get("/info").body),
        ("Health", &server.get("/health").body),
        ("Status", &server.get("/adapters/plain").body),
        ("Models", &server.get("/v1/models").body),
        ("Model", &server.get("/v1/models").body["data"][0]),
        ("ErrorBody", &server.get("/nowhere").body),
        ("Scored", &server.classify("plain", TEXT).body[0][0]),
        ("VllmAnswer", &vllm),
        ("VllmClassified", &vllm["data"][0]),
        ("VllmUsage", &vllm["usage"]),
    ] {
        assert_eq!(keys(&schemas[name]["properties"]), keys(answer), "{name}");
    }
}

#[test]
fn page_needs_no_network_and_no_key() {
    let server = World::new().with(|config| config.api_key = Some(ApiKey::new("s3cret"))).start();
    let page = server.raw(b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-type: text/html"), "{page}");
    assert!(page.contains("default-src 'none'"), "{page}");
    let addresses = page.matches("http://").count() + page.matches("https://").count();
    assert_eq!(addresses, 0, "the page loads nothing from elsewhere");
    assert_eq!(server.get("/api-doc/openapi.json").status, 200);
}

/// A browser shows every route of the document.
#[test]
fn page_shows_every_route_in_a_browser() {
    let server = World::new().start();
    let folder = tempfile::tempdir().unwrap();
    let profile = format!("--user-data-dir={}", folder.path().display());
    let arguments =
        ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom", &profile];
    // Addresses may end in a slash.
    for url in ["docs", "docs/"].map(|path| format!("http://{}/{path}", server.address)) {
        let Ok(output) = std::process::Command::new("chromium").args(arguments).arg(url).output() else {
            println!("skipped: `chromium` does not run on this machine");
            return;
        };
        let page = String::from_utf8(output.stdout).unwrap();
        for path in registered() {
            assert!(page.contains(&format!("<code>{path}</code>")), "{path}: {page}");
        }
        // The body that the box proposes for POST /classify/{adapter}, and a schema.
        assert!(page.contains("Body (ClassifyBody):") && page.contains("<code>ErrorBody</code>"), "{page}");
    }
}
