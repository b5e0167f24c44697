//! Tasks with several labels a row: reading them, and from their file to an answer.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use polyrank::adapter::ProblemType;
use polyrank::engine::Row;
use polyrank::engine::score::{Function, rank};
use polyrank::text::Limit;
use polyrank_training::data::{DataError, DataOptions, HoldOut, Target, TaskData};
use serde_json::Value;
use tempfile::TempDir;

use super::run::{fine, log, train};
use super::{base_dir, engine};

const SEVERAL: Option<ProblemType> = Some(ProblemType::MultiLabelClassification);

fn load(files: &[(&str, &str)], problem: Option<ProblemType>) -> Result<TaskData, DataError> {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let hold_out = Some(HoldOut { share: 0.25, seed: 0 });
    let data = TaskData::load(dir.path(), &DataOptions { hold_out, problem, ..DataOptions::default() })?;
    Ok(data)
}

fn lists(labels: &[&str]) -> String {
    labels.iter().map(|label| format!("{{\"text\": \"x\", \"label\": {label}}}\n")).collect()
}

fn cells(labels: &[&str]) -> String {
    format!("label\tsentence\n{}", labels.iter().map(|label| format!("{label}\tx\n")).collect::<String>())
}

fn classes(all: &[&[usize]]) -> Vec<Target> {
    all.iter().map(|ids| Target::Classes(ids.to_vec())).collect()
}

fn targets(data: &TaskData) -> Vec<Target> {
    data.train.iter().map(|example| example.target.clone()).collect()
}

#[test]
fn lists_and_joined_names_give_the_same_labels() {
    let expected = classes(&[&[0, 2], &[], &[1]]);
    let validation = ("validation.jsonl", &*lists(&["[\"b\"]"]));
    let files = [
        ("train.jsonl", lists(&["[\"c\", \"a\"]", "[]", "[\" b \"]"])),
        ("train.json", format!("[{}]", lists(&["[\"c\", \"a\"]", "null", "[\"b\"]"]).trim().replace('\n', ","))),
        ("train.tsv", cells(&["c | a", "", "b"])),
        ("train.csv", "text,label\nx,\"a|c\"\nx,\nx,b\n".to_owned()),
    ];
    for (name, text) in &files {
        let lists = name.ends_with("jsonl") || name.ends_with("json");
        for problem in if lists { vec![None, SEVERAL] } else { vec![SEVERAL] } {
            let data = load(&[(name, text), validation], problem).unwrap();
            assert_eq!(
                (targets(&data), &*data.labels),
                (expected.clone(), &["a", "b", "c"].map(str::to_owned)[..]),
                "{name}"
            );
            assert_eq!(data.problem, ProblemType::MultiLabelClassification);
            assert_eq!(data.reading, "several labels a row, none in 1 of 3 rows: names, sorted (3 classes)");
            assert_eq!(data.validation[0].examples[0].target, Target::Classes(vec![1]));
        }
    }
    let ids =
        load(&[("train.jsonl", &lists(&["[2, 0]", "[]", "[1.0]"])), ("dev.jsonl", &lists(&["[1]"]))], None).unwrap();
    assert_eq!((targets(&ids), ids.labels.len()), (expected.clone(), 3));
    let listed = ("labels.txt", "c\nb\na\n");
    let named = load(&[(files[0].0, &files[0].1), listed, validation], None).unwrap();
    assert_eq!((targets(&named), &*named.labels[0]), (classes(&[&[0, 2], &[], &[1]]), "c"));
    // A column of cells with one label each is one label a row, unless the user says so.
    let one = load(&[("train.tsv", &cells(&["a", "b", "a|b"])), ("dev.tsv", &cells(&["a"]))], None).unwrap();
    assert_eq!((one.problem, one.labels.len()), (ProblemType::SingleLabelClassification, 3));
}

