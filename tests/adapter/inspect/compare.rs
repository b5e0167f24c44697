//! Comparisons of several adapters.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::Device;
use polyrank::adapter::{peek, read, write};
use polyrank::inspect::{Comparison, LayoutDifference, LayoutMismatch, Report};
use polyrank::params::Layout;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::adapter::{golden, layout};

// Computed by Python's `statistics.correlation` from the ranks in `make_bert.py`.
const RAGGED_PLAIN: f64 = -0.127_000_127_000_190_5;
const RAGGED_LAYERS: f64 = 0.359_210_604_053_549_8;
const PLAIN_LAYERS: f64 = -0.235_702_260_395_515_87;

fn look(dir: &Path) -> (PathBuf, Layout, Report) {
    let (layout, adapter) = peek(dir).unwrap();
    let report = Report::new(&layout, &adapter);
    (dir.to_owned(), layout, report)
}

fn compare(names: &[&str]) -> Comparison {
    Comparison::new(names.iter().map(|name| look(&golden(name))).collect()).unwrap()
}

/// The report on `ragged` with the ranks of all sites replaced, by layer.
fn with_ranks(name: &str, ranks: [[usize; 6]; 3]) -> (PathBuf, Layout, Report) {
    let (_, layout, mut report) = look(&golden("ragged"));
    for (module, (_, column)) in report.ranks.0.iter_mut().enumerate() {
        *column = ranks.iter().map(|layer| layer[module]).collect();
    }
    (Path::new("/adapters").join(name), layout, report)
}

fn close(found: Option<f64>, expected: f64) {
    assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{found:?} for {expected}");
}

#[test]
fn correlates_all_sites() {
    let found = compare(&["ragged", "plain", "layers"]);
    close(found.correlation[0][1], RAGGED_PLAIN);
    close(found.correlation[0][2], RAGGED_LAYERS);
    close(found.correlation[1][2], PLAIN_LAYERS);
    close(found.mean_correlation, (RAGGED_PLAIN + RAGGED_LAYERS + PLAIN_LAYERS) / 3.0);
    for (i, row) in found.correlation.iter().enumerate() {
        assert_eq!(row[i], Some(1.0));
        assert!(row.iter().enumerate().all(|(j, r)| *r == found.correlation[j][i]));
    }
}

#[test]
fn equal_ranks_have_no_correlation() {
    let flat = || with_ranks("flat", [[4; 6]; 3]);
    let found = Comparison::new(vec![look(&golden("ragged")), flat(), look(&golden("plain"))]).unwrap();
    assert_eq!(found.correlation[1], [None, None, None]);
    assert_eq!((found.correlation[0][1], found.correlation[2][1]), (None, None));
    close(found.mean_correlation, RAGGED_PLAIN);
    let expected = "
               A  B      C
A  ragged   1.00  -  -0.13
B  flat        -  -      -
C  plain   -0.13  -   1.00
mean of 1 of 3 pairs: -0.13
-: not defined, because all sites have the same rank in B
";
    assert!(found.to_string().ends_with(expected), "{found}");

    let found = Comparison::new(vec![flat(), flat()]).unwrap();
    assert_eq!((found.mean_correlation, &found.correlation), (None, &vec![vec![None; 2]; 2]));
    let expected = "
             A  B
A  flat      -  -
B  flat (2)  -  -
mean of 0 of 1 pair: -
-: not defined, because all sites have the same rank in A, B
";
    assert!(found.to_string().ends_with(expected), "{found}");
}

#[test]
fn prints_comparison_as_table() {
    let expected = "   adapter  parameters  total rank  first active                   base
A  ragged        5,888          78  layer 0, attention.self.query  base
B  layers          896          12  layer 1, attention.self.query  base
C  absent          768          10  layer 1, attention.self.value  base
note: the bases may differ: no adapter records its base's fingerprint

        query      key        value      attention output   intermediate   output     total
layer    A  B  C    A  B  C    A  B  C    A  B  C            A  B  C        A  B  C    A  B  C
    0    1  ·  ·    4  ·  ·    9  ·  ·    2  ·  ·            7  ·  ·        3  ·  ·   26  ·  ·
    1    5  2  ·    8  2  ·    6  ·  3    1  ·  ·            2  ·  ·        9  2  1   31  6  4
    2    3  2  ·    4  2  ·    1  ·  3    6  ·  ·            2  ·  ·        5  2  3   21  6  6
total    9  4  ·   16  4  ·   16  ·  6    9  ·  ·           11  ·  ·       17  4  4   78 12 10

correlation of the ranks (Pearson, over 18 sites)
              A     B     C
A  ragged  1.00  0.36  0.03
B  layers  0.36  1.00  0.07
C  absent  0.03  0.07  1.00
mean of 3 pairs: 0.15
";
    assert_eq!(compare(&["ragged", "layers", "absent"]).to_string(), expected);
}

