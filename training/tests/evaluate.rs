//! `polyrank-train evaluate`: its choice of rows, labels and metric.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use polyrank::engine::Row;
use polyrank::text::Limit;
use serde_json::Value;
use tempfile::TempDir;

use super::run::{data, fine, log, polyrank_train, read, refused, train};
use super::{base_dir, engine};

/// The command's arguments for the adapter in `to` and the data in `from`.
fn args<'a>(to: &'a Path, from: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let base: &'static str = Box::leak(base_dir().to_string_lossy().into_owned().into_boxed_str());
    let args = ["evaluate", "--model-id", base, "--json", "--adapter"];
    [&args[..], &[to.to_str().unwrap(), "--data", from.to_str().unwrap()], more].concat()
}

fn evaluate(to: &Path, from: &Path, more: &[&str]) -> Value {
    serde_json::from_str(&fine(&args(to, from, more))).unwrap()
}

fn accuracy(found: &Value) -> (u64, f64) {
    (found["examples"].as_u64().unwrap(), found["metrics"]["accuracy"].as_f64().unwrap())
}

/// Trains an adapter in `room` until it has memorised the task of [`data`].
fn learnt(data: &Path, room: &Path, more: &[&str]) -> std::path::PathBuf {
    let output = room.join("adapter");
    let settings = ["--method", "lora", "--epochs", "8", "--lr", "1e-2"];
    fine(&train(data.to_str().unwrap(), output.to_str().unwrap(), &[&settings[..], more].concat()));
    output
}

/// The labels are random, so that the training rows are answered better than the held-out rows.
#[test]
fn evaluates_the_held_out_rows() {
    let (data, room) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let words = ["plot", "the", "of", "and", "was"];
    let row =
        |i: usize| format!("{} {} {} {}", words[i % 5], words[i / 5 % 5], words[(i / 25 + i) % 5], words[i * 7 % 3]);
    let rows: Vec<String> = (0..40).map(|i| format!("{}\t{}\n", ["a", "b"][(i * i / 3 + i / 5) % 2], row(i))).collect();
    let file = data.path().join("train.tsv");
    let write = |rows: &[String]| fs::write(&file, format!("label\tsentence\n{}", rows.concat())).unwrap();
    write(&rows);
    let output = learnt(data.path(), room.path(), &["--validation-split", "0.25"]);
    let held = ["--validation-split", "0.25", "--seed", "3"];
    let best = log(&output).iter().map(|entry| entry["metrics"]["accuracy"].as_f64().unwrap()).fold(0.0, f64::max);
    let found = evaluate(&output, data.path(), &[]);
    assert_eq!(accuracy(&found), (10, best));
    // If only one of the flags is given, the other has the run's value.
    assert_eq!(evaluate(&output, data.path(), &["--seed", "3"]), found);
    assert_ne!(evaluate(&output, data.path(), &["--seed", "0"]), found, "other rows have another score");
    assert_eq!(evaluate(&output, data.path(), &["--validation-split", "0.25"]), found);
    assert_eq!(accuracy(&evaluate(&output, data.path(), &["--split", "train"])).0, 30);
    assert_eq!(accuracy(&evaluate(&output, data.path(), &["--validation-split", "0.5"])).0, 20);
    // With another seed, most of the held-out rows are training rows.
    for changed in [&rows[1..], &rows.iter().rev().cloned().collect::<Vec<_>>()] {
        write(changed);
        refused(&args(&output, data.path(), &[]), 1, "the data has changed since this run held out a share of it");
        refused(&args(&output, data.path(), &["--split", "train"]), 1, "the data has changed");
        fine(&args(&output, data.path(), &held));
    }
    // It is no longer known which rows were trained on.
    fs::remove_dir_all(output.join("run")).unwrap();
    let one = polyrank_train(&args(&output, &file, &[]));
    let told = String::from_utf8_lossy(&one.stderr).into_owned();
    assert!(told.contains("train.tsv: all rows are evaluated, also those that the adapter was trained on"), "{told}");
    refused(
        &args(&output, data.path(), &[]),
        1,
        "no labelled split \"validation\"; --split test reads a test file; if training held out",
    );
}

