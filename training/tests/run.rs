//! Whole runs of `polyrank-train` on the tiny base: train, resume, prune, evaluate, and what it refuses.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, Delta};
use polyrank::encoder::{Identity, Packed, head_logits};
use polyrank::engine::{Engine, Row};
use polyrank::kernel::prepacked::Precision;
use polyrank::tokenize::Limit;
use polyrank_training::method::{Group, LowRank, LowRankSettings};
use tempfile::TempDir;

use super::{base_dir, engine, home};

fn polyrank_train(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polyrank-train")).args(args).env("POLYRANK_HOME", home()).output().unwrap()
}

pub(crate) fn fine(args: &[&str]) -> String {
    let output = polyrank_train(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(args: &[&str], code: i32, words: &str) {
    let output = polyrank_train(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(words), "expected {words:?} in {message:?}");
}

/// A task that a word decides.
pub(crate) fn data() -> TempDir {
    let dir = TempDir::new().unwrap();
    let row = |i: usize| {
        let (label, word) = if i.is_multiple_of(2) { ("good", "very good") } else { ("bad", "not good") };
        format!(
            "{label}\tthe plot {} was {word} {}\n",
            ["and", "of", "the"][i % 3],
            ["plot", "the", "of", "and", "was"][i % 5]
        )
    };
    let rows = |range: std::ops::Range<usize>| format!("label\tsentence\n{}", range.map(row).collect::<String>());
    std::fs::write(dir.path().join("train.tsv"), rows(0..48)).unwrap();
    std::fs::write(dir.path().join("validation.tsv"), rows(48..60)).unwrap();
    dir
}

pub(crate) fn train<'a>(data: &'a str, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base: &'static str = Box::leak(base_dir().to_string_lossy().into_owned().into_boxed_str());
    let mut args = vec!["train", "--model-id", base, "--data", data, "--output", output, "--batch-size", "8"];
    args.extend(["--rank", "6", "--seed", "3"]);
    args.extend(more);
    args
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_run_lands_on_its_ratio_and_its_checkpoint_prunes_to_the_same_adapter() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "6", "--target-ratio", "0.5"]));
    let adapter = engine().load_adapter(&output).unwrap();
    let full: usize = engine()
        .layout()
        .sites()
        .map(|site| {
            let layout = engine();
            let module = layout.layout().module(site).clone();
            6 * (module.in_features + module.out_features)
        })
        .sum();
    let kept = adapter.delta_parameters() as f64 / full as f64;
    assert!((kept - 0.5).abs() < 0.03, "{kept}");
    let mut labels = adapter.labels.clone();
    labels.sort();
    assert_eq!(labels, ["bad", "good"]);
    let log = std::fs::read_to_string(output.join("run/log.jsonl")).unwrap();
    let entries: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 6);
    // The exported adapter is the best of the epochs whose support is final, as the served path measures it.
    let best = entries[3..].iter().map(|entry| entry["metrics"]["accuracy"].as_f64().unwrap()).fold(0.0, f64::max);
    let base = base_dir();
    let json = fine(&["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((found["metrics"]["accuracy"].as_f64().unwrap(), found["examples"].as_u64()), (best, Some(12)));
    assert_eq!(found["parameters"]["adapter"].as_u64().unwrap() as usize, adapter.delta_parameters());
    let first_best = entries.iter().skip(3).find(|entry| entry["metrics"]["accuracy"].as_f64() == Some(best)).unwrap();
    let checkpoint = output.join(format!("run/checkpoint-{}", first_best["epoch"]));
    let again = room.path().join("again");
    fine(&["prune", checkpoint.to_str().unwrap(), "--output", again.to_str().unwrap()]);
    assert_eq!(read(&again.join("adapter_model.safetensors")), read(&output.join("adapter_model.safetensors")));
    refused(&train(from, to, &["--epochs", "1"]), 1, "is not empty");
}

#[test]
fn a_resumed_run_ends_as_an_uninterrupted_one() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let from = data.path().to_str().unwrap();
    let (whole, parted) = (room.path().join("whole"), room.path().join("parted"));
    fine(&train(from, whole.to_str().unwrap(), &["--epochs", "4"]));
    // As if it had been killed after epoch 2: that checkpoint is the last.
    fine(&train(from, parted.to_str().unwrap(), &["--epochs", "4"]));
    let expected = read(&whole.join("adapter_model.safetensors"));
    assert_eq!(read(&parted.join("adapter_model.safetensors")), expected, "the same seed trains the same adapter");
    for entry in std::fs::read_dir(parted.join("run")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() == "checkpoint-4" {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    for name in ["adapter_model.safetensors", "adapter_config.json", "config.json"] {
        std::fs::remove_file(parted.join(name)).unwrap();
    }
    fine(&train(from, parted.to_str().unwrap(), &["--epochs", "4", "--resume"]));
    assert_eq!(read(&parted.join("adapter_model.safetensors")), expected);
    refused(&train(from, parted.to_str().unwrap(), &["--epochs", "5", "--resume"]), 1, "other settings");
}

#[test]
fn pruning_changes_outputs_by_rounding_only() {
    let engine = engine();
    let modules = (0..engine.layout().modules.len()).collect();
    let settings = LowRankSettings { rank: 5, alpha: 10.0, gated: true, modules, labels: 4, seed: 9 };
    let method = LowRank::new(engine.layout(), &settings, engine.device()).unwrap();
    for (i, trainable) in method.trainables().iter().enumerate() {
        let shape = trainable.var.shape();
        let mut values: Vec<f32> =
            (0..shape.elem_count()).map(|j| ((i * 31 + j * 17) % 23) as f32 / 23.0 - 0.5).collect();
        if trainable.group == Group::Gate {
            // Some ranks pruned everywhere, whole sites now and then.
            values
                .iter_mut()
                .enumerate()
                .filter(|(j, _)| i.is_multiple_of(4) || j % 3 == 0)
                .for_each(|(_, g)| *g = 0.0);
        }
        trainable.var.set(&Tensor::from_vec(values, shape, engine.device()).unwrap()).unwrap();
    }
    let limit = Limit { max_length: None, truncate: true };
    let text = engine.encode("the plot was not very good", None, &limit).unwrap();
    let batch = Packed::new([&text]);
    let hidden = engine.encoder().forward(&batch, &method).unwrap();
    let before =
        head_logits(&**engine.encoder(), &hidden, &batch, &method.head(), &Identity).unwrap().to_vec2::<f32>().unwrap();
    let (deltas, head) = method.pruned().unwrap();
    assert!(deltas.iter().any(Option::is_none) && deltas.iter().flatten().any(|delta: &Delta| delta.rank() < 5));
    let labels = (0..4).map(|i| i.to_string()).collect();
    let adapter = Adapter { deltas, head, labels, problem_type: None, base_fingerprint: None, base_model: None };
    let after = engine.logits(&[Row { text, adapter: Arc::new(adapter) }]).unwrap();
    let scale = before[0].iter().fold(1.0f32, |most, x| most.max(x.abs()));
    for (before, after) in before[0].iter().zip(&after[0]) {
        assert!((before - after).abs() <= 1e-5 * scale, "{before} and {after}");
    }
}

/// What is trained on the int8 base answers on it as it was validated, and otherwise on the exact one.
#[test]
fn an_adapter_is_trained_on_the_base_that_serves_it() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "3", "--dtype", "int8", "--dropout-after", "1", "--lr", "3e-3"]));
    let config = String::from_utf8(read(&output.join("run/config.toml"))).unwrap();
    assert!(config.contains("dtype = \"int8\"") && config.contains("dropout_after = 1"), "{config}");
    let evaluate = |dtype: &str| -> serde_json::Value {
        let base = base_dir();
        let args = ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from];
        serde_json::from_str(&fine(&[&args[..], &["--json", "--dtype", dtype]].concat())).unwrap()
    };
    let log = String::from_utf8(read(&output.join("run/log.jsonl"))).unwrap();
    let accuracies: Vec<f64> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["metrics"]["accuracy"].as_f64().unwrap())
        .collect();
    let served = evaluate("int8")["metrics"]["accuracy"].as_f64().unwrap();
    assert!(accuracies.contains(&served), "{served} is none of {accuracies:?}");
    let logits = |precision| {
        let engine = Engine::prepacked(&base_dir(), &Device::Cpu, precision, None).unwrap();
        let text =
            engine.encode("the plot was not very good", None, &Limit { max_length: None, truncate: true }).unwrap();
        let adapter = Arc::new(engine.load_adapter(&output).unwrap());
        engine.logits(&[Row { text, adapter }]).unwrap()
    };
    assert_ne!(logits(Precision::Int8), logits(Precision::F32));
}

