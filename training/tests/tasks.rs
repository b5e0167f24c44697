//! Users' own files, from the file to metrics: labels with unusual names, and regressions.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::run::{fine, refused, train};
use super::{base_dir, engine};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn evaluate(adapter: &str, data: &str) -> Value {
    let base = base_dir();
    let args = ["evaluate", "--json", "--model-id", base.to_str().unwrap(), "--adapter", adapter, "--data", data];
    serde_json::from_str(&fine(&args)).unwrap()
}

/// One label has a comma and quotes, one has an umlaut and a space, and one looks like a number.
#[test]
fn csv_with_odd_labels_is_trained_and_evaluated() {
    let room = TempDir::new().unwrap();
    let labels = ["\"Rechnung, \"\"falsch\"\"\"", "späte Lieferung", "404"];
    let words = ["good", "not", "was"];
    let row =
        |i: usize| format!("{i},{},\"the plot, {} and {}\"\r\n", labels[i % 3], words[i % 3], ["of", "the"][i % 2]);
    let file = room.path().join("tickets.csv");
    fs::write(&file, format!("id,Kategorie,Nachricht\r\n{}", (0..60).map(row).collect::<String>())).unwrap();
    let output = room.path().join("adapter");
    let (from, to) = (file.to_str().unwrap(), output.to_str().unwrap());
    let columns = ["--text-column", "Nachricht", "--label-column", "Kategorie"];
    let weights = ["--class-weights", "Rechnung, \"falsch\"=2,404=0.5"];
    let settings = ["--method", "lora", "--epochs", "6", "--lr", "1e-2"];
    fine(&train(from, to, &[&columns[..], &weights, &settings].concat()));
    assert_eq!(engine().load_adapter(&output).unwrap().info.labels, ["404", "Rechnung, \"falsch\"", "späte Lieferung"]);
    assert_eq!(json(&output.join("run/task.json"))["class_weights"], json!([0.5, 2.0, 1.0]));
    // A run with weights is not continued without them.
    let without = train(from, to, &[&columns[..], &settings, &["--resume"]].concat());
    refused(&without, 1, "task.json: the run was started with class_weights = [0.5,2.0,1.0]; this call has null");
    let found = evaluate(to, from);
    assert_eq!((&found["task"], &found["examples"]), (&json!("tickets"), &json!(6)));
    assert!(found["metrics"]["accuracy"].as_f64().unwrap() > 0.9, "{found}");
}

/// Whole numbers are values if the user says so, for one text and for pairs.
#[test]
fn whole_numbers_are_trained_as_values() {
    for pair in [false, true] {
        let room = TempDir::new().unwrap();
        let row = |i: usize| {
            let (text, other) = (["not", "was", "good"][i % 3], ["of", "the"][i % 2]);
            let columns = if pair { vec!["the plot", text] } else { vec![text] };
            format!("{}\t{}\n", 1 + 2 * (i % 3), [columns.join("\t"), other.to_owned()].join(" "))
        };
        let header = if pair { "label\tsentence1\tsentence2" } else { "label\tsentence" };
        fs::write(room.path().join("train.tsv"), format!("{header}\n{}", (0..48).map(row).collect::<String>()))
            .unwrap();
        let output = room.path().join("adapter");
        let (from, to) = (room.path().to_str().unwrap(), output.to_str().unwrap());
        let settings = ["--problem-type", "regression", "--method", "lora", "--epochs", "12", "--lr", "1e-2"];
        fine(&train(from, to, &settings));
        assert_eq!(json(&output.join("config.json"))["problem_type"], "regression");
        let found = evaluate(to, from);
        for metric in ["pearson", "spearman"] {
            assert!(found["metrics"][metric].as_f64().unwrap() > 0.8, "{found}");
        }
    }
}
