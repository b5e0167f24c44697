//! Complete runs of `polyrank-train` on the tiny base: train, prune, evaluate, and refused calls.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use polyrank::adapter::{AdapterInfo, ProblemType};
use polyrank::encoder::{Identity, Packed};
use polyrank::engine::{Engine, Row};
use polyrank::params::Precision;
use polyrank::text::Limit;
use polyrank_training::method::sora::{GateRule, SoraSettings, Threshold};
use polyrank_training::method::{LowRankSettings, Method, Sora};
use tempfile::TempDir;

use super::{base_dir, engine, home};

pub(crate) fn polyrank_train(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polyrank-train")).args(args).env("POLYRANK_HOME", home()).output().unwrap()
}

pub(crate) fn fine(args: &[&str]) -> String {
    let output = polyrank_train(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn refused(args: &[&str], code: i32, words: &str) {
    let output = polyrank_train(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(words), "expected {words:?} in {message:?}");
}

/// A task in which one word decides the label.
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

pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn truncated_texts_are_told() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    let output = polyrank_train(&train(from, to, &["--epochs", "1", "--max-length", "6"]));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("48 of 48 texts of train are longer than 6 tokens, and are truncated\n"), "{told}");
}

#[test]
fn run_reaches_its_ratio_and_its_checkpoint_gives_the_same_adapter() {
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
    let mut labels = adapter.info.labels.clone();
    labels.sort();
    assert_eq!(labels, ["bad", "good"]);
    let log = std::fs::read_to_string(output.join("run/log.jsonl")).unwrap();
    let entries: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 6);
    // The exported adapter is the best among the epochs with final ranks, as measured with the forward pass of serving.
    let best = entries[2..].iter().map(|entry| entry["metrics"]["accuracy"].as_f64().unwrap()).fold(0.0, f64::max);
    let base = base_dir();
    let json = fine(&["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((found["metrics"]["accuracy"].as_f64().unwrap(), found["examples"].as_u64()), (best, Some(12)));
    assert_eq!(found["parameters"]["adapter"].as_u64().unwrap() as usize, adapter.delta_parameters());
    // Among epochs with equal metrics, it is the one with the lowest loss.
    let equal = entries.iter().skip(2).filter(|entry| entry["metrics"]["accuracy"].as_f64() == Some(best));
    let loss = |entry: &&serde_json::Value| entry["validation_loss"].as_f64().unwrap();
    let chosen = equal.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap();
    let checkpoint = output.join(format!("run/checkpoint-{}", chosen["epoch"]));
    let again = room.path().join("again");
    fine(&["prune", checkpoint.to_str().unwrap(), "--output", again.to_str().unwrap()]);
    assert_eq!(read(&again.join("adapter_model.safetensors")), read(&output.join("adapter_model.safetensors")));
    refused(&train(from, to, &["--epochs", "1"]), 1, "is not empty");
}

/// The names in a folder, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The lines of a run's log, without duration and speed.
pub(crate) fn log(output: &Path) -> Vec<serde_json::Value> {
    let text = String::from_utf8(read(&output.join("run/log.jsonl"))).unwrap();
    let mut entries: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for entry in &mut entries {
        let entry = entry.as_object_mut().unwrap();
        assert!(entry.remove("seconds").is_some() && entry.remove("tokens_per_second").is_some());
    }
    entries
}

#[test]
fn prints_help_completions_and_manual_pages() {
    let help = fine(&["train", "--help"]);
    for words in
        ["POLYRANK_TRAIN_RANK", "Data:", "Run:", "Method:", "Optimiser:", "Device:", "Examples:", "Random seed"]
    {
        assert!(help.contains(words), "{words}");
    }
    // A schedule is of SoRA, with gates that have a threshold.
    let schedule = fine(&["schedule", "--help"]);
    assert!(["--xi-max", "--gate ", "--rank ", "--gate-lr"].iter().all(|flag| schedule.contains(flag)), "{schedule}");
    for refused in ["--method", "--depth-bias", "--init-rank", "--export-rank", "--bottleneck", "--target-ratio"] {
        assert!(!schedule.contains(refused), "{refused}");
    }
    assert!(fine(&["--help"]).contains("POLYRANK_HOME"));
    assert!(fine(&["completions", "bash"]).contains("--text-column"));
    let room = TempDir::new().unwrap();
    let pages = room.path().join("man");
    fine(&["man", pages.to_str().unwrap()]);
    let expected =
        ["polyrank-train-evaluate.1", "polyrank-train-prune.1", "polyrank-train-train.1", "polyrank-train.1"];
    let found = names(&pages);
    assert!(expected.iter().all(|page| found.contains(&(*page).to_owned())), "{found:?}");
}

#[test]
fn completions_need_no_reader() {
    assert!(fine(&["completions", "bash"]).contains("--target-ratio"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
    let mut running = command.args(["completions", "zsh"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(running.stdout.take());
    assert!(running.wait().unwrap().success());
}

/// The message and the warnings are printed before the run starts.
#[test]
fn prints_how_labels_were_read() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let rows = String::from_utf8(read(&data.path().join("train.tsv"))).unwrap();
    std::fs::write(data.path().join("train.tsv"), rows.replace("good\t", "3\t").replace("bad\t", "1.0\t")).unwrap();
    std::fs::remove_file(data.path().join("validation.tsv")).unwrap();
    let (from, to) = (data.path().to_str().unwrap(), room.path().join("a"));
    let output = polyrank_train(&train(from, to.to_str().unwrap(), &["--epochs", "1"]));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("labels: whole numbers read as ids without names (4 classes)\n"), "{told}");
    assert!(
        told.contains("warning: no training row of ") && told.contains("2 of the 4 classes: LABEL_0, LABEL_2;"),
        "{told}"
    );
    let weights = train(from, "/nowhere/at/all", &["--class-weights", "good=2"]);
    refused(
        &weights,
        1,
        "--class-weights: expected LABEL_0, LABEL_1, LABEL_2, LABEL_3, or an id from 0 to 3, found \"good\"",
    );
}

#[test]
fn reports_both_validation_splits_of_mnli() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let rows = String::from_utf8(read(&data.path().join("validation.tsv"))).unwrap();
    std::fs::rename(data.path().join("validation.tsv"), data.path().join("validation_matched.tsv")).unwrap();
    // The labels are swapped, so that all answers are wrong here and right on the other split.
    let swapped = rows.replace("good\t", "x\t").replace("bad\t", "good\t").replace("x\t", "bad\t");
    std::fs::write(data.path().join("validation_mismatched.tsv"), swapped).unwrap();
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "2"]));
    for entry in log(&output) {
        let (selected, also) = (&entry["metrics"]["accuracy"], &entry["also"]["validation_mismatched"]["accuracy"]);
        assert_eq!(selected.as_f64().unwrap() + also.as_f64().unwrap(), 1.0, "{entry}");
    }
    let base = base_dir();
    let json = fine(&["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (selected, also) = (&found["metrics"]["accuracy"], &found["also"]["validation_mismatched"]["accuracy"]);
    assert_eq!(selected.as_f64().unwrap() + also.as_f64().unwrap(), 1.0, "{found}");
}

/// If the last step diverges, the run ends with an error and writes no adapter.
#[test]
fn divergence_in_the_last_step_is_an_error() {
    for (one, two) in [("good", "bad"), ("0.5", "1.5")] {
        let (data, room) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let rows = format!("label\tsentence\n{}", format!("{one}\tthe plot\n{two}\tand the\n").repeat(4));
        std::fs::write(data.path().join("train.tsv"), &rows).unwrap();
        std::fs::write(data.path().join("validation.tsv"), &rows).unwrap();
        let output = room.path().join("adapter");
        let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
        refused(&train(from, to, &["--epochs", "1", "--lr", "1e30"]), 1, "expected finite numbers");
        assert_eq!(names(&output), ["run"]);
    }
}

pub(crate) fn sora(engine: &Engine, shape: &LowRankSettings) -> Sora {
    let settings = SoraSettings {
        gate: GateRule::Authors,
        threshold: Threshold::Xi(0.0),
        gate_rate: 1.0,
        sparse_lambda: 0.0,
        depth_bias: 0.0,
    };
    Sora::new(engine.layout(), shape, settings, engine.device()).unwrap()
}

#[test]
fn pruning_changes_outputs_by_rounding_only() {
    let engine = engine();
    let modules = (0..engine.layout().modules.len()).collect();
    let shape = LowRankSettings { rank: 5, alpha: 10.0, modules, labels: 4, seed: 9 };
    let method = sora(&engine, &shape);
    for (i, trainable) in method.variables().iter().enumerate() {
        let shape = trainable.var.shape();
        let mut values: Vec<f32> =
            (0..shape.elem_count()).map(|j| ((i * 31 + j * 17) % 23) as f32 / 23.0 - 0.5).collect();
        if trainable.name.ends_with(".gate") {
            // Some ranks are pruned at every site, and sometimes all ranks of a site.
            values
                .iter_mut()
                .enumerate()
                .filter(|(j, _)| i.is_multiple_of(4) || j % 3 == 0)
                .for_each(|(_, g)| *g = 0.0);
        }
        trainable.var.set(&Tensor::from_vec(values, shape, engine.device()).unwrap()).unwrap();
    }
    let limit = Limit::TRUNCATE;
    let text = engine.encode("the plot was not very good", None, &limit).unwrap();
    let batch = Packed::new([&text]);
    let pass = method.pass().unwrap();
    let pooled = engine.encoder().pooled(&batch, &*pass).unwrap();
    let before = engine.encoder().logits(&pooled, &method.head(), &Identity).unwrap().to_vec2::<f32>().unwrap();
    let info = AdapterInfo {
        labels: (0..4).map(|i| i.to_string()).collect(),
        problem_type: Some(ProblemType::SingleLabelClassification),
        base_fingerprint: Some(engine.base_fingerprint().to_owned()),
        base_model: Some("tiny".to_owned()),
    };
    let adapter = method.export(info).unwrap().into_adapter().unwrap();
    let deltas = &adapter.weights.sites;
    assert!(deltas.iter().any(Option::is_none) && deltas.iter().flatten().any(|change| change.rank() < 5));
    let after = engine.logits(&[Row { text, adapter: Arc::new(adapter) }]).unwrap();
    let scale = before[0].iter().fold(1.0f32, |most, x| most.max(x.abs()));
    for (before, after) in before[0].iter().zip(&after[0]) {
        assert!((before - after).abs() <= 1e-5 * scale, "{before} and {after}");
    }
}

/// An adapter that was trained on the int8 base gives the validated metrics on that base, and other answers on the f32 base.
#[test]
fn trains_on_the_int8_base_that_serves() {
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
        let text = engine.encode("the plot was not very good", None, &Limit::TRUNCATE).unwrap();
        let adapter = Arc::new(engine.load_adapter(&output).unwrap());
        engine.logits(&[Row { text, adapter }]).unwrap()
    };
    assert_ne!(logits(Precision::Int8), logits(Precision::F32));
}

