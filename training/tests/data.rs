//! Reading a task's data: formats, labels, splits, and an error for each kind of malformed data.

use std::path::Path;

use polyrank::adapter::ProblemType;
use polyrank::text::records::ColumnNames;
use polyrank_training::data::{DataError, DataOptions, HoldOut, Target, TaskData};
use tempfile::TempDir;

/// A temporary folder with these files.
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
fn tsv_csv_and_json_lines_give_the_same_rows() {
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
    let json = "{\"label\": \"b\", \"text\": \"say \\\"x\", \"text_pair\": \"and y\"}\n\
                {\"text\": \"z\", \"text_pair\": \"w\", \"label\": \"a\"}\n";
    let json = load(&[("train.jsonl", json), ("validation.csv", "text,label,text_pair\nq,a,r\n")]).unwrap();
    assert_eq!(json.train, tsv.train);
}

#[test]
fn all_splits_have_pairs_or_none_has() {
    let pairs = ("train.tsv", "label\tsentence1\tsentence2\na\tx\ty\nb\tz\tw\n");
    let single = ("dev.tsv", "label\tsentence\na\tx\nb\ty\n");
    refused(&[pairs, single], "dev.tsv: the rows are single texts, but those of ");
    refused(&[("train.tsv", single.1), ("dev.tsv", pairs.1)], "dev.tsv: the rows are pairs of texts, but those of ");
    let task = folder(&[pairs, ("dev.tsv", pairs.1), ("test.tsv", single.1)]);
    let error = TaskData::load(task.path(), &options()).unwrap().split("test").unwrap_err();
    assert!(matches!(&error, DataError::Pairs { pairs: false, .. }), "{error}");
    // Second texts may be absent in some rows.
    let some = "{\"label\": \"a\", \"text\": \"x\", \"text_pair\": \"y\"}\n{\"label\": \"b\", \"text\": \"x\"}\n";
    load(&[("train.jsonl", some), single]).unwrap();
    load(&[pairs, ("dev.jsonl", some)]).unwrap();
    load(&[pairs, ("dev.tsv", "label\tsentence1\tsentence2\na\tx\t\nb\ty\t\n")]).unwrap();
}

#[test]
fn whole_numbers_are_ids_into_labels_txt_and_fractions_are_values() {
    let rows = "label\tsentence\n1\tx\n0\ty\n1\tz\n0\tw\n";
    let named = load(&[("train.tsv", rows), ("labels.txt", "\u{feff}no\nyes\nmaybe\n")]).unwrap();
    assert_eq!(named.labels, ["no", "yes", "maybe"], "less the byte-order mark");
    assert_eq!((named.labels.len(), named.train.len() + named.validation[0].examples.len()), (3, 4));
    assert_eq!(load(&[("train.tsv", rows)]).unwrap().labels, ["LABEL_0", "LABEL_1"]);
    let values =
        load(&[("train.tsv", "label\tsentence\n1.5\tx\n0\ty\n"), ("validation.tsv", "label\tsentence\n2\tx\n")])
            .unwrap();
    assert_eq!((values.problem, &values.train[0].target), (ProblemType::Regression, &Target::Value(1.5)));
    assert_eq!(values.validation[0].examples[0].target, Target::Value(2.0));
}