#[test]
fn every_labelled_file_of_the_folder_is_a_split() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = learnt(data.path(), room.path(), &["--task", "cola"]);
    let found = evaluate(&output, data.path(), &[]);
    assert_eq!((found["task"].as_str(), found["metrics"]["matthews"].is_f64()), (Some("cola"), true), "{found}");
    assert_eq!(evaluate(&output, data.path(), &["--task", "t"])["metrics"]["matthews"], Value::Null);
    // The folder has only this file, so that the adapter's labels are used.
    let alone = TempDir::new().unwrap();
    for (name, split) in [("test.tsv", "test"), ("dev.tsv", "validation"), ("hard.tsv", "hard")] {
        fs::copy(data.path().join("validation.tsv"), alone.path().join(name)).unwrap();
        let one = evaluate(&output, alone.path(), &["--split", split]);
        assert_eq!((&one["metrics"], &one["examples"]), (&found["metrics"], &found["examples"]), "{name}");
    }
    for (split, words) in
        [("hard.tsv", "no labelled split"), ("../hard", "no labelled split"), ("none", "split \"none\"\n")]
    {
        refused(&args(&output, alone.path(), &["--split", split]), 1, words);
    }
    // The column of labels has another name.
    let named = TempDir::new().unwrap();
    fs::write(named.path().join("test.tsv"), "category\tsentence\ngood\tthe plot\n").unwrap();
    refused(
        &args(&output, named.path(), &["--split", "test"]),
        1,
        "test.tsv: no row has a label; --label-column names",
    );
    evaluate(&output, named.path(), &["--split", "test", "--label-column", "category"]);
    // A file of texts has no column of labels.
    let texts = named.path().join("texts.txt");
    fs::write(&texts, "the plot\n").unwrap();
    refused(&args(&output, &texts, &[]), 1, "texts.txt: column label is missing; found one text on each line");
    // The test file has no labels, as in GLUE.
    let unlabelled = TempDir::new().unwrap();
    fs::write(unlabelled.path().join("test.tsv"), "label\tsentence\n-1\tthe plot\n").unwrap();
    refused(&args(&output, unlabelled.path(), &["--split", "test"]), 1, "no labelled split \"test\"\n");
}

#[test]
fn labels_match_by_name_or_by_id() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = learnt(data.path(), room.path(), &[]);
    let found = evaluate(&output, data.path(), &[]);
    assert_eq!(accuracy(&found), (12, 1.0));
    assert!(found.get("per_label").is_none());
    let labels = evaluate(&output, data.path(), &["--per-label"])["per_label"].clone();
    let scores = |label| serde_json::json!({"label": label, "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 6});
    assert_eq!(labels, serde_json::json!([scores("bad"), scores("good")]));
    let rows = String::from_utf8(read(&data.path().join("validation.tsv"))).unwrap();
    let renamed = |bad: &str, good: &str| {
        let dir = TempDir::new().unwrap();
        let rows = rows.replace("bad\t", &format!("{bad}\t")).replace("good\t", &format!("{good}\t"));
        for name in ["train.tsv", "validation.tsv"] {
            fs::write(dir.path().join(name), &rows).unwrap();
        }
        dir
    };
    assert_eq!(evaluate(&output, renamed("0", "1").path(), &[])["metrics"], found["metrics"]);
    // In sorted order, these names would swap the classes.
    refused(&args(&output, renamed("z_no", "a_yes").path(), &[]), 1, "labels differ");
    refused(&args(&output, renamed("bad", "a_yes").path(), &[]), 1, "labels differ");
}

/// Fewer names than the adapter has are refused, whichever file states them.
#[test]
fn fewer_labels_than_the_adapter_has_are_refused() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let labels = data.path().join("labels.txt");
    fs::write(&labels, "bad\ngood\ngreat\n").unwrap();
    let output = learnt(data.path(), room.path(), &[]);
    assert_eq!(accuracy(&evaluate(&output, data.path(), &[])), (12, 1.0));
    let count = "the adapter has 3 labels, but the data has 2";
    fs::write(&labels, "bad\ngood\n").unwrap();
    refused(&args(&output, data.path(), &[]), 1, count);
    fs::write(&labels, "bad\n").unwrap();
    refused(&args(&output, data.path(), &[]), 1, "train.tsv:2: unknown label \"good\"; expected bad");
    fs::remove_file(&labels).unwrap();
    refused(&args(&output, data.path(), &[]), 1, count);
    // Without a training file, labels.txt counts where it is, and else the adapter's labels.
    fs::remove_file(data.path().join("train.tsv")).unwrap();
    assert_eq!(accuracy(&evaluate(&output, data.path(), &[])), (12, 1.0));
    fs::write(&labels, "bad\ngood\n").unwrap();
    refused(&args(&output, data.path(), &[]), 1, count);
}

