//! A server in this process on a free port, and a client for it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, thread};

use candle_core::Device;
use clap::{Args, Command, FromArgMatches};
use flate2::Compression;
use flate2::write::GzEncoder;
use polyrank::engine::{Engine, Error, Row};
use polyrank::server::{App, Config, StartError, run};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The expected values that the goldens' script computed.
pub(super) fn golden() -> Value {
    serde_json::from_slice(&fs::read(goldens().join("expected.json")).unwrap()).unwrap()
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert")
}

/// The goldens' base, a copy of its adapters, and a configuration.
pub(super) struct World {
    config: Config,
    pub(super) root: PathBuf,
    folder: TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        copy(&goldens(), &root);
        // The environment variables of whoever runs the tests must not count.
        let command = Config::augment_args(Command::new("serve")).mut_args(|arg| arg.env(None::<&str>));
        let matches = command.get_matches_from([OsStr::new("serve"), OsStr::new("--adapters"), root.as_os_str()]);
        let config = Config { model_id: "tiny".into(), ..Config::from_arg_matches(&matches).unwrap() };
        Self { config, root, folder }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    fn engine() -> Arc<Engine> {
        Arc::new(Engine::open(&goldens(), &Device::Cpu).unwrap())
    }

    pub(super) fn app(&self) -> Result<App, StartError> {
        App::new(Self::engine(), self.config.clone())
    }

    /// Serves with the engine's own forward pass.
    pub(super) fn start(self) -> Running {
        let app = self.app().unwrap();
        self.serve(app)
    }

    /// Serves with another engine.
    pub(super) fn start_over(self, engine: Engine) -> Running {
        let app = App::new(Arc::new(engine), self.config.clone()).unwrap();
        self.serve(app)
    }

    /// Serves with a fake forward pass.
    pub(super) fn start_with(
        self,
        forward: impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error> + Send + 'static,
    ) -> Running {
        let app = App::with_forward(Self::engine(), self.config.clone(), forward).unwrap();
        self.serve(app)
    }

    fn serve(self, app: App) -> Running {
        let app = Arc::new(app);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&app);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                run(listener, served, async { drop(stopped.await) }).await
            });
            // A thread for blocking work may never end.
            runtime.shutdown_background();
        });
        Running {
            app,
            address,
            root: self.root,
            stop: Mutex::new(Some(stop)),
            thread: Some(thread),
            _folder: self.folder,
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A running server, which stops when dropped.
pub(super) struct Running {
    pub(super) app: Arc<App>,
    pub(super) address: SocketAddr,
    /// The folder of adapters, which is a copy.
    pub(super) root: PathBuf,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

/// A response of the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
    headers: Vec<(String, String)>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

impl Running {
    pub(super) fn classify(&self, name: &str, body: impl AsRef<[u8]>) -> Answer {
        self.classify_as(None, name, body)
    }

    pub(super) fn classify_as(&self, authorization: Option<&str>, name: &str, body: impl AsRef<[u8]>) -> Answer {
        let mut request = agent().post(format!("http://{}/classify/{name}", self.address));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        answer(request.send(body.as_ref()).unwrap())
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        answer(agent().get(format!("http://{}{path}", self.address)).call().unwrap())
    }

    /// `PUT /adapters/{name}`, with an `If-Match` where one is given.
    pub(super) fn put(&self, name: &str, body: &str, tag: Option<&str>) -> Answer {
        let mut request = agent().put(format!("http://{}/adapters/{name}", self.address));
        if let Some(tag) = tag {
            request = request.header("if-match", tag);
        }
        answer(request.send(body).unwrap())
    }

    /// `DELETE /adapters/{name}`, with an `If-Match` where one is given.
    pub(super) fn delete(&self, name: &str, tag: Option<&str>) -> Answer {
        let mut request = agent().delete(format!("http://{}/adapters/{name}", self.address));
        if let Some(tag) = tag {
            request = request.header("if-match", tag);
        }
        answer(request.call().unwrap())
    }

    /// Posts `body` to `path` with these headers.
    pub(super) fn post(&self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        let mut request = agent().post(format!("http://{}{path}", self.address));
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        answer(request.send(body.as_ref()).unwrap())
    }

    /// Sends raw bytes, and reads until the server closes the connection.
    pub(super) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(bytes).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    /// Tells the server to stop.
    pub(super) fn stop(&self) {
        drop(self.stop.lock().unwrap().take());
    }

    /// Waits until the server has stopped.
    pub(super) fn ended(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        // After a failed test, the forward pass may wait for ever.
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            let _ = thread.join();
        }
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into()
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let status = response.status().as_u16();
    Answer { status, body: serde_json::from_reader(response.body_mut().as_reader()).unwrap(), headers }
}

/// A fake forward pass that reports each batch and waits until the gate is open. All logits are 0.5.
pub(super) struct Gate {
    began: (Sender<()>, Receiver<()>),
    closed: Mutex<Option<Sender<()>>>,
    opened: Mutex<Option<Receiver<()>>>,
}

impl Default for Gate {
    fn default() -> Self {
        let (closed, opened) = channel();
        Self { began: channel(), closed: Mutex::new(Some(closed)), opened: Mutex::new(Some(opened)) }
    }
}

impl Gate {
    pub(super) fn forward(&self) -> impl Fn(&[Row]) -> Result<Vec<Vec<f32>>, Error> + Send + 'static {
        let began = self.began.0.clone();
        let opened = self.opened.lock().unwrap().take().unwrap();
        move |rows| {
            let _ = began.send(());
            // Nothing is ever sent. The wait ends when the sender is dropped.
            opened.recv().unwrap_err();
            Ok(rows.iter().map(|row| vec![0.5; row.adapter.info.labels.len()]).collect())
        }
    }

    /// Waits until a batch runs.
    pub(super) fn began(&self) {
        self.began.1.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    /// Lets this batch and all later batches pass.
    pub(super) fn open(&self) {
        drop(self.closed.lock().unwrap().take());
    }
}

/// Waits until another thread makes a condition true. It fails where that takes so long that it would never happen.
pub(super) fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(120), "still waiting after two minutes");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