#[test]
fn adapters_labels_replace_a_training_file() {
    let options = || DataOptions { labels: Some(["b", "a", "c"].map(str::to_owned).to_vec()), ..options() };
    let known = |files: &[(&str, &str)]| TaskData::load(folder(files).path(), &options());
    let targets = |data: &TaskData, split: &str| -> Vec<Target> {
        data.split(split).unwrap().iter().map(|example| example.target.clone()).collect()
    };
    let (names, ids) = ("label\tsentence\na\tx\nb\ty\n", "label\tsentence\n1\tx\n0\ty\n");
    for rows in [names, ids] {
        let dir = folder(&[("test.tsv", rows)]);
        // The folder is kept, because the test split is read only on request.
        let data = TaskData::load(dir.path(), &options()).unwrap();
        assert_eq!(data.labels, ["b", "a", "c"]);
        assert_eq!(targets(&data, "test"), [Target::Class(1), Target::Class(0)]);
        // Without a training file, nothing is held out.
        assert!(matches!(data.split("train"), Err(DataError::NoSplit { .. })));
        assert!(matches!(data.split("validation"), Err(DataError::NoSplit { .. })));
    }
    // A training file or `labels.txt` takes precedence over the adapter's labels.
    let listed = known(&[("dev.tsv", ids), ("labels.txt", "no\nyes\n")]).unwrap();
    assert_eq!(listed.labels, ["no", "yes"]);
    assert_eq!(targets(&listed, "validation"), [Target::Class(1), Target::Class(0)]);
    assert_eq!(known(&[("train.tsv", names), ("dev.tsv", names)]).unwrap().labels, ["a", "b"]);
    let unknown = known(&[("dev.tsv", "label\tsentence\nz\tx\n")]).unwrap_err();
    assert!(matches!(&unknown, DataError::UnknownLabel { line: 2, label, .. } if label == "z"), "{unknown}");
    let nothing = known(&[("labels.txt", "no\nyes\n")]).unwrap_err();
    assert!(matches!(nothing, DataError::NoData(_)), "{nothing}");
}

/// The files are read more than once.
#[cfg(unix)]
#[test]
fn pipe_is_no_data() {
    let error = TaskData::load(std::path::Path::new("/dev/null"), &options()).unwrap_err();
    assert_eq!(error.to_string(), "/dev/null: expected a folder or a regular file");
}

/// Postcodes, for example.
#[test]
fn names_keep_their_leading_zeros() {
    let options = DataOptions { problem: Some(ProblemType::SingleLabelClassification), ..options() };
    let read = |rows: &str| TaskData::load(folder(&[("train.tsv", rows)]).path(), &options).unwrap().labels;
    assert_eq!(read("label\tsentence\n01001\tx\n02139\ty\n10001\tz\n"), ["01001", "02139", "10001"]);
    assert_eq!(read("label\tsentence\n-1.0\tx\n-1\ty\n2e4\tz\n"), ["-1", "20000"]);
}

#[test]
fn more_names_than_an_adapter_can_have_are_refused_before_training() {
    let rows: String = (0..20).map(|i| format!("{i}{}\tx\n", "a".repeat(60_000))).collect();
    let error = load(&[("train.tsv", &format!("label\tsentence\n{rows}"))]).unwrap_err();
    assert!(error.to_string().ends_with("labels: expected at most 1048576 bytes of names, found 1200030"), "{error}");
}

