//! Written adapters follow PEFT's rules, and are read back unchanged.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use fancy_regex::Regex;
use polyrank::adapter::{
    Adapter, AdapterError, AdapterInfo, AdapterWeights, Change, ProblemType, layout_of, read, write,
};
use polyrank::base::BaseConfig;
use polyrank::params::{Delta, Site};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::tempdir;

use super::{HIDDEN, golden, layout, raw_tensors};

fn random(rng: &mut StdRng, rows: usize, columns: usize) -> Tensor {
    let data: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-2.0..2.0)).collect();
    Tensor::from_vec(data, (rows, columns), &Device::Cpu).unwrap()
}

/// An adapter with these ranks and otherwise random values.
fn adapter(ranks: &[usize], labels: usize, pooler: bool, seed: u64) -> Adapter {
    let (layout, mut rng) = (layout(), StdRng::seed_from_u64(seed));
    let sites = layout.sites().zip(ranks).map(|(site, &rank)| {
        let module = layout.module(site);
        let scale = if rng.random_bool(0.5) {
            f64::from(rng.random_range(1..40)) / rank as f64
        } else {
            rng.random_range(-3.0..3.0)
        };
        let (a, b) = (random(&mut rng, rank, module.in_features), random(&mut rng, module.out_features, rank));
        (rank > 0).then_some(Change::LowRank(Delta { a, b, scale }))
    });
    let sites = sites.collect();
    let mut head = BTreeMap::from([
        ("classifier.weight".to_owned(), random(&mut rng, labels, HIDDEN)),
        ("classifier.bias".to_owned(), random(&mut rng, 1, labels).squeeze(0).unwrap()),
    ]);
    if pooler {
        head.insert("bert.pooler.dense.weight".to_owned(), random(&mut rng, HIDDEN, HIDDEN));
        head.insert("bert.pooler.dense.bias".to_owned(), random(&mut rng, 1, HIDDEN).squeeze(0).unwrap());
    }
    Adapter {
        info: AdapterInfo {
            labels: (0..labels).map(|id| format!("label {}", labels - id)).collect(),
            problem_type: [None, Some(ProblemType::Regression)][rng.random_range(0..2)],
            base_fingerprint: rng.random_bool(0.5).then(|| format!("sha256:{seed:x}")),
            base_model: Some("some/base".to_owned()),
        },
        weights: AdapterWeights { sites, head },
    }
}

/// DeBERTa's linears of positions act inside the attention, although they come last in a layer.
#[test]
fn positions_are_changed_before_the_output() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders/deberta-v2");
    let layout = polyrank::base::layout(&BaseConfig::read(&base).unwrap()).unwrap();
    let changed = ["output.dense", "attention.self.pos_key_proj"];
    let is_changed = |site: Site| site.layer == 1 && changed.contains(&layout.module(site).name);
    let first = layout.first_changed(is_changed).unwrap();
    assert_eq!((first.layer, layout.module(first).name), (1, "attention.self.pos_key_proj"));
    let last = layout.last().unwrap();
    assert_eq!((last.layer, layout.module(last).name), (layout.layers - 1, "output.dense"));
}

/// A mutable reference to the delta at the `site`-th site.
fn delta(adapter: &mut Adapter, site: usize) -> &mut Delta {
    let Some(Change::LowRank(delta)) = &mut adapter.weights.sites[site] else { panic!("no delta at site {site}") };
    delta
}

fn bits(tensor: &Tensor) -> (Vec<usize>, Vec<u32>) {
    let floats = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (tensor.dims().to_vec(), floats.iter().map(|x| x.to_bits()).collect())
}

fn json_of(dir: &Path, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
}

