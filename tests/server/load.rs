//! The server under load and over time: full queues, deadlines, slow and departing clients, start and shutdown.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use polyrank::scheduler::StallTimeouts;

use super::*;

#[test]
fn full_queue_refuses_at_once() {
    let gate = Gate::default();
    let server = World::new().with(|config| config.max_queued_tokens = 10).start_with(gate.forward());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        // Larger than the whole line, it waits alone.
        let waiting =
            scope.spawn(|| server.classify("ragged", r#"{"inputs": ["good film", "bad film", "great film"]}"#));
        wait_until(|| server.app.scheduler().queued_tokens() > 0);
        let refused = server.classify("plain", TEXT);
        assert_error(&refused, 429, "Overloaded", "tokens");
        assert_eq!(refused.header("retry-after"), Some("1"));
        gate.open();
        assert_eq!(running.join().unwrap().status, 200);
        assert_eq!(waiting.join().unwrap().status, 200);
    });
}

/// A fake forward pass. Its first batch takes a second, so that the speed is known. All others wait for the gate, so that the queue
/// does not move.
fn slow_then(gate: &Gate) -> impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error> + Send + 'static {
    let (gated, first) = (gate.forward(), AtomicBool::new(true));
    move |rows| {
        if first.swap(false, Ordering::Relaxed) {
            thread::sleep(Duration::from_secs(1));
            return Ok(rows.iter().map(|row| vec![0.5; row.adapter.info.labels.len()]).collect());
        }
        gated(rows)
    }
}

/// A body with `texts` different texts of 3 tokens each.
fn good(texts: usize) -> String {
    let texts: Vec<String> = ('a'..='z').take(texts).map(String::from).collect();
    json!({ "inputs": texts }).to_string()
}

/// The answer to `asked` texts while 2 texts run and `waiting` are in the queue. The server has measured 6 tokens in slightly more
/// than a second.
fn refused_behind(server: &Running, gate: &Gate, waiting: usize, asked: usize) -> Answer {
    assert_eq!(server.classify("plain", good(2)).status, 200);
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", good(2)));
        gate.began();
        let waiting_request = scope.spawn(|| server.classify("ragged", good(waiting)));
        wait_until(|| server.app.scheduler().queued_tokens() == 3 * waiting);
        let refused = server.classify("plain", good(asked));
        gate.open();
        assert_eq!([running.join().unwrap().status, waiting_request.join().unwrap().status], [200; 2]);
        refused
    })
}

#[test]
fn full_queue_estimates_when_it_has_room() {
    let gate = Gate::default();
    let server = World::new().with(|config| config.max_queued_tokens = 30).start_with(slow_then(&gate));
    let refused = refused_behind(&server, &gate, 10, 4);
    assert_error(&refused, 429, "Overloaded", "30 tokens are queued; 4 more");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    // Before the texts are tokenized, each counts as one token: 6 + 4 tokens at 6 tokens a second. A slow machine measures a lower
    // speed.
    assert!((2..=6).contains(&seconds), "{seconds}");
}

#[test]
fn exceeded_deadline_estimates_when_it_can_be_met() {
    let gate = Gate::default();
    let timed = World::new().with(|config| config.request_timeout = Duration::from_secs(10));
    let server = timed.start_with(slow_then(&gate));
    // 48 tokens can run in 8 of the 10 s. 66 tokens come first, which are 19 too many and take slightly more than 3 s.
    let refused = refused_behind(&server, &gate, 20, 1);
    assert_error(&refused, 429, "Overloaded", "would not be answered within 10s");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3..=6).contains(&seconds), "{seconds}");
}

#[test]
fn request_times_out() {
    let gate = Gate::default();
    let timed = World::new().with(|config| config.request_timeout = Duration::from_millis(50));
    let server = timed.start_with(gate.forward());
    assert_error(&server.classify("plain", TEXT), 503, "TimedOut", "50ms");
    gate.open();
}