#[test]
fn held_out_split_is_seeded_and_keeps_every_row_once() {
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
fn first_training_rows_that_are_not_held_out_are_kept() {
    let rows: String = (0..40).map(|i| format!("{}\ttext {i}\n", i % 2)).collect();
    let dir = folder(&[("train.tsv", &format!("label\tsentence\n{rows}"))]);
    let read = |most| {
        let max_train_samples = std::num::NonZeroUsize::new(most);
        TaskData::load(dir.path(), &DataOptions { max_train_samples, ..options() })
    };
    let (all, some) = (read(0).unwrap(), read(7).unwrap());
    assert_eq!(some.train, all.train[..7]);
    assert_eq!((&some.validation, read(400).unwrap().train), (&all.validation, all.train));
    assert!(matches!(read(1), Err(DataError::OneClass { rows: "every row up to --max-train-samples", .. })));
}

#[test]
fn test_split_is_read_only_on_request() {
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
    assert_eq!((labelled[0].text.as_str(), &labelled[0].target), ("x", &Target::Class(1)));
    let message = test("label\tsentence\nb\tx\n-1\ty\n").unwrap_err().to_string();
    assert!(message.contains("test.tsv:3: unknown label \"-1\""), "{message}");
}

#[test]
fn errors_name_malformed_data() {
    assert!(matches!(TaskData::load(Path::new("/nowhere/at/all"), &options()), Err(DataError::NoFolder(_))));
    refused(&[], "expected train.tsv");
    refused(&[("train.tsv", "")], "is empty");
    refused(&[("train.tsv", "label\tsentence\n")], "is empty");
    refused(
        &[("train.tsv", "label\twords\na\tx\n")],
        "column sentence is missing; found label, words; expected sentence, or sentence1 and sentence2, or text and optionally text_pair; \
         --label-column, --text-column and --text-pair-column name others",
    );
    refused(&[("train.tsv", "class\tsentence\na\tx\n")], "train.tsv: column label is missing; found class, sentence");
    refused(&[("train.tsv", "label\tsentence1\na\tx\n")], "column sentence2 is missing");
    refused(&[("train.tsv", GOOD)], "train.tsv:2: expected 2 fields, found 3");
    refused(
        &[("train.tsv", "label\tsentence\na\tx\na\ty\n")],
        "train.tsv: every row has the label \"a\": expected rows that differ",
    );
    let lonely = format!("label\tsentence\nb\tx\n{}", "a\ty\n".repeat(9));
    let without = (0..100).find_map(|seed| {
        let hold_out = Some(HoldOut { share: 0.1, seed });
        TaskData::load(folder(&[("train.tsv", &lonely)]).path(), &DataOptions { hold_out, ..options() }).err()
    });
    let message = without.unwrap().to_string();
    assert!(message.contains("every row that is not held out has the label \"a\""), "{message}");
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
        "train.jsonl:2: column label is missing; found text",
    );
    refused(
        &[("train.tsv", "label\tsentence\n0\tx\n1\ty\noops\tz\n"), ("labels.txt", "no\nyes\n")],
        "train.tsv:4: unknown label \"oops\"; expected no, yes",
    );
    refused(
        &[("train.tsv", "label\tsentence\n0\tx\n1\ty\n"), ("labels.txt", "\nneg\npos\n")],
        "labels.txt:1: the line is blank, and \"neg\" comes after it",
    );
    refused(
        &[("train.tsv", "label\tsentence\na\tx\nb\ty\n"), ("labels.txt", "a\nb\na\n")],
        "labels.txt:3: the label \"a\" is listed twice",
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

/// Records with these labels and different texts.
fn labelled(labels: &[&str]) -> String {
    let row = |(i, label): (usize, &&str)| format!("{label}\ttext {i}\n");
    format!("label\tsentence\n{}", labels.iter().enumerate().map(row).collect::<String>())
}

/// Reads a training file with these labels, and with a `labels.txt` of the words in `listed`, if there are any.
fn read_as(labels: &[&str], listed: &str, problem: Option<ProblemType>) -> Result<TaskData, DataError> {
    let rows = labelled(labels);
    let mut files = vec![("train.tsv", &*rows), ("validation.tsv", &*rows)];
    let listed = listed.replace(' ', "\n");
    if !listed.is_empty() {
        files.push(("labels.txt", &listed));
    }
    TaskData::load(folder(&files).path(), &DataOptions { problem, ..options() })
}

/// The rules on labels. Each case has the labels, `labels.txt` and `--problem-type`, and the expected names, targets and message.
#[test]
fn value_of_a_label_counts_and_not_its_spelling() {
    const CLASSES: Option<ProblemType> = Some(ProblemType::SingleLabelClassification);
    const VALUES: Option<ProblemType> = Some(ProblemType::Regression);
    type Case<'a, T> = (&'a [&'a str], &'a str, Option<ProblemType>, &'a [&'a str], &'a [T], &'a str);
    let ids: &[Case<'_, usize>] = &[
        (
            &["0", "1"],
            "",
            None,
            &["LABEL_0", "LABEL_1"],
            &[0, 1],
            "whole numbers read as ids without names (2 classes)",
        ),
        (&["0.0", "1.0"], "", None, &["LABEL_0", "LABEL_1"], &[0, 1], "read as ids without names"),
        (&["1e0", "+0", "01", " 1"], "", CLASSES, &["LABEL_0", "LABEL_1"], &[1, 0, 1, 1], "read as ids without names"),
        (
            &["0.0", "1.0"],
            "neg pos",
            None,
            &["neg", "pos"],
            &[0, 1],
            "whole numbers read as ids into labels.txt (2 classes)",
        ),
        (&["1", "0.00"], "neg pos", CLASSES, &["neg", "pos"], &[1, 0], "read as ids into labels.txt"),
        (
            &["1", "4"],
            "1 2 3 4 5",
            None,
            &["1", "2", "3", "4", "5"],
            &[0, 3],
            "read as the names of labels.txt (5 classes)",
        ),
        (&["1.0", "4e0"], "1 2 3 4 5", None, &["1", "2", "3", "4", "5"], &[0, 3], "read as the names of labels.txt"),
        (&["1", "4"], "1.0 2.0 3.0 4.0", None, &["1.0", "2.0", "3.0", "4.0"], &[0, 3], "the names of labels.txt"),
        (&["0", "1"], "1 0", None, &["1", "0"], &[1, 0], "read as the names of labels.txt"),
        (&["0", "1"], "0 1 2", None, &["0", "1", "2"], &[0, 1], "read as the names of labels.txt"),
        (&["-1", "0", "1"], "-1 0 1", None, &["-1", "0", "1"], &[0, 1, 2], "read as the names of labels.txt"),
        (&["-1.0", "1.0"], "-1 0 1", CLASSES, &["-1", "0", "1"], &[0, 2], "read as the names of labels.txt"),
        (&["10", "20"], "10 20", None, &["10", "20"], &[0, 1], "read as the names of labels.txt"),
        (&["0", "1"], "10 20", None, &["10", "20"], &[0, 1], "read as ids into labels.txt"),
        (&["0", "1"], "0 1 other", None, &["0", "1", "other"], &[0, 1], "read as ids into labels.txt"),
        (
            &["1", "-1", "0"],
            "",
            CLASSES,
            &["-1", "0", "1"],
            &[2, 0, 1],
            "whole numbers read as names, sorted (3 classes)",
        ),
        (&["10", "9", "20000"], "", CLASSES, &["9", "10", "20000"], &[1, 0, 2], "read as names, sorted"),
        (&["0.5", "1.5"], "", CLASSES, &["0.5", "1.5"], &[0, 1], "names, sorted (2 classes)"),
        (&["0.5", "1.5"], "1.5 0.5", None, &["1.5", "0.5"], &[1, 0], "names, in the order of labels.txt (2 classes)"),
        (&["b", "a"], "", None, &["a", "b"], &[1, 0], "names, sorted (2 classes)"),
        (&["1", "good"], "", None, &["1", "good"], &[0, 1], "names, sorted"),
        (&["nan", "inf"], "inf nan", None, &["inf", "nan"], &[1, 0], "names, in the order of labels.txt"),
        (&["nan", "information"], "", None, &["information", "nan"], &[1, 0], "names, sorted"),
        (&["true", "false"], "", None, &["false", "true"], &[1, 0], "names, sorted"),
    ];
    for &(labels, listed, problem, names, expected, reading) in ids {
        let data = read_as(labels, listed, problem).unwrap_or_else(|error| panic!("{labels:?} {listed}: {error}"));
        let targets: Vec<Target> = data.train.iter().map(|example| example.target.clone()).collect();
        let expected: Vec<Target> = expected.iter().map(|&id| Target::Class(id)).collect();
        assert_eq!((&*data.labels, targets), (&*names.map_owned(), expected), "{labels:?} {listed}");
        assert_eq!(data.problem, ProblemType::SingleLabelClassification);
        assert!(data.reading.contains(reading), "expected {reading:?} in {:?}", data.reading);
    }
    let values: &[Case<'_, f64>] = &[
        (&["0.5", "1"], "", None, &["LABEL_0"], &[0.5, 1.0], "numbers read as the values of a regression"),
        (&["1", "2"], "", VALUES, &["LABEL_0"], &[1.0, 2.0], "numbers read as the values of a regression"),
        (&["-1", "2.0"], "", VALUES, &["LABEL_0"], &[-1.0, 2.0], "the values of a regression"),
        (&["2.5", "5"], "similarity", None, &["similarity"], &[2.5, 5.0], "named similarity by labels.txt"),
        (&["2.0", "5"], "similarity", VALUES, &["similarity"], &[2.0, 5.0], "named similarity by labels.txt"),
        (&["0.0", "1.0"], "neg pos", VALUES, &["LABEL_0"], &[0.0, 1.0], "ignores the names of labels.txt"),
    ];
    for &(labels, listed, problem, names, expected, reading) in values {
        let data = read_as(labels, listed, problem).unwrap_or_else(|error| panic!("{labels:?} {listed}: {error}"));
        let targets: Vec<Target> = data.train.iter().map(|example| example.target.clone()).collect();
        let expected: Vec<Target> = expected.iter().map(|&value| Target::Value(value)).collect();
        assert_eq!((&*data.labels, targets), (&*names.map_owned(), expected), "{labels:?} {listed}");
        assert_eq!(data.problem, ProblemType::Regression);
        assert!(data.reading.contains(reading), "expected {reading:?} in {:?}", data.reading);
    }
    let wrong: &[(&[&str], &str, Option<ProblemType>, &str)] = &[
        // The labels fit both as ids and as names, with different classes.
        (
            &["0", "1", "2"],
            "1 0 other",
            None,
            "train.tsv:2: the label 0 is ambiguous: it is the name of id 1 in labels.txt",
        ),
        (&["0", "1", "4"], "1 2 3 4 5", None, "train.tsv:3: the label 1 is ambiguous"),
        (&["1.0", "0.0"], "1 0 other", CLASSES, "train.tsv:2: the label 1.0 is ambiguous"),
        // The labels fit neither as ids nor as names.
        (&["0", "1"], "spam", None, "train.tsv:3: unknown label \"1\"; expected an id from 0 to 0"),
        (&["0", "1"], "spam", None, "--problem-type regression"),
        (&["0", "2"], "neg pos", None, "train.tsv:3: unknown label \"2\"; expected an id from 0 to 1"),
        (&["0", "-1"], "neg pos", None, "unknown label \"-1\"; expected an id from 0 to 1"),
        (&["0.5", "1.5"], "neg pos", None, "train.tsv:2: unknown label \"0.5\"; expected neg, pos"),
        (&["-1", "1"], "", None, "label -1: expected an id from 0"),
        (&["-1", "1"], "", None, "--problem-type single_label_classification"),
        (&["0", "12345678901234567890123"], "", None, "label 12345678901234567890123: expected an id from 0"),
        // A word that stands for a missing number.
        (&["0.0", "NaN", "1.0"], "neg pos", None, "train.tsv:3: unknown label \"NaN\"; expected a finite number"),
        (&["0", "1", "inf"], "", None, "train.tsv:4: unknown label \"inf\""),
        (&["0.5", "1", "1e39"], "", None, "train.tsv:4: unknown label \"1e39\"; expected a finite number"),
        (&["0", "1", "NaN"], "", CLASSES, "train.tsv:4: unknown label \"NaN\""),
        (&["0.5", "1e999"], "", None, "train.tsv:3: unknown label \"1e999\""),
        (&["a", "b"], "", VALUES, "train.tsv:2: unknown label \"a\"; expected a finite number"),
    ];
    for &(labels, listed, problem, words) in wrong {
        let message = read_as(labels, listed, problem).unwrap_err().to_string();
        assert!(message.contains(words), "{labels:?} {listed}: expected {words:?} in {message:?}");
    }
}

trait MapOwned {
    fn map_owned(&self) -> Vec<String>;
}

impl MapOwned for [&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|&name| name.to_owned()).collect()
    }
}

