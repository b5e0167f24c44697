//! Datasets of the hub: `goldens/make_dataset.py` made one as the library `datasets` writes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::base_dir;
use super::hub::{Hub, command, fine};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of a repository below `dir`, by their paths in it.
fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            all.extend(files(&entry.path()).into_iter().map(|file| format!("{name}/{file}")));
        } else {
            all.push(name);
        }
    }
    all
}

/// A hub with the datasets `org/tiny` and, only on the branch of converted copies, `org/raw`. It has a file whose name needs escapes.
fn hub() -> Hub {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/dataset");
    Hub::answering(move |path| {
        let listing = |files: Vec<String>| {
            let siblings: Vec<Value> = files.iter().map(|file| json!({ "rfilename": file })).collect();
            Some(json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
        };
        match path {
            "/api/datasets/org/tiny/revision/main" | "/api/datasets/org/tiny/revision/v1" => listing(files(&folder)),
            "/api/datasets/org/raw/revision/main" => listing(vec!["README.md".into(), "all rows.zip".into()]),
            "/api/datasets/org/raw/revision/refs%2Fconvert%2Fparquet" => {
                listing(vec!["one two/train/0000.parquet".into()])
            }
            "/api/datasets/org/odd/revision/main" => Some(b"{}".to_vec()),
            path => {
                let (id, name) = path.strip_prefix("/datasets/org/")?.split_once(&format!("/resolve/{COMMIT}/"))?;
                let name = if id == "raw" && name == "one%20two/train/0000.parquet" {
                    "topics/train-00000-of-00001.parquet"
                } else {
                    name
                };
                std::fs::read(folder.join(name)).ok()
            }
        }
    })
}

fn training(home: &TempDir, hub: &Hub, args: &[&str]) -> Command {
    let mut command = command(Path::new(env!("CARGO_BIN_EXE_polyrank-train")), home, hub);
    command.arg(args[0]).arg("--model-id").arg(base_dir()).args(&args[1..]);
    command
}

/// The arguments of a short run.
const RUN: [&str; 9] = ["train", "--method", "lora", "--rank", "2", "--epochs", "8", "--lr", "1e-2"];

fn error(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn trains_and_evaluates_on_a_dataset_of_the_hub() {
    let (home, room, hub) = (TempDir::new().unwrap(), TempDir::new().unwrap(), hub());
    let to: PathBuf = room.path().join("adapter");
    let of = ["--dataset", "org/tiny", "--dataset-config", "sentiment"];
    let run = training(&home, &hub, &[&RUN[..], &of, &["--output", to.to_str().unwrap()]].concat()).output().unwrap();
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{told}");
    assert!(told.contains("labels: whole numbers read as ids into the Parquet file's features (2 classes)"), "{told}");
    let facts: Value = serde_json::from_slice(&std::fs::read(to.join("run/task.json")).unwrap()).unwrap();
    assert_eq!((&facts["task"], &facts["labels"]), (&json!("sentiment"), &json!(["1", "0"])));
    assert_eq!((&facts["train"]["examples"], &facts["validation"]["examples"]), (&json!(40), &json!(12)));
    // The splits lie in the cache, from one commit, and the hub is not asked again.
    let cached = home.path().join("datasets/org--tiny+sentiment");
    let mut names = files(&cached);
    names.sort();
    let parts = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation.parquet"];
    assert_eq!(names, [&["dataset.json"][..], &parts].concat());
    let source: Value = serde_json::from_slice(&std::fs::read(cached.join("dataset.json")).unwrap()).unwrap();
    assert_eq!((&source["commit"], &source["config"]), (&json!(COMMIT), &json!("sentiment")));
    let asked = hub.asked();
    let args = [&["evaluate", "--json", "--adapter", to.to_str().unwrap()][..], &of].concat();
    let found: Value = serde_json::from_str(&fine(training(&home, &hub, &args).env("HF_HUB_OFFLINE", "1"))).unwrap();
    assert!(found["metrics"]["accuracy"].as_f64().unwrap() > 0.9 && found["task"] == "sentiment", "{found}");
    assert_eq!(hub.asked(), asked);
}

/// Lists of classes, another column, a converted copy, and names that need escapes.
#[test]
fn reads_the_converted_copy_of_a_dataset_in_an_unknown_format() {
    let (home, room, hub) = (TempDir::new().unwrap(), TempDir::new().unwrap(), hub());
    let to: PathBuf = room.path().join("adapter");
    let of = ["--dataset", "org/raw", "--label-column", "topics", "--epochs", "1"];
    fine(&mut training(&home, &hub, &[&RUN[..5], &of, &["--output", to.to_str().unwrap()]].concat()));
    let facts: Value = serde_json::from_slice(&std::fs::read(to.join("run/task.json")).unwrap()).unwrap();
    assert_eq!(facts["problem"], "multi_label_classification");
    assert_eq!((&facts["task"], &facts["labels"]), (&json!("raw"), &json!(["praise", "complaint"])));
}

/// A configuration and a revision belong to the dataset of their own layer.
#[test]
fn dataset_replaces_the_configuration_and_revision_of_weaker_layers() {
    let (home, room, hub) = (TempDir::new().unwrap(), TempDir::new().unwrap(), hub());
    let file = room.path().join("settings.toml");
    std::fs::write(&file, "dataset = \"org/raw\"\ndataset_config = \"stars\"\ndataset_revision = \"v2\"\n").unwrap();
    let by_file = ["train", "--output", "/nowhere/at/all", "--config", file.to_str().unwrap()];
    let by_flag = ["train", "--output", "/nowhere/at/all", "--dataset", "org/tiny"];
    let told = [
        error(&mut training(&home, &hub, &[&by_file[..], &by_flag[3..]].concat())),
        error(training(&home, &hub, &by_file).env("POLYRANK_TRAIN_DATASET", "org/tiny")),
        error(
            training(&home, &hub, &by_flag)
                .env("POLYRANK_TRAIN_DATASET", "org/raw")
                .env("POLYRANK_TRAIN_DATASET_CONFIG", "stars")
                .env("POLYRANK_TRAIN_DATASET_REVISION", "v2"),
        ),
    ];
    for told in told {
        assert!(told.contains("dataset org/tiny: it has several configurations"), "{told}");
    }
}

/// The variables are settings of `train`, which `extract` does not take: neither a dataset's configuration and revision, nor columns, nor
/// weights that it refuses as a flag.
#[test]
fn extract_reads_no_variables_of_train() {
    let (home, room, hub) = (TempDir::new().unwrap(), TempDir::new().unwrap(), hub());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/extract/model");
    let (model, to) = (model.to_str().unwrap(), room.path().join("adapter"));
    let args = ["extract", "--model", model, "--output", to.to_str().unwrap(), "--dataset", "org/tiny"];
    let variables = [
        ("DATASET_CONFIG", "stars"),
        ("DATASET_REVISION", "v2"),
        ("TEXT_COLUMN", "review"),
        ("CLASS_WEIGHTS", "balanced"),
    ];
    let variables = variables.map(|(name, value)| (format!("POLYRANK_TRAIN_{name}"), value));
    let told = error(training(&home, &hub, &args).envs(variables.clone()));
    assert!(told.contains("dataset org/tiny: it has several configurations"), "{told}");
    // The dataset is read, and has other labels than the model.
    let found = [&args[..], &["--dataset-config", "sentiment"]].concat();
    let told = error(training(&home, &hub, &found).envs(variables));
    assert!(told.contains("error: the adapter has 3 labels, but the data has 2"), "{told}");
}

#[test]
fn errors_name_the_dataset_and_what_it_has() {
    let (home, hub) = (TempDir::new().unwrap(), hub());
    let refused = |args: &[&str], words: &str| {
        let message = error(&mut training(&home, &hub, &[&["train", "--output", "/nowhere/at/all"], args].concat()));
        assert!(message.contains(words), "expected {words:?} in {message:?}");
    };
    let config = "give --dataset-config, one of sentiment, topics";
    refused(&["--dataset", "org/tiny"], &format!("dataset org/tiny: it has several configurations; {config}"));
    refused(&["--dataset", "org/tiny", "--dataset-revision", "v1"], config);
    let other = ["--dataset", "org/tiny", "--dataset-config", "stars"];
    refused(&other, "dataset org/tiny: --dataset-config: expected one of sentiment, topics, found stars");
    refused(&["--dataset", "org/none"], "has no such dataset or revision");
    refused(&["--dataset", "org/tiny", "--dataset-revision", "v2"], "has no such dataset or revision");
    refused(&["--dataset", "org/odd"], "expected a commit and its files, found {}");
    refused(&["--dataset", "tiny"], "dataset tiny: its name: expected ORG/NAME, found \"tiny\"");
    refused(
        &["--dataset", "org/tiny", "--dataset-revision", "../x"],
        "expected a branch, a tag or a commit, found \"../x\"",
    );
    refused(&["--dataset", "org/tiny", "--dataset-config", "../x"], "its configuration: expected letters");
    refused(&["--dataset", "org/tiny", "--data", "a.csv"], "expected one of --data and --dataset, found both");
    refused(&[], "expected --data or --dataset, found neither");
    let asked = hub.asked();
    let args = ["train", "--output", "/nowhere/at/all", "--dataset", "org/tiny"];
    let offline = error(training(&home, &hub, &args).env("HF_HUB_OFFLINE", "1"));
    assert!(offline.contains("the dataset org/tiny is not in the cache, and offline mode is on"), "{offline}");
    let other = error(training(&home, &hub, &args).env("HF_TOKEN", "another"));
    assert!(other.contains("/api/datasets/org/tiny/revision/main: HTTP status 401"), "{other}");
    assert_eq!(hub.asked(), asked + 1);
    assert!(!home.path().join("datasets").is_dir() || files(&home.path().join("datasets")).is_empty());
}