fn assert_same(found: &Adapter, expected: &Adapter) {
    for (found, expected) in found.weights.sites.iter().zip(&expected.weights.sites) {
        assert_eq!(found.is_some(), expected.is_some());
        let (Some(Change::LowRank(found)), Some(Change::LowRank(expected))) = (found, expected) else { continue };
        assert_eq!((bits(&found.a), bits(&found.b)), (bits(&expected.a), bits(&expected.b)));
        assert!((found.scale - expected.scale).abs() <= 1e-15 * expected.scale.abs(), "{found:?} {expected:?}");
    }
    assert!(found.weights.head.keys().eq(expected.weights.head.keys()));
    for (name, tensor) in &expected.weights.head {
        assert_eq!(bits(&found.weights.head[name]), bits(tensor), "{name}");
    }
    assert_eq!(
        (&found.info.labels, found.info.problem_type, &found.info.base_fingerprint, &found.info.base_model),
        (&expected.info.labels, expected.info.problem_type, &expected.info.base_fingerprint, &expected.info.base_model)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_adapter_is_read_back(
        mut ranks in prop::collection::vec(0..6usize, 18), labels in 1..7usize, pooler: bool, seed: u64,
    ) {
        ranks[seed as usize % 18] = 3;
        let (dir, layout) = (tempdir().unwrap(), layout());
        let expected = adapter(&ranks, labels, pooler, seed);
        write(dir.path(), &layout, &expected, &serde_json::Map::new()).unwrap();
        assert_same(&read(dir.path(), &layout, &Device::Cpu).unwrap(), &expected);

        let config = json_of(dir.path(), "adapter_config.json");
        let names: Vec<String> = layout.sites().map(|site| layout.name(site)).collect();
        let survivors: Vec<&String> = names.iter().zip(&ranks).filter(|&(_, &rank)| rank > 0).map(|(name, _)| name).collect();
        prop_assert_eq!(&config["target_modules"], &json!(survivors));
        for (name, &rank) in names.iter().zip(&ranks) {
            // By PEFT's rule, each key matches exactly one module, so that the order of the keys does not matter.
            let matches = |key: &String| Regex::new(&format!(r"^(.*\.)?({key})$")).unwrap().is_match(name).unwrap();
            let patterns = config["rank_pattern"].as_object().unwrap();
            let keys: Vec<&String> = patterns.keys().filter(|key| matches(key)).collect();
            prop_assert_eq!(keys, if rank > 0 { vec![name] } else { vec![] });
            prop_assert_eq!(patterns.get(name).map(|rank| rank.as_u64().unwrap() as usize), (rank > 0).then_some(rank));
        }
        prop_assert!(config["rank_pattern"].as_object().unwrap().keys().eq(config["alpha_pattern"].as_object().unwrap().keys()));
        prop_assert_eq!(layout_of(dir.path()).unwrap().layers, 3);
    }
}

#[test]
fn alphas_are_integers_where_possible() {
    let (dir, layout) = (tempdir().unwrap(), layout());
    let mut ranks = [0; 18];
    (ranks[4], ranks[11], ranks[12]) = (3, 7, 5);
    let mut adapter = adapter(&ranks, 2, true, 1);
    for (site, scale) in [(4, 16.0 / 3.0), (11, 16.0 / 7.0), (12, 0.3)] {
        delta(&mut adapter, site).scale = scale;
    }
    write(dir.path(), &layout, &adapter, &serde_json::Map::new()).unwrap();
    let config = json_of(dir.path(), "adapter_config.json");
    assert_eq!(
        config["alpha_pattern"],
        json!({
            "bert.encoder.layer.0.intermediate.dense": 16,
            "bert.encoder.layer.1.output.dense": 16,
            "bert.encoder.layer.2.attention.self.query": 1.5,
        })
    );
    assert_eq!((&config["peft_type"], &config["task_type"]), (&json!("LORA"), &json!("SEQ_CLS")));
    assert_eq!((&config["r"], &config["lora_alpha"], &config["bias"]), (&json!(7), &json!(16), &json!("none")));
    assert_eq!(config["modules_to_save"], json!(["pooler", "classifier"]));
    let labels = json_of(dir.path(), "config.json");
    assert_eq!(labels["id2label"], json!({"0": "label 2", "1": "label 1"}));
    assert_eq!(labels["label2id"], json!({"label 2": 0, "label 1": 1}));
    let bytes = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn adapter_without_deltas_gets_a_zero_delta_at_the_last_linear() {
    let (dir, layout) = (tempdir().unwrap(), layout());
    write(dir.path(), &layout, &adapter(&[0; 18], 2, false, 2), &serde_json::Map::new()).unwrap();
    let read = read(dir.path(), &layout, &Device::Cpu).unwrap();
    let ranks: Vec<usize> = (0..18).map(|i| read.rank(i)).collect();
    assert_eq!(ranks, [[0; 17].as_slice(), &[1]].concat());
    let zero = read.weights.sites[17].as_ref().unwrap().delta();
    assert_eq!(zero.b.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    let config = json_of(dir.path(), "adapter_config.json");
    assert_eq!(config["target_modules"], json!(["bert.encoder.layer.2.output.dense"]));
}

#[test]
fn rewriting_an_adapter_of_peft_keeps_its_values() {
    let layout = layout();
    for name in ["plain", "ragged", "rslora", "absent", "regex", "patterns", "layers", "pooler", "all_linear"] {
        let dir = tempdir().unwrap();
        let read_first = read(&golden(name), &layout, &Device::Cpu).unwrap();
        write(dir.path(), &layout, &read_first, &serde_json::Map::new()).unwrap();
        assert_same(&read(dir.path(), &layout, &Device::Cpu).unwrap(), &read_first);
        let (ours, pefts) = (raw_tensors(dir.path()), raw_tensors(&golden(name)));
        assert_eq!(ours, pefts, "{name}");
    }
}

fn listing(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn writing_replaces_files_and_leaves_no_temporary_ones() {
    let (parent, layout) = (tempdir().unwrap(), layout());
    let dir = parent.path().join("new/folder");
    for seed in [3, 4] {
        let expected = adapter(&[2; 18], 3, false, seed);
        write(&dir, &layout, &expected, &serde_json::Map::new()).unwrap();
        assert_same(&read(&dir, &layout, &Device::Cpu).unwrap(), &expected);
        assert_eq!(listing(&dir), ["adapter_config.json", "adapter_model.safetensors", "config.json"]);
    }
}

#[test]
fn refuses_to_write_what_could_not_be_read() {
    let (dir, layout) = (tempdir().unwrap(), layout());
    let good = adapter(&[1; 18], 2, false, 5);
    write(dir.path(), &layout, &good, &serde_json::Map::new()).unwrap();
    let refused = |edit: &dyn Fn(&mut Adapter)| {
        let mut bad = adapter(&[2; 18], 2, false, 6);
        edit(&mut bad);
        let error = write(dir.path(), &layout, &bad, &serde_json::Map::new()).unwrap_err();
        assert_same(&read(dir.path(), &layout, &Device::Cpu).unwrap(), &good);
        error
    };
    let nan = Tensor::full(f32::NAN, (2, HIDDEN), &Device::Cpu).unwrap();
    let error = refused(&|bad| delta(bad, 7).a = nan.clone());
    let key = "base_model.model.bert.encoder.layer.1.attention.self.key.lora_A.weight";
    assert!(matches!(&error, AdapterError::NotFinite { tensor, index: 0, .. } if tensor == key), "{error}");
    let error = refused(&|bad| delta(bad, 7).b = nan.clone());
    assert!(matches!(error, AdapterError::Shape { .. }));
    let error = refused(&|bad| delta(bad, 7).scale = f64::NAN);
    assert!(matches!(error, AdapterError::Malformed { .. }));
    let error = refused(&|bad| drop(bad.weights.head.remove("classifier.bias")));
    assert!(matches!(error, AdapterError::MissingTensor { .. }));
    let error = refused(&|bad| bad.info.labels.push("one too many".into()));
    assert!(matches!(error, AdapterError::Malformed { .. }));
    let error = refused(&|bad| bad.weights.sites.truncate(12));
    assert!(matches!(error, AdapterError::Sites { expected: 18, found: 12 }));
}

#[test]
fn failed_write_names_the_file_and_leaves_no_partial_files() {
    let (dir, layout) = (tempdir().unwrap(), layout());
    let good = adapter(&[1; 18], 2, false, 7);
    let occupied = dir.path().join("file");
    std::fs::write(&occupied, "x").unwrap();
    let error = write(&occupied, &layout, &good, &serde_json::Map::new()).unwrap_err();
    assert!(matches!(&error, AdapterError::Io { file, .. } if *file == occupied), "{error}");
    // The rename fails. The folder does not become an adapter, and no temporary files stay.
    let dir = dir.path().join("adapter");
    std::fs::create_dir_all(dir.join("config.json/in the way")).unwrap();
    let error = write(&dir, &layout, &good, &serde_json::Map::new()).unwrap_err();
    assert!(matches!(&error, AdapterError::Io { file, .. } if *file == dir.join("config.json")), "{error}");
    assert_eq!(listing(&dir), ["config.json"]);
    // The same where the folder has an adapter: its weights do not stay beside a configuration or labels that are not theirs.
    std::fs::remove_dir_all(dir.join("config.json")).unwrap();
    write(&dir, &layout, &good, &serde_json::Map::new()).unwrap();
    std::fs::remove_file(dir.join("adapter_config.json")).unwrap();
    std::fs::create_dir_all(dir.join("adapter_config.json/in the way")).unwrap();
    let mut other = adapter(&[1; 18], 2, false, 8);
    other.info.labels.reverse();
    write(&dir, &layout, &other, &serde_json::Map::new()).unwrap_err();
    assert_eq!(listing(&dir), ["adapter_config.json", "config.json"]);
}

/// PEFT does not know `default`, and has its own key for a revision. A folder's path is not changed.
#[test]
fn names_the_base_as_peft_finds_it() {
    let (dir, layout) = (tempdir().unwrap(), layout());
    let folder = dir.path().to_str().unwrap();
    for (model, name, revision) in [
        ("default", "sentence-transformers/all-MiniLM-L6-v2", Value::Null),
        ("org/name", "org/name", Value::Null),
        ("org/name@v2", "org/name", "v2".into()),
        (folder, folder, Value::Null),
    ] {
        let mut adapter = adapter(&[1; 18], 2, false, 8);
        adapter.info.base_model = Some(model.to_owned());
        let base =
            serde_json::from_str(r#"{"model_type": "bert", "architectures": ["BertModel"], "id2label": {"0": "x"}}"#);
        write(dir.path(), &layout, &adapter, &base.unwrap()).unwrap();
        let json =
            |name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap() };
        let config = json("adapter_config.json");
        assert_eq!((&config["base_model_name_or_path"], &config["revision"]), (&Value::from(name), &revision));
        let config = json("config.json");
        assert_eq!((&config["model_type"], config.get("architectures")), (&Value::from("bert"), None));
        assert_eq!(config["id2label"].as_object().unwrap().len(), 2);
        assert_eq!(read(dir.path(), &layout, &Device::Cpu).unwrap().info.base_model.as_deref(), Some(name));
    }
}