/// The training file decides the meaning of the labels in all files.
#[test]
fn splits_may_spell_a_label_differently() {
    let data = |train: &[&str], listed: &str, test: &[&str]| {
        let (rows, test) = (labelled(train), labelled(test));
        let listed = listed.replace(' ', "\n");
        let mut files = vec![("train.tsv", &*rows), ("validation.tsv", &*rows), ("test.tsv", &*test)];
        if !listed.is_empty() {
            files.push(("labels.txt", &listed));
        }
        let dir = folder(&files);
        let split = TaskData::load(dir.path(), &options()).unwrap().split("test")?.into_owned();
        Ok::<_, DataError>(split.into_iter().map(|example| example.target.clone()).collect::<Vec<_>>())
    };
    let classes = |ids: &[usize]| ids.iter().map(|&id| Target::Class(id)).collect::<Vec<_>>();
    assert_eq!(data(&["0", "1"], "", &["1.0", "0.0"]).unwrap(), classes(&[1, 0]));
    assert_eq!(data(&["1", "2"], "1 2 3", &["1.0", "3e0"]).unwrap(), classes(&[0, 2]));
    assert_eq!(data(&["1", "good"], "", &["1.0", "good"]).unwrap(), classes(&[0, 1]));
    // -1 is a class if it is listed as a name. Otherwise it marks missing labels, as in GLUE's test files.
    assert_eq!(data(&["-1", "1"], "-1 0 1", &["-1", "-1"]).unwrap(), classes(&[0, 0]));
    for unlabelled in ["-1", "-1.0", ""] {
        let found = data(&["0", "1"], "neg pos", &[unlabelled, unlabelled]);
        assert!(matches!(found, Err(DataError::NoSplit { .. })), "{unlabelled}");
    }
    for (train, listed, test, words) in [
        (&["0", "1"], "", "pos", "unknown label \"pos\"; expected an id from 0 to 1"),
        (&["0", "1"], "neg pos", "pos", "unknown label \"pos\"; expected an id from 0 to 1"),
        (&["a", "b"], "", "0", "unknown label \"0\"; expected a, b"),
        (&["1", "2"], "1 2 3", "0", "unknown label \"0\"; expected 1, 2, 3"),
    ] {
        let message = data(train, listed, &[test]).unwrap_err().to_string();
        assert!(message.contains(words), "expected {words:?} in {message:?}");
    }
}

