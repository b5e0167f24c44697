//! The two binaries together, from hub repositories in older layouts to an answer over HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::base_dir;
use super::run::data;
use super::serve::{Server, polyrank};

/// A repository in DeBERTa-v3's layout: `pytorch_model.bin` from `torch.save`, and `spm.model` from SentencePiece.
const ID: &str = "org/old-deberta";
/// The token that the hub requires.
const TOKEN: &str = "a-secret";

/// The ids of repositories, and the folders with their files.
type Repositories = Vec<(&'static str, PathBuf)>;

/// A fake hub on a free port of this machine, which counts requests.
pub(crate) struct Hub {
    endpoint: String,
    asked: Arc<AtomicUsize>,
}

impl Hub {
    fn play(repositories: Repositories) -> Self {
        Self::answering(move |path| {
            repositories.iter().find_map(|(id, folder)| {
                let name = path.strip_prefix('/')?.strip_prefix(id)?.strip_prefix("/resolve/main/")?;
                std::fs::read(folder.join(name)).ok()
            })
        })
    }

    /// A hub with the files, by their paths, that `find` returns.
    pub(crate) fn answering(find: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                answer(stream.unwrap(), &find);
            }
        });
        Self { endpoint, asked }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Answers one request of a connection.
fn answer(mut stream: TcpStream, find: &impl Fn(&str) -> Option<Vec<u8>>) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let mut request = head.first().map_or("", String::as_str).split(' ');
    let (method, path) = (request.next().unwrap_or_default(), request.next().unwrap_or_default());
    let known = head.iter().any(|line| line.to_lowercase() == format!("authorization: bearer {TOKEN}"));
    let (status, body) = match (known, find(path)) {
        (false, _) => (401, Vec::new()),
        (true, None) => (404, Vec::new()),
        (true, Some(body)) => (200, body),
    };
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let body = if method == "HEAD" { Vec::new() } else { body };
    // The client may have closed the connection.
    drop(stream.write_all(&[head.into_bytes(), body].concat()));
}

/// A binary in an environment with an empty cache and this hub only.
pub(crate) fn command(binary: &Path, home: &TempDir, hub: &Hub) -> Command {
    let mut command = Command::new(binary);
    command.env("POLYRANK_HOME", home.path()).env("HF_ENDPOINT", &hub.endpoint).env("HF_TOKEN", TOKEN);
    command.env_remove("HF_HUB_OFFLINE");
    command
}

pub(crate) fn fine(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The ranks of every site, as `inspect` prints them.
fn ranks(facts: &Value) -> Vec<u64> {
    let modules = facts["ranks"].as_object().unwrap().values();
    modules.flat_map(|of| of.as_array().unwrap()).map(|rank| rank.as_u64().unwrap()).collect()
}

/// Checks that two lists of labels with scores are equal up to rounding.
fn assert_same(ours: &Value, theirs: &Value) {
    let (ours, theirs) = (ours.as_array().unwrap(), theirs.as_array().unwrap());
    assert_eq!((ours.len(), theirs.len()), (2, 2));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours["label"], theirs["label"]);
        assert!((ours["score"].as_f64().unwrap() - theirs["score"].as_f64().unwrap()).abs() < 1e-5);
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/legacy").join(name)
}

