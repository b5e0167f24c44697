//! `polyrank serve` as a process: its start, its signals, its logs and its memory.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const TEXT: &str = r#"{"inputs": "The plot was not very good."}"#;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert")
}

/// A process that is killed when dropped, with its cache.
struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    _home: TempDir,
}

/// The command, in an environment without this project's variables.
fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("POLYRANK_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE").env("POLYRANK_HOME", home).arg("serve");
    command
}

impl Process {
    /// Serves the goldens' base and adapters on a free port.
    fn start(change: impl FnOnce(&mut Command)) -> Self {
        Self::spawn(|command| {
            command.arg("--model-id").arg(goldens()).arg("--adapters").arg(goldens());
            change(command);
        })
    }

    /// [`Self::start`] with more arguments.
    fn with(args: &[&str]) -> Self {
        Self::start(|command| {
            command.args(args);
        })
    }

    fn spawn(change: impl FnOnce(&mut Command)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = command(home.path());
        change(&mut command);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, seen: Vec::new(), _home: home }
    }

    /// Waits for a line of the log with `part`.
    fn line(&mut self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("no line with {part:?} in {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The address at which the server answers probes.
    fn address(&mut self) -> String {
        let line = self.line("starting on ");
        let (_, rest) = line.split_once("starting on ").unwrap();
        rest.split_once(": ").unwrap().0.to_owned()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process has ended, and returns its whole log.
    fn ended(&mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.seen.extend(self.lines.iter());
                return (status, self.seen.join("\n"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the process has not ended: {:#?}", self.seen);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    read(stream)
}

fn classify(address: &str, key: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let (length, key) = (TEXT.len(), format!("Authorization: Bearer {key}\r\n"));
    let head =
        format!("POST /classify/plain HTTP/1.1\r\nHost: x\r\n{key}Connection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{TEXT}").as_bytes()).unwrap();
    read(stream)
}

fn read(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// A hub that accepts connections, and never answers.
fn silent_hub() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}

#[test]
fn start_that_hangs_answers_probes_and_ends_at_a_signal() {
    let (_hub, endpoint) = silent_hub();
    for signal in ["TERM", "INT"] {
        let mut server = Process::spawn(|command| {
            command.args(["--model-id", "org/name", "--port", "0", "--adapters"]).arg(goldens());
            command.env("HF_ENDPOINT", &endpoint).env_remove("HF_HUB_OFFLINE");
        });
        let address = server.address();
        assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
        let ready = get(&address, "/ready");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("\"Starting\""), "{ready}");
        assert!(classify(&address, "").starts_with("HTTP/1.1 503"));
        let begun = Instant::now();
        server.signal(signal);
        let (status, log) = server.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(begun.elapsed() < Duration::from_secs(5) && log.contains("stopped"), "{log}");
    }
}

/// What is wrong with the settings is told although the hub never answers.
#[test]
fn taken_port_and_missing_folder_are_told_before_the_base_is_fetched() {
    let (hub, endpoint) = silent_hub();
    let port = hub.local_addr().unwrap().port().to_string();
    let missing = goldens().join("missing");
    for (port, adapters, part, hint) in [
        (&*port, &goldens(), format!("listening on 127.0.0.1:{port}: "), "--port chooses another"),
        ("0", &missing, format!("{}: ", missing.display()), "--adapters"),
        ("0", &goldens().join("config.json"), "config.json: ".to_owned(), "--adapters"),
    ] {
        let mut server = Process::spawn(|command| {
            command.args(["--model-id", "org/name", "--port", port, "--adapters"]).arg(adapters);
            command.env("HF_ENDPOINT", &endpoint).env_remove("HF_HUB_OFFLINE");
        });
        let (status, log) = server.ended();
        assert_eq!(status.code(), Some(1), "{log}");
        let error = log.lines().last().unwrap();
        assert!(error.starts_with("error: ") && error.contains(&part) && error.contains(hint), "{log}");
    }
}

#[test]
fn base_that_cannot_be_opened_ends_the_process() {
    let empty = tempfile::tempdir().unwrap();
    let mut server = Process::spawn(|command| {
        command.arg("--model-id").arg(empty.path()).args(["--port", "0", "--adapters"]).arg(goldens());
    });
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.lines().last().unwrap().starts_with("error: ") && log.contains("config.json"), "{log}");
}

/// Also the last line, which says why it ended, is JSON where the log is.
#[test]
fn error_that_ends_the_process_is_json_where_the_log_is() {
    let empty = tempfile::tempdir().unwrap();
    let mut server = Process::spawn(|command| {
        command.arg("--model-id").arg(empty.path()).args(["--port", "0", "--json-output", "--adapters"]).arg(goldens());
    });
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "ERROR", "{log}");
    assert!(last.to_string().contains("config.json"), "{log}");
}

/// The process of a server whose base was truncated ends by SIGBUS. Its last line says why.
#[cfg(target_os = "linux")]
#[test]
fn base_that_is_truncated_under_the_server_is_told() {
    for json in [false, true] {
        let base = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(goldens().join(file), base.path().join(file)).unwrap();
        }
        let mut server = Process::spawn(|command| {
            command.arg("--model-id").arg(base.path()).args(["--port", "0", "--adapters"]).arg(goldens());
            command.args(json.then_some("--json-output"));
        });
        let address = server.address();
        server.line("listening on");
        assert!(classify(&address, "").starts_with("HTTP/1.1 200"));
        std::fs::File::create(base.path().join("model.safetensors")).unwrap();
        let mut stream = TcpStream::connect(&address).unwrap();
        let (head, length) = ("POST /classify/plain HTTP/1.1\r\nHost: x", TEXT.len());
        write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{TEXT}").unwrap();
        let (status, log) = server.ended();
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{log}");
        let last = log.lines().last().unwrap();
        let said = if json {
            let last: serde_json::Value = serde_json::from_str(last).unwrap();
            assert_eq!(last["level"], "ERROR", "{log}");
            last["fields"]["message"].as_str().unwrap().to_owned()
        } else {
            last.strip_prefix("error: ").unwrap().to_owned()
        };
        assert!(said.starts_with("a mapped file can no longer be read") && said.contains("model.safetensors"), "{log}");
    }
}

#[test]
fn start_says_what_is_served() {
    let mut server = Process::with(&["--port", "0", "--preload", "plain,ragged"]);
    let line = server.line("ready");
    let line = if line.contains("base=") { line } else { server.line("base=") };
    for part in ["dtype=\"f32\"", "device=\"cpu\"", "absent, all_linear, bighead", "preloaded=\"plain, ragged\""] {
        assert!(line.contains(part), "{part} in {line}");
    }
    server.line("listening on http://127.0.0.1:");
    for (adapters, part) in [("ragged", "is itself an adapter"), (".", "no adapter yet")] {
        let root = if adapters == "." { tempfile::tempdir().unwrap().keep() } else { goldens().join(adapters) };
        let mut server = Process::spawn(|command| {
            command.arg("--model-id").arg(goldens()).args(["--port", "0", "--adapters"]).arg(&root);
        });
        let line = server.line(part);
        assert!(line.contains("WARN") && line.contains(root.to_str().unwrap()), "{line}");
        if adapters == "." {
            std::fs::remove_dir(root).unwrap();
        }
    }
}

/// In the namespace of a Service named `polyrank`, Kubernetes sets these variables.
#[test]
fn service_links_and_empty_variables_are_ignored() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Process::start(|command| {
        command.args(["--hostname", "127.0.0.1"]);
        for (name, value) in [
            ("POLYRANK_SERVICE_HOST", "10.0.0.1"),
            ("POLYRANK_SERVICE_PORT", "80"),
            ("POLYRANK_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("POLYRANK_DTYPE", "tcp://10.0.0.1:80"),
            ("POLYRANK_MAX_BATCH_TOKENS", ""),
            ("POLYRANK_API_KEY", ""),
            ("POLYRANK_PRELOAD", ""),
        ] {
            command.env(name, value);
        }
        command.args(["--port", &port.to_string()]).env("POLYRANK_PORT", "tcp://10.0.0.1:80");
    });
    server.line("POLYRANK_DTYPE=tcp://10.0.0.1:80 is ignored");
    server.line("POLYRANK_API_KEY is empty");
    let address = server.address();
    assert_eq!(address, format!("127.0.0.1:{port}"));
    server.line("listening on");
    assert!(classify(&address, "").starts_with("HTTP/1.1 200"));
    assert!(server.seen.iter().any(|line| line.contains("POLYRANK_PORT=tcp://10.0.0.1:80 is ignored")));
}

#[test]
fn api_key_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "s3cret\nwith a second line").unwrap();
    let single = folder.path().join("single");
    std::fs::write(&single, "s3cret").unwrap();
    let wrong: [(&[&str], Option<&str>); 9] = [
        (&["--api-key-file", single.to_str().unwrap()], Some("s3cret")),
        (&["--api-key", "s3cret\nx"], None),
        (&["--api-key", " s3cret"], None),
        (&["--api-key=s3cret\u{e9}"], None),
        (&["--api-key", "a", "s3cret"], None),
        (&["--api-key", "a", "-s3cret"], None),
        (&["--api-key", "s3cret", "--port", "nonsense"], None),
        (&[], Some("s3cret\r\nx")),
        (&["--api-key-file", file.to_str().unwrap()], None),
    ];
    for (args, variable) in wrong {
        let mut command = command(folder.path());
        command.args(["--adapters", "a"]).args(args).envs(variable.map(|key| ("POLYRANK_API_KEY", key)));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("error: ") && !text.contains("s3cret") && output.stdout.is_empty(), "{args:?}: {text}");
    }
    let output = command(folder.path()).env("POLYRANK_API_KEY", "s3cret").arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("s3cret"));
}