#[test]
fn error_names_row_whose_label_has_another_form() {
    let row = |label: &str| format!("{{\"text\": \"a\", \"label\": {label}}}");
    for (good, bad, words) in [
        ("1", "[1, 0]", "labels [1, 0]: expected one label a row; several labels a row are lists in all rows"),
        ("1", "[\"x\"]", "labels [x]: expected one label a row"),
        ("1", "[]", "labels []: expected one label a row"),
        ("[1]", "0", "one label: expected a list of labels, as in line 1"),
        ("1", "{\"a\": 1}", "label {\"a\": 1}: expected a string, a whole number, a number, or a list of these"),
        ("[1]", "[[1]]", "label [[1]]: expected a string"),
        ("1", "NaN", "label NaN: expected a string"),
        ("1", "null", "the label is empty"),
        ("[\"x\"]", "[\"x\", null]", "labels [x, ]: one of them is empty"),
        ("[\"x\"]", "[\"y\", \"x\", \"y\"]", "labels [y, x, y]: y is there twice"),
        (
            "[3]",
            "[0, 1, 1.0]",
            "labels [0, 1, 1.0]: LABEL_1 is there twice; expected the names or ids of the row's labels",
        ),
    ] {
        let (good, bad) = (row(good), row(bad));
        refused(&[("train.jsonl", &format!("{good}\n\n{bad}\n"))], &format!("train.jsonl:3: {words}"));
        refused(&[("train.json", &format!("[{good},\n{bad}]"))], &format!("train.json:2: {words}"));
    }
}