/// The client never completes the head of its request.
#[test]
fn silent_connection_is_closed_in_time() {
    let mut server = World::new().with(|config| config.request_timeout = Duration::from_millis(300)).start();
    let mut idle: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for (i, stream) in idle.iter_mut().enumerate() {
        stream.write_all(&b"GET /health HTTP/1.1\r\nHost: x\r\n"[..i]).unwrap();
    }
    assert_eq!(server.get("/health").status, 200);
    for mut stream in idle {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    server.stop();
    server.ended();
}

/// With 429, the client would try again for ever.
#[test]
fn unknown_adapter_gets_404_even_if_the_queue_is_full() {
    let gate = Gate::default();
    let server = World::new().with(|config| config.max_queued_tokens = 1).start_with(gate.forward());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        let waiting = scope.spawn(|| server.classify("plain", TEXT));
        wait_until(|| server.app.scheduler().queued_tokens() > 0);
        assert_error(&server.classify("nobody", TEXT), 404, "UnknownAdapter", "nobody");
        assert_error(&server.classify("plain", TEXT), 429, "Overloaded", "tokens");
        gate.open();
        assert_eq!([running.join().unwrap().status, waiting.join().unwrap().status], [200; 2]);
    });
}

#[test]
fn bug_gets_500_without_details_and_the_server_continues() {
    let server = World::new().start_with(|rows| match rows[0].text.ids.len() {
        3 => panic!("secret panic"),
        2 => Err(candle_core::Error::Msg("secret error".into()).into()),
        _ => Ok(rows.iter().map(|row| vec![if row.text.ids.len() > 12 { f32::NAN } else { 0.5 }; 2]).collect()),
    });
    for text in ["good", ""] {
        let answer = server.classify("plain", json!({"inputs": text}).to_string());
        assert_error(&answer, 500, "Internal", "internal error");
        assert!(!answer.body.to_string().contains("secret"), "{answer:?}");
    }
    // Logits that are not finite are the adapter's fault, not a bug of the server.
    let answer = server.classify("plain", r#"{"inputs": "A great movie, and the acting is THE best ever!"}"#);
    assert_error(&answer, 422, "Unprocessable", "adapter \"plain\" on this base gives logits that are not finite");
    let answer = server.classify("plain", TEXT);
    assert_eq!((answer.status, scores(&answer.body[0])), (200, vec![0.5, 0.5]));
    assert_eq!(server.get("/adapters/plain").body["requests"], 1);
}

#[test]
fn requests_of_disconnected_clients_do_not_run() {
    let gate = Gate::default();
    let server = World::new().start_with(gate.forward());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        let mut stream = TcpStream::connect(server.address).unwrap();
        let head = format!("POST /classify/plain HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", TEXT.len());
        stream.write_all(format!("{head}{TEXT}").as_bytes()).unwrap();
        wait_until(|| server.app.scheduler().queued_tokens() > 0);
        drop(stream);
        wait_until(|| {
            // A request that does not fit makes the queue drop the requests of clients that went away.
            let _ = server.app.scheduler().admits("", usize::MAX, None);
            server.app.scheduler().queued_tokens() == 0
        });
        gate.open();
        assert_eq!(running.join().unwrap().status, 200);
    });
    assert_eq!(server.get("/adapters/plain").body["requests"], 1);
}