#[test]
fn names_the_line_of_malformed_labels() {
    for (train, listed, words) in [
        (cells(&["a|b", "a||b"]), None, "train.tsv:3: labels [a, , b]: one of them is empty"),
        (cells(&["a|b", "b|a|b"]), None, "train.tsv:3: labels [b, a, b]: b is there twice"),
        (cells(&["a|b", "c"]), Some("a\nb\n"), "train.tsv:3: unknown label \"c\"; expected a, b"),
        (cells(&["0|1", "7"]), Some("a\nb\n"), "train.tsv:3: unknown label \"7\"; expected an id from 0 to 1"),
        (cells(&["", ""]), None, "train.tsv: no row has a label: expected labels, or their names in labels.txt"),
        (cells(&["", ""]), Some("a\nb\n"), "train.tsv: every row has the labels []: expected rows that differ"),
        (cells(&["a|b", "b|a"]), None, "train.tsv: every row has the labels [\"a\", \"b\"]: expected rows that differ"),
    ] {
        let mut files = vec![("train.tsv", &*train)];
        files.extend(listed.map(|listed| ("labels.txt", listed)));
        let message = load(&files, SEVERAL).unwrap_err().to_string();
        assert!(message.contains(words), "expected {words:?} in {message:?}");
    }
    let one = load(&[("train.jsonl", &lists(&["[\"a\"]"]))], Some(ProblemType::SingleLabelClassification)).unwrap_err();
    assert!(one.to_string().contains("train.jsonl:1: labels [a]: expected one label a row"), "{one}");
    // The adapter says what its labels are, so that no flag would help.
    assert!(!one.to_string().contains("--problem-type"), "{one}");
}

/// A task in which each of two words is a label.
fn task(dir: &Path) {
    let row = |i: usize| {
        let (good, bad) = (i.is_multiple_of(2), (i / 2).is_multiple_of(2));
        let labels: Vec<&str> =
            [("praise", good), ("complaint", bad)].iter().filter(|of| of.1).map(|of| of.0).collect();
        let words = format!(
            "the plot {}{}{}",
            if good { "good " } else { "" },
            if bad { "not " } else { "" },
            ["of", "and", "was"][i % 3]
        );
        format!("{}\n", serde_json::json!({ "text": words, "label": labels }))
    };
    fs::write(dir.join("train.jsonl"), (0..48).map(row).collect::<String>()).unwrap();
    fs::write(dir.join("validation.jsonl"), (48..60).map(row).collect::<String>()).unwrap();
}

#[test]
fn several_labels_are_trained_evaluated_and_classified() {
    let (data, room) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    task(data.path());
    let output = room.path().join("adapter");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    let settings = ["--method", "lora", "--epochs", "14", "--lr", "1e-2", "--class-weights", "praise=1.5"];
    fine(&train(from, to, &settings));
    let facts: Value = serde_json::from_slice(&fs::read(output.join("run/task.json")).unwrap()).unwrap();
    assert_eq!(facts["class_weights"], serde_json::json!([1.0, 1.5]));
    let metrics = log(&output).last().unwrap()["metrics"].as_object().unwrap().clone();
    assert_eq!(metrics.keys().collect::<Vec<_>>(), ["f1_micro", "f1_macro", "accuracy"]);
    let base = base_dir();
    let base = base.to_str().unwrap();
    let args = ["evaluate", "--model-id", base, "--adapter", to, "--json", "--data"];
    let evaluate = |from: &str| -> Value { serde_json::from_str(&fine(&[&args[..], &[from]].concat())).unwrap() };
    let found = evaluate(from);
    assert!(found["metrics"]["f1_micro"].as_f64().unwrap() > 0.95, "{found}");
    // The same rows with their labels joined by `|`, in a folder without a training file.
    let alone = TempDir::new().unwrap();
    let rows = fs::read_to_string(data.path().join("validation.jsonl")).unwrap();
    let cell = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let labels: Vec<&str> = row["label"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
        format!("{}\t{}\n", labels.join("|"), row["text"].as_str().unwrap())
    };
    let rows: String = rows.lines().map(cell).collect();
    fs::write(alone.path().join("validation.tsv"), format!("label\tsentence\n{rows}")).unwrap();
    assert_eq!(evaluate(alone.path().to_str().unwrap())["metrics"], found["metrics"]);
    // Scores are sigmoids: they do not add up to 1.
    let engine = engine();
    let adapter = Arc::new(engine.load_adapter(&output).unwrap());
    let limit = Limit::TRUNCATE;
    let text = engine.encode("the plot good not of", None, &limit).unwrap();
    let logits = engine.logits(&[Row { text, adapter: Arc::clone(&adapter) }]).unwrap();
    let scores = rank(&adapter.info.labels, &logits[0], Function::of(&adapter), 2).unwrap();
    assert!(scores.len() == 2 && scores.iter().all(|scored| scored.score > 0.5), "{:?}", logits[0]);
}
