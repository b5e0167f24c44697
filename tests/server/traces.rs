//! Traces, sent to a collector that is a thread of the test.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;

use super::*;

/// Accepts one export, and returns its path and its body.
fn collect(listener: &TcpListener) -> (String, Vec<u8>) {
    let mut stream = BufReader::new(listener.accept().unwrap().0);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let lower = head.to_lowercase();
    let length = lower.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body)
}

#[test]
fn request_continues_its_clients_trace_with_a_span_for_each_part() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = thread::spawn(move || collect(&listener));
    let server = World::new().with(|config| config.otlp_endpoint = Some(endpoint.parse().unwrap())).start();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = server.post("/classify/plain", &[("traceparent", parent), ("x-request-id", "traced-1")], TEXT);
    assert_eq!(answer.status, 200, "{answer:?}");
    // The last spans are sent when the server ends.
    drop(server);
    let (path, body) = collector.join().unwrap();
    assert_eq!(path, "/v1/traces");
    let contains = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    let spans = body.windows(16).filter(|window| *window == trace).count();
    assert_eq!(spans, 4, "the request and its three parts are spans of the client's trace");
    for part in ["POST /classify/{*adapter}", "tokenization", "queue", "inference", "traced-1", "polyrank"] {
        assert!(contains(part.as_bytes()), "{part}");
    }
}