#[test]
fn pulls_trains_prunes_and_serves_an_old_deberta() {
    let (home, data, room) = (TempDir::new().unwrap(), data(), TempDir::new().unwrap());
    let (adapters, again) = (room.path().join("adapters"), room.path().join("again"));
    let (from, to) = (data.path(), adapters.join("plots"));
    let hub = Hub::play(vec![(ID, golden("deberta"))]);
    let runtime = || command(polyrank(), &home, &hub);
    let training = || command(Path::new(env!("CARGO_BIN_EXE_polyrank-train")), &home, &hub);

    // Pull: the cached base is the one that is served, and there are no further requests to the hub.
    let base = PathBuf::from(fine(runtime().args(["pull", ID])).trim());
    assert!(base.starts_with(home.path()) && !base.join("pytorch_model.bin").exists(), "{base:?}");
    assert!(["config.json", "model.safetensors", "tokenizer.json"].iter().all(|name| base.join(name).is_file()));
    let asked = hub.asked();
    assert!(asked > 4, "{asked}");

    // Train: the pooler is new, and is saved with the adapter.
    let mut train = training();
    train.args(["train", "--model-id", ID, "--method", "sora", "--data"]).arg(from).arg("--output").arg(&to);
    train.args(["--epochs", "20", "--batch-size", "8", "--rank", "4", "--seed", "5", "--lr", "1e-2"]);
    fine(train.args(["--target-ratio", "0.5"]));
    let config = value(&std::fs::read(to.join("adapter_config.json")).unwrap());
    assert_eq!(config["modules_to_save"], json!(["classifier", "pooler"]));
    let metrics =
        fine(training().args(["evaluate", "--model-id", ID, "--json", "--data"]).arg(from).arg("--adapter").arg(&to));
    assert!(value(metrics.as_bytes())["metrics"]["accuracy"].as_f64().unwrap() > 0.8, "{metrics}");

    // Prune: the checkpoint of the exported epoch gives the same adapter, with different ranks by site.
    let exported = std::fs::read(to.join("adapter_model.safetensors")).unwrap();
    let entries = std::fs::read_dir(to.join("run")).unwrap().map(|entry| entry.unwrap().path());
    let mut checkpoints = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("checkpoint-"));
    let same = checkpoints.any(|checkpoint| {
        drop(std::fs::remove_dir_all(&again));
        fine(training().arg("prune").arg(checkpoint).arg("--output").arg(&again));
        std::fs::read(again.join("adapter_model.safetensors")).unwrap() == exported
    });
    assert!(same, "no checkpoint prunes to what was exported");
    let ranks = ranks(&value(fine(runtime().arg("inspect").arg(&to).arg("--json")).as_bytes()));
    assert!(ranks.iter().any(|rank| *rank < 4) && ranks.iter().any(|rank| *rank > 0), "{ranks:?}");

    // Serve: HTTP and the command line give the same answers.
    let texts = ["the plot was very good", "the plot and was not good", "naïve ½ 東京"];
    let mut classify = runtime();
    classify.args(["classify", "--model-id", ID, "--adapter"]).arg(&to);
    let printed = fine(classify.args(texts.iter().flat_map(|text| ["--text", text])));
    let server = Server::spawn(&mut runtime(), ID, adapters.to_str().unwrap());
    let answers = server.post("/classify/plots", &json!({"inputs": texts}));
    assert_eq!((printed.lines().count(), answers.as_array().unwrap().len()), (texts.len(), texts.len()));
    for (line, answer) in printed.lines().zip(answers.as_array().unwrap()) {
        assert_same(&value(line.as_bytes())["labels"], answer);
    }
    assert_eq!(hub.asked(), asked, "the hub was asked again");
}

/// One base has shards (half of them f16) and a `vocab.txt`, the other has RoBERTa's `vocab.json` and `merges.txt`.
#[test]
fn base_from_the_hub_equals_the_same_base_in_a_folder() {
    let home = TempDir::new().unwrap();
    let hub = Hub::play(vec![("org/bert", golden("bert")), ("org/roberta", golden("roberta"))]);
    for name in ["bert", "roberta"] {
        let pull = |what: String| PathBuf::from(fine(command(polyrank(), &home, &hub).args(["pull", &what])).trim());
        let (pulled, local) = (pull(format!("org/{name}")), pull(golden(name).to_str().unwrap().to_owned()));
        assert_ne!(pulled, local);
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            assert_eq!(
                std::fs::read(pulled.join(file)).unwrap(),
                std::fs::read(local.join(file)).unwrap(),
                "{name}: {file}"
            );
        }
    }
}

#[test]
fn pulls_an_adapter_but_not_offline() {
    let (home, plain) = (TempDir::new().unwrap(), base_dir().join("plain"));
    let hub = Hub::play(vec![("org/plain", plain.clone())]);
    let run = || command(polyrank(), &home, &hub);
    let offline = run().env("HF_HUB_OFFLINE", "1").args(["pull", "--adapter", "org/plain"]).output().unwrap();
    let message = String::from_utf8_lossy(&offline.stderr).into_owned();
    assert!(offline.status.code() == Some(1) && message.contains("org/plain"), "{message}");
    assert_eq!(hub.asked(), 0);
    let pulled = PathBuf::from(fine(run().args(["pull", "--adapter", "org/plain"])).trim());
    let asked = hub.asked();
    let again = fine(run().env("HF_HUB_OFFLINE", "1").args(["pull", "--adapter", "org/plain"]));
    assert_eq!((Path::new(again.trim()), hub.asked()), (&*pulled, asked));
    let classify = |adapter: &Path| {
        let base = base_dir();
        fine(run().args(["classify", "--text", "a good plot", "--model-id"]).arg(base).arg("--adapter").arg(adapter))
    };
    assert_eq!(classify(&pulled), classify(&plain));
    let refused = run().env("HF_TOKEN", "another").args(["pull", "--adapter", "org/other"]).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("HTTP status 401"), "{message}");
}