#[test]
fn modules_that_do_not_fit_go_into_a_second_table() {
    let found = compare(&["ragged"; 9]).to_string();
    let maps = found.lines().skip_while(|line| !line.is_empty()).take_while(|line| !line.starts_with("correlation"));
    let maps: Vec<&str> = maps.collect();
    let labels =
        |line: &str| line.split("  ").filter(|label| !label.is_empty()).map(str::trim).collect::<Vec<_>>().join(", ");
    let heads: Vec<String> = maps.iter().filter(|line| line.starts_with("      ")).map(|line| labels(line)).collect();
    assert_eq!(heads, ["query, key, value", "attention output, intermediate, output", "total"]);
    assert!(maps.iter().all(|line| line.chars().count() <= 100), "{found}");
    // A map that is wider than a line is still shown.
    let found = compare(&["ragged"; 40]).to_string();
    assert!(found.contains("AN"), "{found}");
}

#[test]
fn serializes_comparison_as_json() {
    let found = serde_json::to_value(compare(&["ragged", "absent"])).unwrap();
    assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), ["adapters", "correlation", "mean_correlation"]);
    for (entry, name) in found["adapters"].as_array().unwrap().iter().zip(["ragged", "absent"]) {
        let mut expected = json!({"name": name});
        let report = serde_json::to_value(look(&golden(name)).2).unwrap();
        expected.as_object_mut().unwrap().extend(report.as_object().unwrap().clone());
        assert_eq!(entry, &expected);
    }
    let r = found["mean_correlation"].as_f64().unwrap();
    assert_eq!(found["correlation"], json!([[1.0, r], [r, 1.0]]));

    let flat = vec![with_ranks("flat", [[0; 6]; 3]), look(&golden("ragged"))];
    let found = serde_json::to_value(Comparison::new(flat).unwrap()).unwrap();
    assert_eq!(found["correlation"], json!([[null, null], [null, 1.0]]));
    assert_eq!(found["mean_correlation"], Value::Null);
}

#[test]
fn bases_that_differ_are_noted() {
    let note = |prints: [Option<&str>; 3]| {
        let with = |print: Option<&str>| {
            let (dir, layout, mut report) = look(&golden("ragged"));
            report.base_fingerprint = print.map(str::to_owned);
            (dir, layout, report)
        };
        let shown = Comparison::new(prints.into_iter().map(with).collect()).unwrap().to_string();
        shown.lines().find(|line| line.starts_with("note")).map(str::to_owned)
    };
    assert_eq!(note([Some("sha256:1"); 3]), None);
    let differ = Some("note: the bases differ: their fingerprints are not equal".to_owned());
    assert_eq!(note([Some("sha256:1"), Some("sha256:2"), Some("sha256:1")]), differ);
    assert_eq!(note([Some("sha256:1"), None, Some("sha256:2")]), differ);
    let unknown = Some("note: the bases may differ: no fingerprint in B, C".to_owned());
    assert_eq!(note([Some("sha256:1"), None, None]), unknown);
    let unknown = Some("note: the bases may differ: no adapter records its base's fingerprint".to_owned());
    assert_eq!(note([None; 3]), unknown);
}

#[test]
fn fingerprints_are_shortened() {
    let (dir, layout, mut report) = look(&golden("ragged"));
    report.base_fingerprint = Some(format!("sha256:{}", "0123456789abcdef".repeat(4)));
    let shown = Comparison::new(vec![(dir, layout, report)]).unwrap().to_string();
    assert!(shown.contains("  base (sha256:01234567…)\n"), "{shown}");
}

#[test]
fn control_characters_in_names_are_replaced() {
    let (_, layout, mut report) = look(&golden("ragged"));
    report.base_model = Some("a\u{7}b".into());
    report.base_fingerprint = Some("c\u{1b}d".into());
    let shown = Comparison::new(vec![("x\u{1b}[2J".into(), layout, report)]).unwrap().to_string();
    assert!(!shown.contains(['\u{1b}', '\u{7}']), "{shown}");
}

