//! The two binaries as users run them, from a task's folder to an answer over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::run::{data, fine, train};
use super::{base_dir, home};

/// The runtime's binary of this build. `cargo test --workspace` puts it beside the binary of this package. Cargo tells a test only the
/// binaries of its own package, so if the runtime's binary is missing or older than its sources, it is built here.
pub(crate) fn polyrank() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let ours = Path::new(env!("CARGO_BIN_EXE_polyrank-train"));
        let binary = ours.with_file_name(format!("polyrank{}", std::env::consts::EXE_SUFFIX));
        let sources = newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"));
        if !binary.metadata().is_ok_and(|metadata| metadata.modified().unwrap() >= sources) {
            let release = ours.parent().unwrap().ends_with("release");
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--package", "polyrank", "--bin", "polyrank"]);
            build.args(["--profile", if release { "release" } else { "dev" }]);
            assert!(build.status().unwrap().success(), "the runtime does not build");
        }
        binary
    })
}

/// The time at which the newest file under `dir` was written.
fn newest(dir: &Path) -> SystemTime {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { newest(&path) } else { path.metadata().unwrap().modified().unwrap() })
        .max()
        // A folder may be empty.
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn ask(args: &[&str]) -> String {
    let output = Command::new(polyrank()).args(args).env("POLYRANK_HOME", home()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A server process, which is killed when the test ends. Its log is read only up to the line with its address.
pub(crate) struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(adapters: &str) -> Self {
        Self::spawn(Command::new(polyrank()).env("POLYRANK_HOME", home()), base_dir().to_str().unwrap(), adapters)
    }

    /// Starts `command`, which is the runtime's binary in its own environment, on the base with this name.
    pub(crate) fn spawn(command: &mut Command, base: &str, adapters: &str) -> Self {
        let args = ["serve", "--model-id", base, "--adapters", adapters, "--port", "0"];
        let mut process = command.args(args).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = |line: String| Some(line.split_once("http://")?.1.trim().to_owned());
        let address = lines.map_while(Result::ok).find_map(address).expect("the server tells its address");
        Self { process, url: format!("http://{address}") }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let request = ureq::post(format!("{}{path}", self.url)).header("content-type", "application/json");
        json(request.send(body.to_string()))
    }

    fn get(&self, path: &str) -> Value {
        json(ureq::get(format!("{}{path}", self.url)).call())
    }
}

fn json(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
    serde_json::from_reader(response.unwrap().body_mut().as_reader()).unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn trained_adapters_are_served() {
    let (data, adapters) = (data(), TempDir::new().unwrap());
    let output = adapters.path().join("plots");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    let printed = fine(&train(from, to, &["--epochs", "6", "--target-ratio", "0.5"]));

    // Training prints the same table as `inspect`, except for the names of the base and the folder.
    let table = |text: &str| text[text.find("layer  query").unwrap()..text.rfind("total").unwrap()].to_owned();
    assert_eq!(table(&printed), table(&ask(&["inspect", to])));
    let facts: Value = serde_json::from_str(&ask(&["inspect", to, "--json"])).unwrap();
    let ranks: Vec<u64> = facts["ranks"].as_object().unwrap().values().flat_map(numbers).collect();
    assert!(ranks.iter().any(|rank| *rank != ranks[0]), "ranks differ: {ranks:?}");

    let base = base_dir();
    let texts = ["the plot was very good", "the plot and was not good"];
    let mut args = vec!["classify", "--model-id", base.to_str().unwrap(), "--adapter", to];
    args.extend(texts.iter().flat_map(|text| ["--text", text]));
    let lines: Vec<Value> = ask(&args).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["text"].as_str().unwrap()).collect::<Vec<_>>(), texts);

    let server = Server::start(adapters.path().to_str().unwrap());
    let answer = server.post("/classify/plots", &json!({"inputs": texts}));
    assert_eq!(answer.as_array().unwrap().len(), 2);
    for (line, entries) in lines.iter().zip(answer.as_array().unwrap()) {
        assert_eq!((line["labels"].as_array().unwrap().len(), entries.as_array().unwrap().len()), (2, 2));
        for (ours, theirs) in line["labels"].as_array().unwrap().iter().zip(entries.as_array().unwrap()) {
            assert_eq!(ours["label"], theirs["label"]);
            assert!((ours["score"].as_f64().unwrap() - theirs["score"].as_f64().unwrap()).abs() < 1e-5);
        }
    }
    let told = server.get("/adapters/plots");
    assert_eq!((&told["ranks"], &told["labels"]), (&facts["ranks"], &facts["labels"]));
    assert_eq!(told["requests"], 1);
}

/// A relative path of two parts looks like a hub id.
#[test]
fn converts_folder_in_older_formats_under_any_path() {
    let (room, golden) = (TempDir::new().unwrap(), base_dir().join("../legacy/bert"));
    std::fs::create_dir_all(room.path().join("bases/bert")).unwrap();
    for entry in golden.read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, room.path().join("bases/bert").join(path.file_name().unwrap())).unwrap();
    }
    let adapter = base_dir().join("plain").canonicalize().unwrap();
    let mut command = Command::new(polyrank());
    command.current_dir(room.path()).env("POLYRANK_HOME", room.path().join("home")).env("HF_HUB_OFFLINE", "1");
    command.args([
        "classify",
        "--model-id",
        "bases/bert",
        "--adapter",
        adapter.to_str().unwrap(),
        "--text",
        "good film",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

#[cfg(unix)]
fn terminate(server: &Server) {
    assert!(Command::new("kill").arg(server.process.id().to_string()).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn sigterm_ends_a_server_with_success() {
    let adapters = TempDir::new().unwrap();
    let mut server = Server::start(adapters.path().to_str().unwrap());
    assert_eq!(server.get("/adapters"), json!([]));
    terminate(&server);
    assert!(server.process.wait().unwrap().success());
}

#[cfg(unix)]
#[test]
fn second_sigterm_does_not_wait_for_clients() {
    let adapters = TempDir::new().unwrap();
    let mut server = Server::start(adapters.path().to_str().unwrap());
    // A client that never sends its body delays the shutdown by up to the request time-out.
    let mut client = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    client
        .write_all(b"POST /classify/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    // The server has read the head, and waits for the body.
    let mut asked = [0; 12];
    client.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    // Signals within a second count as one, so they are repeated until the server ends.
    let status = loop {
        terminate(&server);
        match server.process.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    assert_eq!(status.code(), Some(1), "it did not wait, and said so");
}