#[test]
fn warns_of_unusual_labels() {
    let warnings = |labels: &[&str], listed: &str| read_as(labels, listed, None).unwrap().warnings;
    assert_eq!(warnings(&["0", "1"], ""), [""; 0]);
    assert_eq!(warnings(&["0", "1"], "no yes"), [""; 0]);
    let gaps = warnings(&["3", "17"], "");
    assert!(gaps[0].contains("has 16 of the 18 classes: LABEL_0, LABEL_1, LABEL_2, LABEL_4, LABEL_5, ..."), "{gaps:?}");
    let absent = warnings(&["0", "2"], "no maybe yes");
    assert!(absent[0].contains("has 1 of the 3 classes: maybe;"), "{absent:?}");
    let names: Vec<String> = (0..30).map(|i| format!("n{i}")).collect();
    let numbers: Vec<String> = (0..30).map(|i| i.to_string()).collect();
    for labels in [names, numbers] {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let told = warnings(&labels, "");
        assert!(told[0].contains("30 rows have 30 different labels: is that the column of labels?"), "{told:?}");
    }
    assert_eq!(warnings(&["0.5", "1.5"], ""), [""; 0]);
}

/// Rows that are there twice are in both parts.
#[test]
fn held_out_rows_that_are_also_trained_on_are_told() {
    let rows = |count: usize| (0..40).map(|i| format!("{}\ttext {}\n", i % 2, i % count)).collect::<String>();
    let warnings = |count| load(&[("train.tsv", &format!("label\tsentence\n{}", rows(count)))]).unwrap().warnings;
    assert!(warnings(40).is_empty());
    let told = warnings(4);
    assert!(
        told.len() == 1 && told[0].contains("train.tsv: 10 of the 10 held out rows have texts that are also in"),
        "{told:?}"
    );
}