#[test]
fn api_key_may_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "s3cret\n").unwrap();
    let mut server = Process::start(|command| {
        command.args(["--port", "0", "--api-key-file"]).arg(&file).env("RUST_LOG", "trace");
    });
    let address = server.address();
    server.line("listening on");
    assert!(classify(&address, "other").starts_with("HTTP/1.1 401"));
    assert!(classify(&address, "s3cret").starts_with("HTTP/1.1 200"));
    server.signal("TERM");
    let (status, log) = server.ended();
    assert!(status.success() && !log.contains("s3cret"), "{log}");
}

#[test]
fn brackets_around_an_ipv6_address_are_accepted() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("this machine has no IPv6");
        return;
    }
    let mut server = Process::with(&["--port", "0", "--hostname", "[::1]"]);
    let address = server.address();
    assert!(address.starts_with("[::1]:"), "{address}");
    assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
}

/// A pipe that is full, and its reader, who does not read.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filling = writer.try_clone().unwrap();
    let (filled, progress) = channel();
    // This thread ends when the reader is dropped.
    thread::spawn(move || while filling.write_all(b"x").is_ok() && filled.send(()).is_ok() {});
    while progress.recv_timeout(Duration::from_millis(500)).is_ok() {}
    (reader, writer)
}

/// Starts a server with its logs in a full pipe.
fn with_full_pipe(adapters: &Path, port: u16) -> (Process, std::io::PipeReader) {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = full_pipe();
    let mut command = command(home.path());
    command.arg("--model-id").arg(goldens()).arg("--adapters").arg(adapters).args(["--port", &port.to_string()]);
    let child = command.stderr(writer).spawn().unwrap();
    (Process { child, lines: channel().1, seen: Vec::new(), _home: home }, reader)
}