/// The whole numbers of the data are names, as `labels.txt` said in training. Without the file, they could be ids.
#[test]
fn whole_numbers_are_the_names_of_the_adapters_labels() {
    let (data, room) = (data(), TempDir::new().unwrap());
    for name in ["train.tsv", "validation.tsv"] {
        let rows = String::from_utf8(read(&data.path().join(name))).unwrap();
        fs::write(data.path().join(name), rows.replace("bad\t", "1\t").replace("good\t", "2\t")).unwrap();
    }
    let labels = data.path().join("labels.txt");
    fs::write(&labels, "1\n2\n3\n").unwrap();
    let output = learnt(data.path(), room.path(), &[]);
    let found = evaluate(&output, data.path(), &[]);
    assert_eq!(accuracy(&found), (12, 1.0));
    fs::remove_file(&labels).unwrap();
    assert_eq!(evaluate(&output, data.path(), &[])["metrics"], found["metrics"]);
    // Both readings fit here, and differ.
    let validation = data.path().join("validation.tsv");
    let rows = String::from_utf8(read(&validation)).unwrap();
    for name in ["train.tsv", "validation.tsv"] {
        fs::write(data.path().join(name), rows.replace("1\t", "0\t").replace("2\t", "1\t")).unwrap();
    }
    refused(&args(&output, data.path(), &[]), 1, "train.tsv:2: the label 1 is ambiguous");
}

/// As in `transformers`.
#[test]
fn one_output_is_a_regression_unless_its_file_says_otherwise() {
    let (adapter, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(base_dir().join("onelabel").join(name), adapter.path().join(name)).unwrap();
    }
    fs::write(data.path().join("validation.tsv"), "label\tsentence\n0\tthe plot\n3\tand the\n5\twas\n").unwrap();
    let found = evaluate(adapter.path(), data.path(), &[]);
    assert!(found["metrics"]["pearson"].is_f64(), "{found}");
}

#[cfg(unix)]
#[test]
fn linked_folder_is_named_by_its_link() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let link = room.path().join("cola");
    std::os::unix::fs::symlink(data.path(), &link).unwrap();
    let output = learnt(&link, room.path(), &[]);
    assert_eq!(log(&output)[0]["metrics"].as_object().unwrap().keys().next().unwrap(), "matthews");
}

