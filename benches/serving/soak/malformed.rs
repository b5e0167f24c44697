//! Malformed requests to each route. Each must get a status from 400 to 499 with a JSON error, or a closed connection where it is not
//! HTTP.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Soak;
use crate::client;
use crate::common::Failure;

const LONGEST: Duration = Duration::from_secs(20);

/// Bodies that no route accepts.
const BODIES: [&[u8]; 12] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"3",
    b"\"text\"",
    b"{}",
    b"{\"inputs\": 3}",
    b"{\"inputs\": []}",
    b"{\"inputs\": [[[\"a\"]]]}",
    b"{\"inputs\": \"\xff\xfe\"}",
    b"{\"inputs\": \"\\ud800\"}",
];

/// Bodies that `POST /classify` does not accept. Other routes have no `parameters`, and ignore them.
const PARAMETERS: [&[u8]; 5] = [
    b"{\"inputs\": \"a\", \"parameters\": 3}",
    b"{\"inputs\": \"a\", \"parameters\": {\"top_k\": -1}}",
    b"{\"inputs\": \"a\", \"parameters\": {\"top_k\": 0}}",
    b"{\"inputs\": \"a\", \"parameters\": {\"max_length\": 1}}",
    b"{\"inputs\": \"a\", \"parameters\": {\"function_to_apply\": \"tanh\"}}",
];

/// Routes that read a body.
const ROUTES: [&str; 6] = [
    "POST /classify/steady-0",
    "POST /classify",
    "POST /predict/steady-0",
    "POST /v1/classify",
    // An empty body would load an adapter that there is.
    "PUT /adapters/unknown",
    "POST /classify/unknown",
];

/// Requests without a body that have no answer.
const HEADS: [&str; 14] = [
    "GET /classify/steady-0",
    "DELETE /classify/steady-0",
    "POST /health",
    "PATCH /adapters/steady-0",
    "GET /adapters/unknown",
    "GET /adapters/..%2f..%2fetc%2fpasswd",
    "GET /adapters/%00",
    "GET /adapters/%ff",
    "GET /unknown",
    "PUT /adapters",
    "DELETE /adapters/unknown",
    "POST /docs",
    "POST /metrics",
    "GET /v1/classify",
];

/// Bytes that are not HTTP, or not a request that can be answered.
const RAW: [&[u8]; 10] = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n\r\n\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /classify/steady-0 HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /classify/steady-0 HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    b"POST /classify/steady-0 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /classify/steady-0 HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd",
    b"POST /classify/steady-0 HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{",
    b"POST /classify/steady-0 HTTP/1.1\r\nhost: x\r\nx y: z\r\ncontent-length: 2\r\n\r\n{}",
];

/// The whole table.
fn requests() -> Vec<Vec<u8>> {
    let with_body = |route: &str, body: &[u8]| {
        let head =
            format!("{route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let mut requests = Vec::new();
    for route in ROUTES {
        requests.extend(BODIES.map(|body| with_body(route, body)));
        requests.push(with_body(route, "[".repeat(20_000).as_bytes()));
        requests.push(with_body(route, " ".repeat(250_000).as_bytes()));
        let many = serde_json::json!({"inputs": vec!["a"; 1000]}).to_string();
        requests.push(with_body(route, many.as_bytes()));
    }
    requests.extend(PARAMETERS.map(|body| with_body("POST /classify/steady-0", body)));
    requests.extend(HEADS.map(|head| with_body(head, b"")));
    requests.extend(RAW.map(<[u8]>::to_vec));
    requests.push(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)).into_bytes());
    requests.push(format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1_000_000)).into_bytes());
    requests
}

/// Sends the table over and over.
pub(super) fn send(soak: &Soak, _texts: &[String]) -> Result<(), Failure> {
    let requests = requests();
    for request in requests.iter().cycle() {
        if !soak.sleep(Duration::from_millis(15)) {
            break;
        }
        let begun = Instant::now();
        let reply = client::once(soak.address, request, LONGEST);
        if soak.was_down(begun) || soak.stopped() {
            continue;
        }
        let shown = || String::from_utf8_lossy(&request[..request.len().min(160)]).into_owned();
        match reply {
            Ok(None) => soak.count("malformed: closed"),
            // Under overload, a request may be refused before its body is read.
            Ok(Some((503, _))) => soak.count("malformed: 503"),
            Ok(Some((status, text))) if (400..500).contains(&status) => {
                soak.count(format!("malformed: {status}"));
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let error: Value = serde_json::from_str(body).unwrap_or_default();
                if error["error"].as_str().is_none() || error["error_type"].as_str().is_none() {
                    soak.count(format!("malformed: {status} without JSON"));
                }
            }
            Ok(Some((_, text))) => soak.fail(format!("malformed {:?}: {text}", shown())),
            Err(error) => soak.fail(format!("malformed {:?}: {error}", shown())),
        }
    }
    Ok(())
}