#[test]
fn unread_logs_stop_nothing() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (mut server, mut reader) = with_full_pipe(&goldens(), port);
    let address = format!("127.0.0.1:{port}");
    let begun = Instant::now();
    while TcpStream::connect(&address).is_err() || !get(&address, "/ready").starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
    for name in ["plain", "ragged", "bighead"] {
        assert!(get(&address, &format!("/adapters/{name}")).starts_with("HTTP/1.1 200"), "{name}");
    }
    assert!(classify(&address, "").starts_with("HTTP/1.1 200"));
    let begun = Instant::now();
    server.signal("TERM");
    let (status, _) = server.ended();
    assert!(status.success() && begun.elapsed() < Duration::from_secs(10), "{status:?} {:?}", begun.elapsed());
    // Nothing was written.
    let mut pipe = vec![0; 1 << 20];
    let bytes = reader.read(&mut pipe).unwrap();
    assert!(pipe[..bytes].iter().all(|byte| *byte == b'x'));
}

#[test]
fn unread_logs_do_not_hold_up_a_failed_start() {
    let (mut server, _reader) = with_full_pipe(&goldens().join("missing"), 0);
    assert_eq!(server.ended().0.code(), Some(1));
}

/// Resident memory of the process, in bytes.
#[cfg(target_os = "linux")]
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn bodies_under_way_take_bounded_memory() {
    const CLIENTS: usize = 300;
    let mut server = Process::with(&["--port", "0", "--body-memory", "16MiB"]);
    let address = server.address();
    server.line("listening on");
    assert!(classify(&address, "").starts_with("HTTP/1.1 200"));
    let before = resident(&server);
    let body = vec![b' '; 1_900_000];
    let head = format!("POST /classify/plain HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    // All but the last byte, so that no request is complete.
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body[1..]).unwrap();
        clients.push(stream);
    }
    let grown = resident(&server).saturating_sub(before);
    // The bodies in memory, and what is held of each connection's input: up to 140 KiB where other programs slow the server down. All bodies
    // together have 570 MB.
    assert!(grown < (16 << 20) + CLIENTS * (256 << 10), "{grown} bytes");
    let mut statuses = Vec::new();
    for mut stream in clients {
        stream.write_all(b" ").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        statuses.push(String::from_utf8(line.to_vec()).unwrap());
    }
    // The body is not JSON.
    let accepted = statuses.iter().filter(|status| *status == "HTTP/1.1 400").count();
    let refused = statuses.iter().filter(|status| *status == "HTTP/1.1 429").count();
    // A busy server may see the last clients only once the first are answered.
    assert!((8..CLIENTS / 4).contains(&accepted), "{accepted}");
    assert_eq!(accepted + refused, CLIENTS);
}