/// The adapter may have the labels in another order.
#[test]
fn f1_is_that_of_the_datas_class_1() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&train(from, to, &["--epochs", "6", "--method", "lora"]));
    // Half of the bad rows are labelled good, so that the classes have different F1.
    let rows = String::from_utf8(read(&data.path().join("validation.tsv"))).unwrap();
    let rows: Vec<(&str, &str)> = rows.lines().skip(1).map(|line| line.split_once('\t').unwrap()).collect();
    let rows: Vec<(&str, &str)> =
        rows.iter().enumerate().map(|(i, &(label, text))| (if i % 4 == 1 { "good" } else { label }, text)).collect();
    let lines: String = rows.iter().map(|(label, text)| format!("{label}\t{text}\n")).collect();
    std::fs::write(data.path().join("validation.tsv"), format!("label\tsentence\n{lines}")).unwrap();

    let engine = engine();
    let adapter = Arc::new(engine.load_adapter(&output).unwrap());
    let limit = Limit::TRUNCATE;
    let encode = |text| Row { text: engine.encode(text, None, &limit).unwrap(), adapter: Arc::clone(&adapter) };
    let logits = engine.logits(&rows.iter().map(|(_, text)| encode(text)).collect::<Vec<_>>()).unwrap();
    assert_eq!(adapter.info.labels, ["bad", "good"]);
    let found: Vec<&str> = logits.iter().map(|l| if l[1] > l[0] { "good" } else { "bad" }).collect();
    let f1 = |of: &str| {
        let right = rows.iter().zip(&found).filter(|((label, _), found)| *label == of && **found == of).count();
        let all = rows.iter().filter(|(label, _)| *label == of).count() + found.iter().filter(|f| **f == of).count();
        2.0 * right as f64 / all as f64
    };
    assert_ne!(f1("good"), f1("bad"), "{found:?}");
    let base = base_dir();
    for order in [["good", "bad"], ["bad", "good"]] {
        std::fs::write(data.path().join("labels.txt"), order.join("\n")).unwrap();
        let args = ["evaluate", "--model-id", base.to_str().unwrap(), "--adapter", to, "--data", from, "--json"];
        let json = fine(&[&args[..], &["--task", "mrpc"]].concat());
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["metrics"]["f1"].as_f64().unwrap(), f1(order[1]), "{order:?}: {json}");
    }
}

/// The evaluation uses the run's columns, and the rows of the file that the run held out.
#[test]
fn one_file_is_evaluated_with_the_runs_columns_and_held_out_rows() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let rows = String::from_utf8(read(&data.path().join("train.tsv"))).unwrap();
    let rows = rows.replacen("label\tsentence", "stars\treview", 1);
    let (file, other) = (data.path().join("reviews.tsv"), data.path().join("more.tsv"));
    fs::write(&file, &rows).unwrap();
    fs::write(&other, rows.lines().take(11).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let columns = ["--label-column", "stars", "--text-column", "review"];
    let output = learnt(&file, room.path(), &[&columns[..], &["--validation-split", "0.25"]].concat());
    let task: Value = serde_json::from_slice(&read(&output.join("run/task.json"))).unwrap();
    assert_eq!((task["columns"]["label"].as_str(), task["task"].as_str()), (Some("stars"), Some("reviews")));
    assert_eq!(accuracy(&evaluate(&output, &file, &[])).0, 12);
    assert_eq!(accuracy(&evaluate(&output, &file, &["--split", "train"])).0, 36);
    assert_eq!(accuracy(&evaluate(&output, &other, &[])).0, 10);
    // This folder's columns have the usual names, but the run's columns have others.
    refused(
        &args(&output, data.path(), &[]),
        1,
        "column review is missing; found label, sentence; expected the column that was asked for",
    );
    let usual = ["--label-column", "label", "--text-column", "sentence"];
    assert_eq!(accuracy(&evaluate(&output, data.path(), &usual)).0, 12);
    // A run can be continued only with its own columns.
    let mut resume = train(file.to_str().unwrap(), output.to_str().unwrap(), &columns);
    resume.extend(["--method", "lora", "--epochs", "8", "--lr", "1e-2", "--validation-split", "0.25", "--resume"]);
    fine(&resume);
    fs::write(&file, rows.replacen("stars\treview", "stars\ttext", 1)).unwrap();
    let resume: Vec<&str> = resume.into_iter().filter(|arg| !["--text-column", "review"].contains(arg)).collect();
    refused(&resume, 1, "the run was started with columns = ");
}

#[test]
fn warns_if_the_order_of_names_is_a_guess() {
    let (data, room) = (data(), TempDir::new().unwrap());
    let output = learnt(data.path(), room.path(), &[]);
    let told = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_polyrank-train"));
        let done = command.args(args(&output, data.path(), more)).env("POLYRANK_HOME", super::home()).output().unwrap();
        assert!(done.status.success());
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let words =
        "warning: the adapter has no names of labels; the data's are taken for its ids in this order: 0 bad, 1 good";
    assert!(!told(&[]).contains("warning"));
    fs::remove_file(output.join("config.json")).unwrap();
    assert!(told(&[]).contains(words), "{}", told(&[]));
}