#[test]
fn reads_a_task_from_one_file() {
    let rows: String = (0..20).map(|i| format!("{},text {i}\n", ["neg", "pos"][i % 2])).collect();
    let dir = folder(&[("reviews.csv", &format!("stars,review\n{rows}")), ("other.csv", "stars,review\n")]);
    let columns = ColumnNames { label: Some("stars".into()), text: Some("review".into()), pair: None };
    let load = |name: &str, options: DataOptions| {
        TaskData::load(&dir.path().join(name), &DataOptions { columns: columns.clone(), ..options })
    };
    let data = load("reviews.csv", options()).unwrap();
    assert_eq!((&*data.task, data.train.len(), data.validation[0].examples.len()), ("reviews", 15, 5));
    assert_eq!((&data.columns, data.held_out), (&columns, options().hold_out));
    assert!(matches!(data.split("test"), Err(DataError::NoSplit { .. })));
    // With an adapter's labels and without a share to hold out, the whole file is the validation split.
    let labels = Some(["pos", "neg"].map_owned());
    let all = load("reviews.csv", DataOptions { labels: labels.clone(), ..DataOptions::default() }).unwrap();
    assert_eq!(
        (all.train.len(), all.split("validation").unwrap().len(), &*all.labels),
        (0, 20, &["pos", "neg"].map_owned()[..])
    );
    assert_eq!(all.validation[0].examples[0].target, Target::Class(1));
    let empty = load("other.csv", options()).unwrap_err();
    assert!(matches!(empty, DataError::Empty { .. }), "{empty}");
    assert!(matches!(load("none.csv", options()), Err(DataError::NoFolder(_))));
    // If the file has the name of a split, the folder names the task, and `labels.txt` in the folder counts.
    std::fs::write(dir.path().join("labels.txt"), "pos\nneg\n").unwrap();
    std::fs::rename(dir.path().join("reviews.csv"), dir.path().join("train.csv")).unwrap();
    let data = load("train.csv", options()).unwrap();
    assert_eq!(
        (data.task, data.labels),
        (dir.path().file_name().unwrap().to_string_lossy().into_owned(), ["pos", "neg"].map_owned())
    );
    let message = TaskData::load(&dir.path().join("train.csv"), &options()).unwrap_err().to_string();
    assert!(message.contains("column sentence is missing; found stars, review"), "{message}");
    std::fs::write(dir.path().join("test.tsv"), "label\tsentence\na\tx\n\ty\n").unwrap();
    let unlabelled = TaskData::load(&dir.path().join("test.tsv"), &options()).unwrap_err().to_string();
    assert!(unlabelled.contains("test.tsv:3: the label is empty"), "{unlabelled}");
}

/// The hub cuts large splits into several files.
#[test]
fn split_may_be_cut_into_parts() {
    let part = |labels: &[&str]| labels.iter().map(|label| format!("{label},x\n")).collect::<String>();
    let (first, second) = (format!("label,text\n{}", part(&["b", "a"])), format!("label,text\n{}", part(&["c"])));
    let files = [("train-00000-of-00002.csv", &*first), ("train-00001-of-00002.csv", &*second)];
    let validation = ("validation-00000-of-00001.csv", &*second);
    let data = load(&[&files[..], &[validation]].concat()).unwrap();
    let targets: Vec<&Target> = data.train.iter().map(|example| &example.target).collect();
    assert_eq!(
        (&*data.labels, targets),
        (&["a", "b", "c"].map_owned()[..], vec![&Target::Class(1), &Target::Class(0), &Target::Class(2)])
    );
    assert_eq!(data.validation[0].examples[0].target, Target::Class(2));
    refused(&files[1..], "train-00000-of-00002.csv: this part of the split is missing");
    refused(&files[..1], "train-00001-of-00002.csv: this part of the split is missing");
    refused(&[files[0], files[1], ("train.tsv", "label\tsentence\na\tx\n")], "expected one file for a split");
    let wrong = format!("{second},x\n");
    refused(&[files[0], (files[1].0, &wrong)], "train-00001-of-00002.csv:3: the label is empty");
}

#[test]
fn loads_every_task_of_the_shared_data() {
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
