//! A task's folder: formats, labels, splits, and a named error for each thing that can be wrong.

use std::path::Path;

use polyrank::adapter::ProblemType;
use polyrank_training::data::{DataError, DataOptions, HoldOut, Target, TaskData};
use tempfile::TempDir;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn options() -> DataOptions {
    DataOptions { hold_out: Some(HoldOut { share: 0.25, seed: 0 }), ..DataOptions::default() }
}

fn load(files: &[(&str, &str)]) -> Result<TaskData, DataError> {
    TaskData::load(folder(files).path(), &options())
}

const GOOD: &str = "label\tsentence\na\tone \"quoted\ttab";

fn refused(files: &[(&str, &str)], words: &str) {
    let message = load(files).unwrap_err().to_string();
    assert!(message.contains(words), "expected {words:?} in {message:?}");
}

#[test]
fn tsv_is_split_on_tabs_only_and_csv_and_json_lines_say_the_same() {
    let tsv = load(&[
        ("train.tsv", "\u{feff}label\tsentence1\tsentence2\r\nb\tsay \"x\tand y\r\na\tz\tw\r\n"),
        ("dev.tsv", "label\tsentence1\tsentence2\na\tq\tr\n"),
    ])
    .unwrap();
    assert_eq!(tsv.labels, ["a", "b"]);
    assert_eq!((tsv.train[0].text.as_str(), tsv.train[0].pair.as_deref()), ("say \"x", Some("and y")));
    assert_eq!(tsv.train[0].target, Target::Class(1));
    assert_eq!(tsv.validation[0].name, "dev");
    let csv = load(&[
        ("train.csv", "text,label,text_pair\n\"say \"\"x\",b,and y\nz,a,w\n"),
        ("validation.csv", "text,label,text_pair\nq,a,r\n"),
    ])
    .unwrap();
    assert_eq!(csv.train, tsv.train);
    let json = "{\"label\": \"b\", \"text\": \"say \\\"x\", \"text_pair\": \"and y\"}\n{\"text\": \"z\", \"text_pair\": \"w\", \"label\": \"a\"}\n";
    let json = load(&[("train.jsonl", json), ("validation.csv", "text,label,text_pair\nq,a,r\n")]).unwrap();
    assert_eq!(json.train, tsv.train);
}

#[test]
fn integers_are_ids_into_labels_txt_and_fractions_are_values() {
    let rows = "label\tsentence\n1\tx\n0\ty\n1\tz\n0\tw\n";
    let named = load(&[("train.tsv", rows), ("labels.txt", "\u{feff}no\nyes\nmaybe\n")]).unwrap();
    assert_eq!(named.labels, ["no", "yes", "maybe"], "less the byte-order mark");
    assert_eq!((named.labels.len(), named.train.len() + named.validation[0].examples.len()), (3, 4));
    assert_eq!(load(&[("train.tsv", rows)]).unwrap().labels, ["LABEL_0", "LABEL_1"]);
    let values =
        load(&[("train.tsv", "label\tsentence\n1.5\tx\n0\ty\n"), ("validation.tsv", "label\tsentence\n2\tx\n")])
            .unwrap();
    assert_eq!((values.problem, values.train[0].target), (ProblemType::Regression, Target::Value(1.5)));
    assert_eq!(values.validation[0].examples[0].target, Target::Value(2.0));
}

#[test]
fn an_adapters_labels_stand_in_for_a_train_file() {
    let options = || DataOptions { labels: Some(["b", "a", "c"].map(str::to_owned).to_vec()), ..options() };
    let known = |files: &[(&str, &str)]| TaskData::load(folder(files).path(), &options());
    let targets = |data: &TaskData, split: &str| -> Vec<Target> {
        data.split(split).unwrap().iter().map(|example| example.target).collect()
    };
    let (names, ids) = ("label\tsentence\na\tx\nb\ty\n", "label\tsentence\n1\tx\n0\ty\n");
    for rows in [names, ids] {
        let dir = folder(&[("test.tsv", rows)]);
        // Kept: the test split is read when it is asked for.
        let data = TaskData::load(dir.path(), &options()).unwrap();
        assert_eq!(data.labels, ["b", "a", "c"]);
        assert_eq!(targets(&data, "test"), [Target::Class(1), Target::Class(0)]);
        // No share of what is not there is held out.
        assert!(matches!(data.split("train"), Err(DataError::NoSplit { .. })));
        assert!(matches!(data.split("validation"), Err(DataError::NoSplit { .. })));
    }
    // Both files of the folder tell more than the adapter.
    let listed = known(&[("dev.tsv", ids), ("labels.txt", "no\nyes\n")]).unwrap();
    assert_eq!(listed.labels, ["no", "yes"]);
    assert_eq!(targets(&listed, "validation"), [Target::Class(1), Target::Class(0)]);
    assert_eq!(known(&[("train.tsv", names), ("dev.tsv", names)]).unwrap().labels, ["a", "b"]);
    let unknown = known(&[("dev.tsv", "label\tsentence\nz\tx\n")]).unwrap_err();
    assert!(matches!(&unknown, DataError::UnknownLabel { line: 2, label, .. } if label == "z"), "{unknown}");
    let nothing = known(&[("labels.txt", "no\nyes\n")]).unwrap_err();
    assert!(matches!(nothing, DataError::NoData(_)), "{nothing}");
}

