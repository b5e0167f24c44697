//! The report on an adapter, as JSON and as a table.

mod compare;

use std::fs;

use polyrank::adapter::{Ranks, peek};
use polyrank::engine::Engine;
use polyrank::inspect::Report;
use polyrank::params::Backend;
use serde_json::json;

use super::golden;

fn report(name: &str) -> Report {
    let (layout, adapter) = peek(&golden(name)).unwrap();
    Report::new(&layout, &adapter)
}

#[test]
fn prints_report_as_table() {
    let expected = "\
base          base
problem type  single_label_classification
labels        3: negative, neutral, positive
parameters    5,888 (4,992 as the paper's code counts), head 99
memory        23.39 KiB
first active  layer 0, attention.self.query

layer  query  key  value  attention output  intermediate  output  total
    0      1    4      9                 2             7       3     26  █████████████▍
    1      5    8      6                 1             2       9     31  ████████████████
    2      3    4      1                 6             2       5     21  ██████████▊
total      9   16     16                 9            11      17     78
";
    assert_eq!(report("ragged").to_string(), expected);
}

#[test]
fn rank_0_is_shown_as_a_dot() {
    let shown = report("absent").to_string();
    let rows: Vec<&str> = shown.lines().skip_while(|line| !line.starts_with("layer")).skip(1).collect();
    assert_eq!(
        rows,
        [
            "    0      ·    ·      ·                 ·             ·       ·      ·",
            "    1      ·    ·      3                 ·             ·       1      4  ██████████▋",
            "    2      ·    ·      3                 ·             ·       3      6  ████████████████",
            "total      ·    ·      6                 ·             ·       4     10",
        ]
    );
    assert!(shown.contains("first active  layer 1, attention.self.value"));
    assert!(shown.lines().all(|line| line.chars().count() <= 100));
}

/// Without its base, too, an adapter of any architecture shows its ranks.
#[test]
fn inspects_adapters_of_every_architecture() {
    let bases = fs::read_dir(golden("../encoders")).unwrap().map(|base| base.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(bases.len(), 9);
    for base in bases {
        let engine = Engine::open(&base, Backend::cpu()).unwrap();
        for name in ["plain", "ragged", "later"] {
            let (layout, seen) = peek(&base.join(name)).unwrap();
            let loaded = engine.load_adapter(&base.join(name)).unwrap();
            // A PEFT folder tells neither of layers above its last delta nor of a module of DeBERTa without deltas.
            let shown = |ranks: Ranks| {
                let all = ranks
                    .0
                    .into_iter()
                    .flat_map(|(module, ranks)| ranks.into_iter().enumerate().map(move |at| (module, at)));
                all.filter(|(_, (_, rank))| *rank > 0).collect::<Vec<_>>()
            };
            assert_eq!(shown(seen.ranks(&layout)), shown(loaded.ranks(engine.layout())), "{base:?} {name}");
        }
    }
}

#[test]
fn serializes_report_as_json() {
    let found = serde_json::to_value(report("absent")).unwrap();
    let expected = json!({
        "base_model": "base",
        "base_fingerprint": null,
        "labels": ["no", "yes"],
        "problem_type": null,
        "layers": 3,
        "ranks": {
            "query": [0, 0, 0],
            "key": [0, 0, 0],
            "value": [0, 3, 3],
            "attention output": [0, 0, 0],
            "intermediate": [0, 0, 0],
            "output": [0, 1, 3],
        },
        "parameters": {"adapter": 6 * 64 + 4 * 96, "paper": 10 * 64, "head": 2 * 32 + 2},
        "bytes": 4 * (6 * 64 + 4 * 96 + 2 * 32 + 2),
        "first_active_site": {"layer": 1, "module": "attention.self.value"},
    });
    assert_eq!(found, expected);
}

#[test]
fn quotes_labels_that_look_like_several() {
    let mut report = report("bighead");
    report.labels = ["no", "yes, but", "a\"b", "", "back\\slash", "it's", "naïve", "a:b"].map(str::to_owned).to_vec();
    let expected = r#"labels        8: no, "yes, but", "a\"b", "", "back\\slash", "it's", naïve, a:b"#;
    assert!(report.to_string().lines().any(|line| line == expected), "{report}");
}

#[test]
fn control_characters_in_names_are_replaced() {
    let mut report = report("bighead");
    assert!(report.to_string().contains("labels        17: \"topic 0\", \"topic 1\","));
    report.labels = (0..5000).map(|i| format!("label \u{1b}[2J{i}\n")).collect();
    report.base_model = Some("a\u{7}b".into());
    let shown = report.to_string();
    assert!(!shown.contains(['\u{1b}', '\u{7}']));
    assert!(shown.contains("5000: \"label \u{fffd}[2J0\u{fffd}\", ") && shown.contains(" more\n"));
    assert!(shown.lines().all(|line| line.chars().count() <= 110));
}