#[test]
fn shutdown_answers_waiting_requests_and_refuses_new_ones() {
    let gate = Gate::default();
    let mut server = World::new().start_with(gate.forward());
    let mut kept = TcpStream::connect(server.address).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        // Larger than the whole line, it waits alone.
        let waiting =
            scope.spawn(|| server.classify("ragged", r#"{"inputs": ["good film", "bad film", "great film"]}"#));
        wait_until(|| server.app.scheduler().queued_tokens() > 0);
        server.stop();
        wait_until(|| server.app.is_draining());
        let refused = server.classify("plain", TEXT);
        assert_error(&refused, 503, "Draining", "");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_error(&server.get("/ready"), 503, "Draining", "");
        assert_eq!(server.get("/health").status, 200);
        gate.open();
        assert_eq!(running.join().unwrap().status, 200);
        assert_eq!(waiting.join().unwrap().status, 200);
    });
    server.ended();
    // An idle connection is closed, and does not delay the shutdown.
    assert_eq!(kept.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn start_fails_if_preloaded_adapters_are_missing_or_do_not_fit() {
    let preload = |names: [&str; 2], memory| {
        let names = names.map(str::to_owned).to_vec();
        World::new().with(|config| (config.preload, config.adapter_memory) = (names, memory)).app()
    };
    let error = preload(["plain", "nobody"], 1 << 30).err().unwrap();
    assert_eq!(error.to_string(), "--preload: no adapter is named \"nobody\"");
    // Each of the adapters fits alone, and neither may evict the other.
    let both = preload(["plain", "ragged"], 1 << 30).unwrap().registry().bytes();
    let error = preload(["plain", "ragged"], both - 1).err().unwrap();
    assert!(error.to_string().contains("preloaded adapters hold"), "{error}");
    preload(["plain", "ragged"], both).unwrap();
}

#[test]
fn one_connection_serves_many_requests() {
    let server = World::new().start();
    let request = format!("POST /classify/plain HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{TEXT}", TEXT.len());
    let last = request.replace("Host: x\r\n", "Host: x\r\nConnection: close\r\n");
    let reply = server.raw(format!("{request}{request}{last}").as_bytes());
    assert_eq!(reply.matches("HTTP/1.1 200 OK").count(), 3, "{reply}");
}

#[test]
fn health_fails_while_the_forward_pass_stalls() {
    let gate = Gate::default();
    let time = Duration::from_millis(50);
    let stall_timeouts = StallTimeouts { times: 2, least: time, unknown: time, grace: Duration::from_secs(3600) };
    let server = World::new().with(|config| config.stall_timeouts = stall_timeouts).start_with(gate.forward());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.classify("plain", TEXT));
        gate.began();
        wait_until(|| server.get("/health").status != 200);
        assert_error(&server.get("/health"), 503, "Stalled", "the forward pass has stalled");
        assert_error(&server.get("/ready"), 503, "Stalled", "the forward pass has stalled");
        gate.open();
        assert_eq!(running.join().unwrap().status, 200);
    });
    wait_until(|| server.get("/health").status == 200);
}

#[test]
fn probes_fail_once_the_device_is_lost() {
    let lost = |_: &[Row]| {
        let [source, first] = ["an illegal address", "a product"].map(|text| candle_core::Error::Msg(text.into()));
        Err(Error::DeviceLost { source, first: Box::new(first.into()) })
    };
    let server = World::new().start_with(lost);
    assert_eq!((server.get("/health").status, server.get("/ready").status), (200, 200));
    assert_error(&server.classify("plain", TEXT), 500, "Internal", "internal error");
    for path in ["/health", "/ready", "/v2/health/live", "/v2/health/ready"] {
        assert_error(&server.get(path), 503, "DeviceLost", "the device is lost");
    }
}

#[test]
fn busy_adapter_leaves_room_in_the_queue_for_others() {
    let gate = Gate::default();
    let server = World::new().with(|config| config.max_queued_tokens = 30).start_with(gate.forward());
    thread::scope(|scope| {
        let mut clients = vec![scope.spawn(|| server.classify("plain", good(1)))];
        gate.began();
        // A ninth text of 3 tokens would leave less than a quarter of what the adapter then holds.
        for waiting in 1..=8 {
            clients.push(scope.spawn(|| server.classify("plain", good(1))));
            wait_until(|| server.app.scheduler().queued_tokens() == 3 * waiting);
        }
        assert_error(&server.classify("plain", good(1)), 429, "Overloaded", "share of the queue");
        clients.push(scope.spawn(|| server.classify("ragged", good(1))));
        wait_until(|| server.app.scheduler().queued_tokens() == 27);
        gate.open();
        assert!(clients.into_iter().all(|client| client.join().unwrap().status == 200));
    });
}