#[test]
fn a_split_of_train_is_seeded_and_keeps_every_row_once() {
    let rows: String = (0..40).map(|i| format!("{}\ttext {i}\n", i % 2)).collect();
    let dir = folder(&[("train.tsv", &format!("label\tsentence\n{rows}"))]);
    let hold_out = |seed| Some(HoldOut { share: 0.25, seed });
    let read = |seed| TaskData::load(dir.path(), &DataOptions { hold_out: hold_out(seed), ..options() }).unwrap();
    assert_eq!(read(3), read(3));
    assert_ne!(read(3).validation, read(4).validation);
    let data = read(3);
    assert_eq!(data.held_out, hold_out(3));
    let none = TaskData::load(dir.path(), &DataOptions::default()).unwrap();
    assert_eq!((none.train.len(), none.validation.len()), (40, 0), "nobody asked for a part of train");
    assert!(matches!(none.split("validation"), Err(DataError::NoSplit { .. })));
    let mut texts: Vec<String> =
        data.train.iter().chain(&data.validation[0].examples).map(|e| e.text.clone()).collect();
    texts.sort();
    texts.dedup();
    assert_eq!((texts.len(), data.validation[0].examples.len()), (40, 10));
}

#[test]
fn the_test_split_is_read_when_asked_for() {
    let train = ("train.tsv", "label\tsentence\na\tx\nb\ty\n");
    let validation = ("validation.tsv", "label\tsentence\na\tx\n");
    let test = |content| {
        let dir = folder(&[train, validation, ("test.tsv", content)]);
        TaskData::load(dir.path(), &options()).unwrap().split("test").map(|split| split.into_owned())
    };
    for unlabelled in ["label\tsentence\n-1\tx\n", "sentence\nx\n"] {
        assert!(matches!(test(unlabelled), Err(DataError::NoSplit { .. })));
    }
    let labelled = test("label\tsentence\nb\tx\n").unwrap();
    assert_eq!((labelled[0].text.as_str(), labelled[0].target), ("x", Target::Class(1)));
    let message = test("label\tsentence\nb\tx\n-1\ty\n").unwrap_err().to_string();
    assert!(message.contains("test.tsv:3: unknown label \"-1\""), "{message}");
}