#[test]
fn wrong_settings_touch_nothing() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    refused(
        &train(from, to, &["--target-ratio", "1.5"]),
        1,
        "--target-ratio: expected above 0 and at most 1, found 1.5",
    );
    refused(&train(from, to, &["--target-modules", "query,quarry"]), 1, "unknown module \"quarry\"");
    refused(&train(from, to, &["--xi", "1e-3", "--target-ratio", "0.5"]), 2, "cannot be used with");
    refused(&train(from, to, &["--epochs", "0"]), 1, "--epochs: expected 1 or more, found 0");
    refused(&train("/nowhere/at/all", to, &[]), 1, "no such folder");
    refused(&["prune", "/nowhere/run/checkpoint-1", "--output", to], 1, "config.toml");
    assert!(!output.exists());
}

/// A file may grow to a few kilobytes only, as on a full disk: the run ends with the file's name, and leaves nothing half-written.
#[cfg(unix)]
#[test]
fn no_room_for_a_checkpoint_is_an_error_and_leaves_nothing_half_written() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let args = train(data.path().to_str().unwrap(), output.to_str().unwrap(), &["--epochs", "2"]);
    let limited = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", limited, "bash", env!("CARGO_BIN_EXE_polyrank-train")]).args(&args);
    let output_of = shell.env("POLYRANK_HOME", room.path().join("home")).output().unwrap();
    let message = String::from_utf8_lossy(&output_of.stderr).into_owned();
    assert_eq!(output_of.status.code(), Some(1), "{message}");
    assert!(message.contains("state.safetensors") && message.contains("File too large"), "{message}");
    let names = |dir: &Path| -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&output), ["run"]);
    assert_eq!(names(&output.join("run")), ["config.toml", "task.json"]);
    // With room again, the run goes on from where it stands: the beginning.
    fine(&train(data.path().to_str().unwrap(), output.to_str().unwrap(), &["--epochs", "2", "--resume"]));
}