/// The error for comparing `found` with `expected`, which must name both folders.
fn refusal(expected: &Layout, found: &Layout) -> LayoutMismatch {
    let report = look(&golden("ragged")).2;
    let adapters = vec![
        ("adapters/a".into(), expected.clone(), report.clone()),
        ("adapters/b".into(), expected.clone(), report.clone()),
        ("adapters/c".into(), found.clone(), report),
    ];
    let refusal = Comparison::new(adapters).unwrap_err();
    assert_eq!((&*refusal.first, &*refusal.other), (Path::new("adapters/a"), Path::new("adapters/c")));
    assert!(refusal.to_string().starts_with("adapters/c cannot be compared with adapters/a: expected "), "{refusal}");
    refusal
}

#[test]
fn refuses_other_layouts() {
    use LayoutDifference::{Architecture, Hidden, Layers, Modules};
    let bert = layout();
    let other = Layout { prefix: "electra", ..bert.clone() };
    let (expected, found) = ("bert.encoder.layer".to_owned(), "electra.encoder.layer".to_owned());
    assert_eq!(refusal(&bert, &other).difference, Architecture { expected, found });
    let other = Layout { layers: 2, ..bert.clone() };
    assert_eq!(refusal(&bert, &other).difference, Layers { expected: 3, found: 2 });
    assert!(refusal(&bert, &other).to_string().contains("expected 3 layers, found 2 ("));
    let other = Layout { hidden: 64, ..bert.clone() };
    assert_eq!(refusal(&bert, &other).difference, Hidden { expected: 32, found: 64 });
    let other = Layout { modules: bert.modules[..2].to_vec(), ..bert.clone() };
    let names = |layout: &Layout| layout.modules.iter().map(|module| module.name).collect();
    assert_eq!(refusal(&bert, &other).difference, Modules { expected: names(&bert), found: names(&other) });
    assert!(
        refusal(&other, &bert).to_string().contains("expected the modules attention.self.query, attention.self.key")
    );
}

#[test]
fn ignores_guessed_width_of_the_feed_forward() {
    let mut wider = layout();
    wider.modules[4].out_features *= 2;
    let report = look(&golden("ragged")).2;
    assert!(Comparison::new(vec![("a".into(), layout(), report.clone()), ("b".into(), wider, report)]).is_ok());
}

fn inspect(args: &[&str], dirs: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polyrank")).arg("inspect").args(args).args(dirs).output().unwrap()
}

fn printed(args: &[&str], dirs: &[&Path]) -> String {
    let output = inspect(args, dirs);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn command_reports_one_and_compares_several() {
    let (ragged, absent) = (golden("ragged"), golden("absent"));
    let report = look(&ragged).2;
    assert_eq!(printed(&[], &[&ragged]), format!("{report}\n"));
    assert_eq!(printed(&["--json"], &[&ragged]), format!("{}\n", serde_json::to_string(&report).unwrap()));
    let compared = compare(&["ragged", "absent", "ragged"]);
    let dirs: [&Path; 3] = [&ragged, &absent, &ragged];
    assert_eq!(printed(&[], &dirs), format!("{compared}\n"));
    let json = format!("{}\n", serde_json::to_string(&compared).unwrap());
    assert_eq!(printed(&["--json"], &dirs), json);
    // With the base, the reports are the same as without it.
    assert_eq!(printed(&["--json", "--model-id", golden("").to_str().unwrap()], &dirs), json);
    assert_eq!(inspect(&[], &[]).status.code(), Some(2));
}

/// Without the base's layout, the last adapted layer counts as the last layer.
#[test]
fn base_shows_all_layers() {
    let room = tempdir().unwrap();
    let (ragged, lower) = (golden("ragged"), room.path().join("lower"));
    let mut adapter = read(&ragged, &layout(), &Device::Cpu).unwrap();
    adapter.weights.sites.truncate(12);
    std::fs::create_dir(&lower).unwrap();
    write(&lower, &Layout { layers: 2, ..layout() }, &adapter, &serde_json::Map::new()).unwrap();

    let refused = inspect(&[], &[&ragged, &lower]);
    assert_eq!((refused.status.code(), &*refused.stdout), (Some(1), &b""[..]));
    let told = String::from_utf8(refused.stderr).unwrap();
    for part in [ragged.to_str().unwrap(), lower.to_str().unwrap(), "expected 3 layers, found 2", "--model-id"] {
        assert!(told.contains(part), "{told}");
    }
    let found = printed(&["--json", "--model-id", golden("").to_str().unwrap()], &[&ragged, &lower]);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["adapters"][1]["ranks"]["output"], json!([3, 9, 0]));
}

#[test]
fn refuses_different_architectures() {
    let distilbert = golden("../encoders/distilbert/plain");
    let found = Comparison::new(vec![look(&golden("ragged")), look(&distilbert)]).unwrap_err();
    assert!(matches!(found.difference, LayoutDifference::Architecture { .. }), "{found}");
}
