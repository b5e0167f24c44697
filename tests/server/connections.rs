//! What connections may do, and for how long: idle, slow and silent clients, large bodies, and the shutdown.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::*;

/// A request for `/classify/plain`.
fn request() -> String {
    format!("POST /classify/plain HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{TEXT}", TEXT.len())
}

/// The head of a request with a body of `length` bytes.
fn head(length: usize) -> String {
    format!("POST /classify/plain HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

fn connect(server: &Running) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Reads one answer from a connection that stays open: its head, and its body.
fn read_answer(stream: &mut TcpStream) -> (String, Value) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

/// How long the server takes to close the connection.
fn closed_after(stream: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    begun.elapsed()
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn idle_connections_outlive_the_request_timeout() {
    let server =
        World::new().with(|config| (config.request_timeout, config.keep_alive_timeout) = (ms(1000), ms(5000))).start();
    let mut stream = connect(&server);
    for _ in 0..2 {
        stream.write_all(request().as_bytes()).unwrap();
        let (head, _) = read_answer(&mut stream);
        assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");
        thread::sleep(ms(2000));
    }
    // The clock began with the last answer, 2 s ago.
    let waited = closed_after(&mut stream);
    assert!(waited < ms(10_000), "{waited:?}");
}

/// An answer that does not need the body is sent before the body was read. The client may send its next request on the connection.
#[test]
fn connections_outlive_bodies_that_are_not_needed() {
    let server = World::new()
        .with(|config| (config.api_key, config.payload_limit) = (Some(ApiKey::new("s3cret")), 50_000))
        .start();
    let with_key = |line: &str, header: &str, length: usize| {
        format!(
            "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n{header}Content-Length: {length}\r\n\r\n"
        )
    };
    let cases = [
        (head(400_000), 400_000, "401"),
        (with_key("POST /nowhere", "", 400_000), 400_000, "404"),
        (with_key("PATCH /classify/plain", "", 400_000), 400_000, "405"),
        (with_key("POST /classify/plain", "x-request-timeout-ms: soon\r\n", 400_000), 400_000, "400"),
        (with_key("POST /classify/plain", "Content-Encoding: br\r\n", 40_000), 40_000, "415"),
        (with_key("POST /classify/plain", "", 400_000), 400_000, "413"),
    ];
    for (head, length, status) in cases {
        let mut stream = connect(&server);
        for _ in 0..3 {
            stream.write_all(head.as_bytes()).unwrap();
            for _ in 0..length / 10_000 {
                stream.write_all(&[b' '; 10_000]).unwrap();
            }
            let (answer, _) = read_answer(&mut stream);
            assert!(answer.starts_with(&format!("http/1.1 {status}")), "{head}: {answer}");
            assert!(!answer.contains("connection: close"), "{head}: {answer}");
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let (answer, _) = read_answer(&mut stream);
            assert!(answer.starts_with("http/1.1 200"), "{head}: {answer}");
        }
    }
    // More than 16 times the limit is not read. A client that waits to be asked sends nothing.
    let asking = "Expect: 100-continue\r\n";
    let closing = [
        (with_key("POST /classify/plain", "", 1_000_000), "413"),
        (with_key("POST /classify/plain", asking, 50_001), "413"),
        (with_key("POST /nowhere", asking, 100), "404"),
    ];
    // Whoever does not wait sends the body, which is read.
    let mut stream = connect(&server);
    let other = with_key("POST /nowhere", "Expect: 100-continue, other\r\n", 40_000);
    stream.write_all(format!("{other}{}", " ".repeat(40_000)).as_bytes()).unwrap();
    let (answer, _) = read_answer(&mut stream);
    assert!(answer.starts_with("http/1.1 404") && !answer.contains("connection: close"), "{answer}");
    for (head, status) in closing {
        let mut stream = connect(&server);
        stream.write_all(head.as_bytes()).unwrap();
        let (answer, _) = read_answer(&mut stream);
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{head}: {answer}");
        assert!(answer.contains("connection: close"), "{head}: {answer}");
    }
}

/// The rest of a body is no head, whose limit is shorter than that of an idle connection.
#[test]
fn connections_stay_idle_after_a_body_that_was_not_needed() {
    let world = World::new().with(|config| {
        (config.request_timeout, config.keep_alive_timeout, config.payload_limit) = (ms(1000), ms(8000), 50_000);
    });
    let server = world.start();
    let mut stream = connect(&server);
    stream.write_all(head(150_000).as_bytes()).unwrap();
    let (answer, _) = read_answer(&mut stream);
    assert!(answer.starts_with("http/1.1 413"), "{answer}");
    stream.write_all(&[b'\n'; 150_000]).unwrap();
    thread::sleep(ms(2500));
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (answer, _) = read_answer(&mut stream);
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    // A client that does not send the rest loses the connection, and no other request waits for it.
    let mut stream = connect(&server);
    stream.write_all(head(150_000).as_bytes()).unwrap();
    read_answer(&mut stream);
    let waited = closed_after(&mut stream);
    assert!(waited < ms(8000), "{waited:?}");
}

/// The limit of a head passes while the request is answered.
#[test]
fn idle_connections_are_closed_after_a_request_that_timed_out() {
    let gate = Gate::default();
    let world = World::new().with(|config| (config.request_timeout, config.keep_alive_timeout) = (ms(300), ms(1000)));
    let server = world.start_with(gate.forward());
    let mut stream = connect(&server);
    stream.write_all(request().as_bytes()).unwrap();
    assert!(read_answer(&mut stream).0.starts_with("http/1.1 503"));
    assert!(closed_after(&mut stream) < ms(10_000));
    gate.open();
}

/// A client may say that it sends nothing more, and still read.
#[test]
fn clients_that_close_their_writing_side_get_their_answers() {
    let gate = Gate::default();
    let server = World::new().start_with(gate.forward());
    let ask = |requests: usize| {
        let mut stream = connect(&server);
        stream.write_all(request().repeat(requests).as_bytes()).unwrap();
        stream
    };
    let first = ask(1);
    gate.began();
    first.shutdown(Shutdown::Write).unwrap();
    // The server hears of it before the request is answered.
    thread::sleep(ms(100));
    gate.open();
    let [second, third] = [1, 2].map(|requests| {
        let stream = ask(requests);
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    });
    for (mut stream, answers) in [(first, 1), (second, 1), (third, 2)] {
        for _ in 0..answers {
            assert!(read_answer(&mut stream).0.starts_with("http/1.1 200"));
        }
        assert!(closed_after(&mut stream) < ms(10_000), "no further request can come");
    }
}

#[test]
fn half_sent_heads_are_closed_at_the_request_timeout() {
    let server =
        World::new().with(|config| (config.request_timeout, config.keep_alive_timeout) = (ms(300), ms(60_000))).start();
    let mut first = connect(&server);
    first.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    assert!(closed_after(&mut first) < ms(5000));
    let mut second = connect(&server);
    second.write_all(request().as_bytes()).unwrap();
    read_answer(&mut second);
    thread::sleep(ms(500));
    // More bytes of the same head do not give it more time.
    let begun = Instant::now();
    for byte in b"GET /health HTTP/1.1\r\nHost: ".iter().chain(&[b'a'; 300]) {
        if second.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(ms(50));
    }
    assert!(begun.elapsed() < ms(10_000), "{:?}", begun.elapsed());
}

#[test]
fn slow_bodies_time_out() {
    let server = World::new().with(|config| config.request_timeout = ms(300)).start();
    let mut stream = connect(&server);
    stream.write_all(format!("{}{{\"inputs\"", head(TEXT.len())).as_bytes()).unwrap();
    let begun = Instant::now();
    let (head, body) = read_answer(&mut stream);
    assert!(head.starts_with("http/1.1 503") && begun.elapsed() < ms(5000), "{head}");
    assert_eq!(body["error_type"], "TimedOut");
    assert!(closed_after(&mut stream) < ms(5000));
}

/// Sends requests until the server closes the connection, and returns how the sending failed. Before that, it blocks while the answers
/// fill the buffers between.
fn sends_until_closed(stream: &mut TcpStream) -> ErrorKind {
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let many = "GET /info HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let begun = Instant::now();
    loop {
        if let Err(error) = stream.write_all(many.as_bytes()) {
            return error.kind();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the server reads on although its answers are not read");
    }
}

/// The client sends requests, but reads no answer.
#[test]
fn unread_answers_close_the_connection() {
    let server = World::new().with(|config| config.request_timeout = ms(500)).start();
    let failed = sends_until_closed(&mut connect(&server));
    assert!(matches!(failed, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{failed}");
    assert_eq!(server.get("/health").status, 200);
}

/// The client reads its answers a byte at a time, which frees less than the system passes on at once.
#[test]
fn answers_that_are_read_byte_by_byte_close_the_connection() {
    let server = World::new().with(|config| config.request_timeout = ms(500)).start();
    let mut stream = connect(&server);
    let (mut reading, closed) = (stream.try_clone().unwrap(), AtomicBool::new(false));
    let (failed, read) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut bytes = 0;
            // What has arrived can be read even after the connection is closed.
            while !closed.load(Ordering::Relaxed) && reading.read_exact(&mut [0]).is_ok() {
                bytes += 1;
                thread::sleep(ms(20));
            }
            bytes
        });
        let failed = sends_until_closed(&mut stream);
        closed.store(true, Ordering::Relaxed);
        (failed, reader.join().unwrap())
    });
    assert!(matches!(failed, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{failed}");
    assert!((10..2000).contains(&read), "{read} bytes were read");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn requests_that_are_not_http_get_errors_in_json() {
    let server = World::new().start();
    let long = "a".repeat(100_000);
    for (bytes, status, error_type) in [
        ("nonsense\r\n\r\n".to_owned(), "400", "BadRequest"),
        ("GET /health HTTP/1.1\r\nHo st: x\r\n\r\n".to_owned(), "400", "BadRequest"),
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "414", "UriTooLong"),
        (format!("GET /health HTTP/1.1\r\nHost: {long}\r\n\r\n"), "431", "HeadTooLarge"),
    ] {
        let mut stream = connect(&server);
        let _ = stream.write_all(bytes.as_bytes());
        let (head, body) = read_answer(&mut stream);
        assert!(head.starts_with(&format!("http/1.1 {status}")) && head.contains("connection: close"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(body["error_type"], error_type, "{body}");
        assert!(body["error"].is_string());
    }
    // Also after a request that was answered.
    let mut stream = connect(&server);
    stream.write_all(request().as_bytes()).unwrap();
    read_answer(&mut stream);
    stream.write_all(b"nonsense\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).1["error_type"], "BadRequest");
}

/// Waits until the bodies of `slow` requests have taken all room, so that the request `look` gets 429. Whether the room is taken shows
/// only from outside. That request takes room itself, so that a slow one may be refused meanwhile; then it begins again.
fn wait_until_full(slow: &mut [TcpStream], begin: impl Fn() -> TcpStream, look: impl Fn() -> u16) {
    wait_until(|| {
        let mut full = look() == 429;
        for stream in &mut *slow {
            stream.set_nonblocking(true).unwrap();
            if stream.peek(&mut [0]).is_ok() {
                *stream = begin();
                full = false;
            }
            stream.set_nonblocking(false).unwrap();
        }
        full
    });
}

#[test]
fn bodies_beyond_the_memory_are_refused_at_once() {
    let body = format!(r#"{{"inputs": "good{}"}}"#, " ".repeat(500_000));
    let server = World::new().with(|config| (config.body_memory, config.payload_limit) = (1_800_000, 600_000)).start();
    let begin = || {
        let mut stream = connect(&server);
        stream.write_all(format!("{}{}", head(body.len()), &body[..body.len() - 1000]).as_bytes()).unwrap();
        stream
    };
    let mut slow: Vec<TcpStream> = (0..3).map(|_| begin()).collect();
    wait_until_full(&mut slow, begin, || server.classify("plain", &body).status);
    let refused = server.classify("plain", &body);
    assert_error(&refused, 429, "Overloaded", "bodies of other requests");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Waiting would not help one that is too large.
    assert_error(&server.classify("plain", body.repeat(2)), 413, "PayloadTooLarge", "larger than 600000 bytes");
    // A body of unknown length takes room while it arrives.
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let chunked = "POST /classify/plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = server.raw(format!("{chunked}{chunk}").as_bytes());
    assert!(reply.starts_with("HTTP/1.1 429") && reply.contains("Overloaded"), "{reply}");
    // Small bodies still have room, and slow clients are answered in the end.
    assert_eq!(server.classify("plain", TEXT).status, 200);
    for stream in &mut slow {
        stream.write_all(&body.as_bytes()[body.len() - 1000..]).unwrap();
        assert!(read_answer(stream).0.starts_with("http/1.1 200"));
    }
    assert_eq!(server.classify("plain", &body).status, 200);
    let reply = server.raw(format!("{chunked}{chunk}").as_bytes());
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

/// Clients that announce large bodies and send nothing hold up no small ones.
#[test]
fn bodies_that_are_only_announced_hold_up_no_small_ones() {
    let body = format!(r#"{{"inputs": "good{}"}}"#, " ".repeat(500_000));
    let server = World::new().with(|config| (config.body_memory, config.payload_limit) = (1_800_000, 600_000)).start();
    let announced: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(head(body.len()).as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_until(|| server.classify("plain", &body).status == 429);
    let small = format!(r#"{{"inputs": "good{}"}}"#, " ".repeat(60_000));
    for _ in 0..3 {
        assert_eq!(server.classify("plain", &small).status, 200);
    }
    drop(announced);
}

/// Small bodies that never end hold up no tiny ones.
#[test]
fn small_bodies_that_stall_hold_up_no_tiny_ones() {
    let small = format!(r#"{{"inputs": "good{}"}}"#, " ".repeat(60_000));
    let server = World::new().with(|config| config.body_memory = 1).start();
    let begin = || {
        let mut stream = connect(&server);
        stream.write_all(format!("{}{}", head(small.len()), &small[..small.len() - 1]).as_bytes()).unwrap();
        stream
    };
    // As many as fit into 1 MiB.
    let mut stalled: Vec<TcpStream> = (0..17).map(|_| begin()).collect();
    wait_until_full(&mut stalled, begin, || server.classify("plain", &small).status);
    for _ in 0..3 {
        assert_eq!(server.classify("plain", TEXT).status, 200);
    }
    drop(stalled);
}

/// Whatever its form is, a body of the allowed size has room on a server that has nothing else to do.
#[test]
fn largest_body_has_room_in_the_least_memory() {
    let server = World::new().with(|config| (config.body_memory, config.payload_limit) = (1, 600_000)).start();
    let body = format!(r#"{{"inputs": "good{}"}}"#, " ".repeat(590_000));
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let chunked = "POST /classify/plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = server.raw(format!("{chunked}{chunks}").as_bytes());
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let packed = gzip(body.as_bytes());
    assert_eq!(server.post("/classify/plain", &[("content-encoding", "gzip")], packed).status, 200);
}

/// A probe has no body to wait for, so that a client without a key cannot hold memory with one.
#[test]
fn routes_without_a_body_wait_for_none() {
    let server = World::new().with(|config| config.api_key = Some(ApiKey::new("s3cret"))).start();
    for path in ["/health", "/docs", "/"] {
        for encoding in ["gzip", "br"] {
            let mut stream = connect(&server);
            let encoding = format!("Content-Encoding: {encoding}\r\nContent-Length: 1000\r\n\r\n");
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{encoding}").as_bytes()).unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200", "{path}");
        }
    }
}

/// A refused client that waits to be asked for its body is not asked.
#[test]
fn refused_bodies_are_not_asked_for() {
    let server = World::new().with(|config| (config.body_memory, config.payload_limit) = (600_000, 200_000)).start();
    let begin = || {
        let mut stream = connect(&server);
        stream.write_all(head(190_000).as_bytes()).unwrap();
        stream
    };
    let mut slow = [begin(), begin(), begin()];
    wait_until_full(&mut slow, begin, || server.classify("plain", " ".repeat(190_000)).status);
    let mut stream = connect(&server);
    let asking = head(190_000).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    stream.write_all(asking.as_bytes()).unwrap();
    let (head, body) = read_answer(&mut stream);
    assert!(head.starts_with("http/1.1 429"), "{head}");
    assert_eq!(body["error_type"], "Overloaded");
}

#[test]
fn answers_while_draining_close_their_connections() {
    let gate = Gate::default();
    let mut server = World::new().start_with(gate.forward());
    let mut kept = connect(&server);
    kept.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (head, _) = read_answer(&mut kept);
    assert!(head.starts_with("http/1.1 200") && !head.contains("connection"), "{head}");
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let mut stream = connect(&server);
            stream.write_all(request().as_bytes()).unwrap();
            read_answer(&mut stream)
        });
        gate.began();
        server.stop();
        wait_until(|| server.app.is_draining());
        kept.write_all(request().as_bytes()).unwrap();
        let (head, body) = read_answer(&mut kept);
        assert!(head.starts_with("http/1.1 503") && head.contains("connection: close"), "{head}");
        assert_eq!(body["error_type"], "Draining");
        closed_after(&mut kept);
        gate.open();
        let (head, _) = running.join().unwrap();
        assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    });
    server.ended();
}

/// Load balancers send requests until they have seen `/ready`, so that the server goes on for a while.
#[test]
fn requests_during_the_shutdown_delay_are_answered() {
    let mut server = World::new().with(|config| config.shutdown_delay = ms(1500)).start();
    assert_eq!(server.get("/ready").status, 200);
    let begun = Instant::now();
    server.stop();
    wait_until(|| server.app.is_draining());
    assert_error(&server.get("/ready"), 503, "Draining", "");
    assert_eq!(server.get("/health").status, 200);
    let answer = server.classify("plain", TEXT);
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "clients look for another server");
    server.ended();
    assert!(begun.elapsed() >= ms(1500), "{:?}", begun.elapsed());
}

/// A request counts as accepted as soon as its head has arrived.
#[test]
fn requests_under_way_are_answered_while_draining() {
    let mut server = World::new().start();
    let mut stream = connect(&server);
    let request = request();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    stream.write_all(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    // The server has read the head, and waits for the body.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.stop();
    wait_until(|| server.app.is_draining());
    assert_error(&server.get("/ready"), 503, "Draining", "");
    let refused = server.classify("plain", TEXT);
    assert_error(&refused, 503, "Draining", "");
    assert_eq!(refused.header("connection"), Some("close"));
    stream.write_all(body.as_bytes()).unwrap();
    let (head, _) = read_answer(&mut stream);
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    server.ended();
}

/// Neither a forward pass that never ends, nor threads for blocking work, nor clients delay the end for longer than the bound.
#[test]
fn drain_is_bounded() {
    let gate = Gate::default();
    let mut server = World::new().with(|config| config.request_timeout = ms(1000)).start_with(gate.forward());
    let mut silent = connect(&server);
    let mut half = connect(&server);
    half.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let mut stream = connect(&server);
    stream.write_all(request().as_bytes()).unwrap();
    gate.began();
    let begun = Instant::now();
    server.stop();
    let (head, body) = read_answer(&mut stream);
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(body["error_type"], "TimedOut");
    server.ended();
    // The time-out, a second, and what a busy machine adds.
    assert!(begun.elapsed() < ms(4000), "{:?}", begun.elapsed());
    closed_after(&mut silent);
    closed_after(&mut half);
    // The server has stopped, but its forward pass still stands.
    gate.open();
}

/// Connections without a request do not delay the end.
#[test]
fn drain_does_not_wait_for_idle_clients() {
    let mut server = World::new().start();
    let mut silent = connect(&server);
    let mut half = connect(&server);
    half.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let mut idle = connect(&server);
    idle.write_all(request().as_bytes()).unwrap();
    read_answer(&mut idle);
    let begun = Instant::now();
    server.stop();
    server.ended();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for stream in [&mut silent, &mut half, &mut idle] {
        closed_after(stream);
    }
}

/// Serves, in this thread's runtime, an app that another thread opens.
#[test]
fn answers_probes_before_the_base_is_open() {
    let world = World::new();
    let app = std::sync::Arc::new(world.app().unwrap());
    let config = app.config().clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let ((open, opened), (stop, stopped)) = (oneshot::channel(), oneshot::channel::<()>());
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            polyrank::server::serve(listener, &config, opened, async { drop(stopped.await) }).await.unwrap();
        });
    });
    let mut stream = TcpStream::connect(address).unwrap();
    let mut ask = |path: &str| {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        read_answer(&mut stream)
    };
    for path in ["/health", "/health/", "/v2/health/live"] {
        assert!(ask(path).0.starts_with("http/1.1 200"), "{path}");
    }
    for path in ["/ready", "/v2/health/ready", "/info", "/adapters", "/nothing"] {
        let (head, body) = ask(path);
        assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: 1"), "{path}: {head}");
        assert_eq!(body["error_type"], "Starting", "{path}");
    }
    open.send(app).ok().unwrap();
    // The same connection gets all routes.
    wait_until(|| TcpStream::connect(address).is_ok() && ready(address));
    assert!(ask("/ready").0.starts_with("http/1.1 200"));
    assert!(ask("/info").0.starts_with("http/1.1 200"));
    drop(stop);
    server.join().unwrap();
}

fn ready(address: std::net::SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.starts_with("HTTP/1.1 200")
}