/// Whoever opens a named pipe waits for a writer. An adapter with one is refused without that.
#[test]
fn adapter_with_a_named_pipe_holds_up_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("plain");
    std::fs::create_dir(&dir).unwrap();
    for file in ["adapter_config.json", "config.json"] {
        let from = goldens().join("plain").join(file);
        if from.exists() {
            std::fs::copy(from, dir.join(file)).unwrap();
        }
    }
    assert!(Command::new("mkfifo").arg(dir.join("adapter_model.safetensors")).status().unwrap().success());
    let mut server = Process::spawn(|command| {
        command.arg("--model-id").arg(goldens()).arg("--adapters").arg(root.path());
        command.args(["--port", "0", "--request-timeout", "1s"]);
    });
    let address = server.address();
    server.line("listening on");
    // For a second, the files may still be copied, which is 503.
    let mut answer = classify(&address, "");
    while answer.starts_with("HTTP/1.1 503") && answer.contains("still changing") {
        thread::sleep(Duration::from_millis(200));
        answer = classify(&address, "");
    }
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    server.signal("TERM");
    let (status, log) = server.ended();
    assert!(status.success(), "{log}");
}

#[test]
fn second_signal_ends_the_process_at_once() {
    let mut server = Process::with(&["--port", "0", "--request-timeout", "60s"]);
    let address = server.address();
    server.line("listening on");
    // A body that does not come keeps the first signal from ending the process.
    let mut stream = TcpStream::connect(&address).unwrap();
    stream
        .write_all(b"POST /classify/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    // The server has read the head, and waits for the body.
    let mut asked = [0; 12];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    server.signal("TERM");
    server.line("a second signal stops at once");
    assert!(get(&address, "/ready").contains("\"Draining\""));
    // Signals within a second count as one.
    thread::sleep(Duration::from_millis(1200));
    server.signal("TERM");
    let (status, log) = server.ended();
    assert_eq!((status.code(), status.signal()), (Some(1), None), "{log}");
    assert!(log.contains("stopped by a second signal"), "{log}");
}

/// The Deployment of examples/kubernetes, with paths of this machine.
#[test]
fn arguments_of_the_kubernetes_example_serve() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes/serve.yaml");
    let yaml = std::fs::read_to_string(file).unwrap();
    let mut lines = yaml.lines().map(str::trim).skip_while(|line| *line != "args:").skip(1);
    let args: Vec<&str> = lines.by_ref().map_while(|line| line.strip_prefix("- ")).collect();
    assert_eq!((args.first(), args.len()), (Some(&"serve"), 10), "{args:?}");
    let room = tempfile::tempdir().unwrap();
    let (key, base) = (room.path().join("api-key"), goldens());
    std::fs::write(&key, "secret\n").unwrap();
    let (key, base) = (key.to_str().unwrap(), base.to_str().unwrap());
    let own = [("port", "0"), ("model-id", base), ("adapters", base), ("api-key-file", key), ("shutdown-delay", "1s")];
    let mut server = Process::spawn(|command| {
        for arg in &args[1..] {
            let (flag, value) = arg.strip_prefix("--").unwrap().split_once('=').unzip();
            let flag = flag.unwrap_or(&arg[2..]);
            match (own.iter().find(|(name, _)| *name == flag), value) {
                (Some((_, value)), _) => command.arg(format!("--{flag}={value}")),
                (None, Some(value)) => command.arg(format!("--{flag}={value}")),
                (None, None) => command.arg(format!("--{flag}")),
            };
        }
    });
    let address = server.address();
    server.line("listening on");
    assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/ready").starts_with("HTTP/1.1 200"));
    assert!(classify(&address, "wrong").starts_with("HTTP/1.1 401"));
    // The goldens name another base, and `--strict-base` is among the arguments.
    let strict = classify(&address, "secret");
    assert!(strict.starts_with("HTTP/1.1 422") && strict.contains("base"), "{strict}");
    let grace = yaml.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: ")).unwrap();
    let delay = args.iter().find_map(|arg| arg.strip_prefix("--shutdown-delay=")?.strip_suffix('s')).unwrap();
    let [grace, delay]: [u64; 2] = [grace, delay].map(|seconds| seconds.parse().unwrap());
    assert!(grace > delay + 30 + 1, "the delay, the time-out of requests, and a second");
    server.signal("TERM");
    assert!(server.ended().0.success());
}