#[test]
fn invalid_settings_change_no_files() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    refused(
        &train(from, to, &["--target-ratio", "1.5"]),
        1,
        "--target-ratio: expected above 0 and at most 1, found 1.5",
    );
    refused(&train(from, to, &["--target-modules", "query,quarry"]), 1, "unknown module \"quarry\"");
    refused(&train(from, to, &["--xi", "1e-3", "--target-ratio", "0.5"]), 1, "found --target-ratio and --xi");
    for flag in ["--xi", "--lambda"] {
        let expected = "--target-ratio or --target-params, which say how many ranks to keep";
        let words = format!("--gate adaptive: expected {expected}, found {flag}");
        refused(&train(from, to, &["--gate", "adaptive", flag, "1e-3"]), 1, &words);
    }
    for (flag, value, expected) in [
        ("--epochs", "0", "1 or more"),
        ("--max-length", "0", "1 or more"),
        ("--xi", "nan", "0 or a positive number"),
        ("--lambda", "-5", "0 or a positive number"),
        ("--sparse-lambda", "-1", "0 or a positive number"),
        ("--weight-decay", "inf", "0 or a positive number"),
        ("--warmup", "nan", "from 0 to 1"),
        ("--warmup", "3", "from 0 to 1"),
        ("--dropout", "1", "0 or more and below 1"),
        ("--lr", "nan", "a positive number"),
    ] {
        let given = format!("{flag}={value}");
        let found = value.replace("nan", "NaN");
        refused(&train(from, to, &[&given]), 1, &format!("{flag}: expected {expected}, found {found}"));
    }
    let ranks: Vec<&str> =
        train(from, to, &[]).into_iter().map(|arg| if arg == "6" { "18446744073709551615" } else { arg }).collect();
    refused(&ranks, 1, "--rank: expected at most");
    refused(
        &train(from, to, &["--method", "lora", "--target-ratio", "0.5"]),
        1,
        "--target-ratio: expected with the method sora",
    );
    let config = room.path().join("settings.toml");
    let by_file = |content: &str, flag: &'static [&'static str], words: &str| {
        std::fs::write(&config, content).unwrap();
        let file = ["--config", config.to_str().unwrap()];
        refused(&train(from, to, &[&file, flag].concat()), 1, words);
    };
    by_file("method = \"lora\"", &["--target-ratio", "0.5"], "--target-ratio: expected with the method sora");
    by_file("epochs = 3\nranks = 8\n", &[], "settings.toml: unknown setting ranks");
    refused(&train("/nowhere/at/all", to, &[]), 1, "no such folder");
    refused(&["prune", "/nowhere/run/checkpoint-1", "--output", to], 1, "is not a checkpoint");
    refused(&train(from, to, &["--max-length", "999"]), 1, "max_length");
    assert!(!output.exists());
    // An existing adapter stays until all settings have been checked.
    fine(&train(from, to, &["--epochs", "1"]));
    let before = read(&output.join("adapter_model.safetensors"));
    refused(&train(from, to, &["--overwrite", "--max-length", "999"]), 1, "max_length");
    assert_eq!(read(&output.join("adapter_model.safetensors")), before);
    fine(&train(from, to, &["--overwrite", "--epochs", "2"]));
    assert_eq!(log(&output).len(), 2);
}