#[test]
fn what_is_wrong_is_named() {
    assert!(matches!(TaskData::load(Path::new("/nowhere/at/all"), &options()), Err(DataError::NoFolder(_))));
    refused(&[], "expected train.tsv");
    refused(&[("train.tsv", "")], "is empty");
    refused(&[("train.tsv", "label\tsentence\n")], "is empty");
    refused(&[("train.tsv", "label\twords\na\tx\n")], "column sentence is missing; found label, words");
    refused(&[("train.tsv", "class\tsentence\na\tx\n")], "train.tsv: column label is missing");
    refused(&[("train.tsv", "label\tsentence1\na\tx\n")], "column sentence2 is missing");
    refused(&[("train.tsv", GOOD)], "train.tsv:2: expected 2 fields, found 3");
    refused(&[("train.tsv", "label\tsentence\na\tx\na\ty\n")], "train.tsv: every row has the label \"a\"");
    let lonely = format!("label\tsentence\nb\tx\n{}", "a\ty\n".repeat(9));
    let without = (0..100).find_map(|seed| {
        let hold_out = Some(HoldOut { share: 0.1, seed });
        TaskData::load(folder(&[("train.tsv", &lonely)]).path(), &DataOptions { hold_out, ..options() }).err()
    });
    let message = without.unwrap().to_string();
    assert!(message.contains("every row that the validation split leaves has the label \"a\""), "{message}");
    refused(&[("train.tsv", "label\tsentence\na\tx\nb\t \n")], "train.tsv:3: the text is empty");
    refused(
        &[("train.tsv", "label\tsentence\na\tx\nb\ty\n"), ("validation.tsv", "label\tsentence\nc\tx\n")],
        "validation.tsv:2: unknown label \"c\"; expected a, b",
    );
    refused(
        &[("train.tsv", "label\tsentence\n0\tx\n2\ty\n"), ("labels.txt", "a\nb\n")],
        "train.tsv:3: unknown label \"2\"; expected an id from 0 to 1",
    );
    refused(
        &[("train.tsv", "label\tsentence\n0.5\tx\nNaN\ty\n"), ("dev.tsv", "label\tsentence\n1\tx\n")],
        "unknown label \"NaN\"",
    );
    refused(
        &[("train.tsv", "label\tsentence\na\tx\nb\ty\n"), ("train.csv", "label,text\na,x\n")],
        "expected one file for a split",
    );
    refused(&[("train.parquet", "PAR1")], "train.parquet: not a Parquet file");
    refused(&[("train.parquet", "")], "is empty");
    refused(&[("train.jsonl", "[1]\n")], "train.jsonl:1");
    refused(&[("train.jsonl", "{\"label\": 1, \"text\": 5}\n")], "train.jsonl:1: text is 5: expected a string");
    refused(&[("train.jsonl", "{\"label\": \"a\", \"text\": \"x\"}\n{oops\n")], "train.jsonl:2");
    for (labels, wrong) in [(["0", "1", "-1"], "-1"), (["1", "-1", "1"], "-1"), (["0", "10000", "1"], "10000")] {
        let rows: String = labels.iter().map(|label| format!("{label}\tx\n")).collect();
        let line = 2 + labels.iter().position(|label| *label == wrong).unwrap();
        refused(
            &[("train.tsv", &format!("label\tsentence\n{rows}"))],
            &format!("train.tsv:{line}: label {wrong}: expected an id"),
        );
    }
    refused(&[("train.tsv", "label\tsentence\n0\tx\n\ty\n1\tz\n")], "train.tsv:3: the label is empty");
    refused(
        &[("train.jsonl", "{\"label\": 1, \"text\": \"x\"}\n{\"text\": \"y\"}\n")],
        "train.jsonl:2: label is missing",
    );
    refused(
        &[("train.tsv", "label\tsentence\n0\tx\n1\ty\noops\tz\n"), ("labels.txt", "no\nyes\n")],
        "train.tsv:4: unknown label \"oops\"; expected no, yes",
    );
    refused(
        &[("train.tsv", "label\tsentence\na\tx\nb\ty\n"), ("labels.txt", "a\nb\na\n")],
        "labels.txt:3: the label \"a\" stands here a second time",
    );
    refused(&[("train.tsv", "label\tsentence\na\tx\n"), ("labels.txt", "\n")], "labels.txt: the file is empty");
    for (share, words) in
        [(0.9, "leaves one side empty"), (1.0, "above 0 and below 1"), (f64::NAN, "above 0 and below 1")]
    {
        let options = DataOptions { hold_out: Some(HoldOut { share, seed: 0 }), ..options() };
        let held = TaskData::load(folder(&[("train.tsv", "label\tsentence\na\tx\nb\ty\n")]).path(), &options);
        let message = held.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    let dir = folder(&[]);
    std::fs::write(dir.path().join("train.tsv"), b"label\tsentence\na\tx\nb\t\xff\n").unwrap();
    let message = TaskData::load(dir.path(), &options()).unwrap_err().to_string();
    assert!(message.contains("train.tsv:3: not UTF-8"), "{message}");
}

#[test]
fn every_task_of_the_shared_data_loads() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !shared.is_dir() {
        println!("skipped: no shared data beside the project");
        return;
    }
    let mut tasks = 0;
    for group in ["glue", "tasks"] {
        for entry in std::fs::read_dir(shared.join(group)).unwrap() {
            let dir = entry.unwrap().path();
            let data = TaskData::load(&dir, &options()).unwrap();
            assert!(!data.train.is_empty() && !data.validation.is_empty());
            tasks += 1;
            if dir.ends_with("cola") {
                assert_eq!((data.train.len(), data.validation[0].examples.len()), (8551, 1043));
            }
            if dir.ends_with("stsb") {
                assert_eq!((data.problem, data.labels), (ProblemType::Regression, vec!["similarity".to_owned()]));
            }
        }
    }
    assert_eq!(tasks, 28, "8 of GLUE and 20 others");
}
