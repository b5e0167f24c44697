//! `polyrank-train extract`. `goldens/make_extract.py` made the fine-tuned model and what PyTorch finds in it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterWeights, ProblemType};
use polyrank::engine::Engine;
use polyrank::params::{Backend, Dim, Frozen, Layout, Precision, Site};
use polyrank::text::{Encoded, Limit};
use polyrank_training::evaluate;
use polyrank_training::extract::budget::ranks;
use polyrank_training::extract::change::{Kind, elements, parameters};
use polyrank_training::extract::effect::{Comparison, Effect};
use polyrank_training::extract::report::LinearsReport;
use polyrank_training::extract::spectrum::Spectrum;
use polyrank_training::extract::{Budget, base_parameters, extract, lost};
use polyrank_training::fine_tuned::FineTuned;
use polyrank_training::method::Export;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::run::{data, fine, refused};
use super::{ENCODERS, base_dir, encoder_on, engine};

/// The tolerance of logits and of factors' products.
const TOLERANCE: f64 = 1e-4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/extract")
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn model() -> FineTuned {
    FineTuned::open(&folder().join("model"), &Device::Cpu, Precision::F32, None).unwrap()
}

fn texts(engine: &Engine, expected: &Value) -> Vec<Encoded> {
    let limit = Limit::TRUNCATE;
    let encode = |text: &Value| engine.encode(text["text"].as_str().unwrap(), text["text_pair"].as_str(), &limit);
    expected["texts"].as_array().unwrap().iter().map(|text| encode(text).unwrap()).collect()
}

fn close(found: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
}

fn logits_close(found: &[Vec<f32>], expected: &Value, what: &str) {
    let expected: Vec<Vec<f32>> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.len(), expected.len());
        let near = |(a, b): (&f32, &f32)| f64::from((a - b).abs()) < TOLERANCE;
        assert!(found.iter().zip(expected).all(near), "{what}: {found:?}, expected {expected:?}");
    }
}

fn effect_close(found: Effect, expected: &Value, what: &str) {
    close(found.difference, &expected["difference"], TOLERANCE, what);
    close(found.agreement.unwrap(), &expected["agreement"], 1e-6, what);
}

#[test]
fn singular_values_match_pytorch() {
    let (base, model, expected) = (engine(), model(), expected());
    let (of_base, of_fine) = (parameters(&base), parameters(&model.engine));
    let largest = expected["singular_values"].as_object().unwrap();
    for site in base.layout().sites() {
        let name = format!("{}.weight", base.layout().name(site));
        let weight = |of: &HashMap<&str, &Frozen>| elements(of[&*name]).unwrap().into_owned();
        let module = base.layout().module(site);
        let shape = [module.out_features, module.in_features];
        let spectrum = Spectrum::new(site, shape, &weight(&of_base), &weight(&of_fine)).unwrap();
        let values = largest[&name].as_array().unwrap();
        assert_eq!(spectrum.values.len(), values.len());
        for (found, expected) in spectrum.values.iter().zip(values) {
            close(*found, expected, 1e-10 * values[0].as_f64().unwrap().max(1e-300), &name);
        }
        // One site changed by rank 3, and one not at all.
        let rank = match &*name {
            "bert.encoder.layer.1.attention.self.key.weight" => 3,
            "bert.encoder.layer.2.intermediate.dense.weight" => 0,
            _ => 32,
        };
        assert_eq!(spectrum.rank(), rank, "{name}");
        assert_eq!(ranks(&[spectrum], 32 * 96), [rank]);
    }
}

#[test]
fn extracted_adapter_matches_pytorch_and_the_report_says_what_is_lost() {
    let (base, model, expected) = (engine(), model(), expected());
    let texts = texts(&base, &expected);
    assert_eq!(
        (&model.labels[..], model.problem_type),
        (&["negative", "neutral", "positive"].map(String::from)[..], None)
    );
    assert_eq!(base_parameters(&base), expected["base_parameters"].as_u64().unwrap() as usize);
    logits_close(&evaluate::logits(&model.engine, &model.export(), &texts).unwrap(), &expected["logits"], "the model");
    let products = candle_core::safetensors::load(folder().join("products.safetensors"), &Device::Cpu).unwrap();
    let comparison = Comparison::new(&model, texts).unwrap();
    for (i, golden) in expected["budgets"].as_array().unwrap().iter().enumerate() {
        let budget = Budget::Share(golden["share"].as_f64().unwrap()).parameters(&base);
        assert_eq!(budget as u64, golden["parameters"].as_u64().unwrap());
        let extraction = extract((&base_dir(), &base), &model, budget, "base").unwrap();
        let adapter = &extraction.adapter;
        assert!(adapter.delta_parameters() <= budget);
        for kept in &extraction.sites {
            let name = base.layout().name(kept.site);
            assert_eq!(json!(kept.rank), golden["ranks"][format!("{name}.weight")], "{name}");
            if i == 0 {
                same_product(&base, adapter, kept.site, &products[&name]);
            }
        }
        let report = LinearsReport::new(base.layout(), &extraction);
        close(report.relative_error, &golden["relative_error"], 1e-6, "relative error");
        effect_close(comparison.adapter(&base, adapter).unwrap(), &golden["effect"], "the adapter");
        if i > 0 {
            continue;
        }
        for change in &extraction.changes {
            let golden = &expected["changes"][change.kind.name()];
            close(change.relative, &golden["relative"], 1e-6, change.kind.name());
            // The adapter has the model's own head, so that the head is never reverted.
            if change.kind != Kind::Head {
                effect_close(
                    comparison.reverted(&base, &[change.kind]).unwrap(),
                    &golden["reverted"],
                    change.kind.name(),
                );
            }
        }
        assert_eq!(lost(&extraction.changes), [Kind::Biases, Kind::Norms, Kind::Embeddings]);
        let all = comparison.reverted(&base, &lost(&extraction.changes)).unwrap();
        effect_close(all, &expected["all_lost"], "all that is lost");
    }
}

fn same_product(base: &Engine, adapter: &Adapter, site: Site, expected: &Tensor) {
    let product = match &adapter.weights.sites[base.layout().index(site)] {
        Some(change) => change.delta().b.contiguous().unwrap().matmul(&change.delta().a).unwrap(),
        None => expected.zeros_like().unwrap(),
    };
    let most = (product - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(most < 1e-5, "{site:?}: {most}");
}

/// The command's arguments for a fine-tuned model of the tiny base.
fn args<'a>(model: &'a Path, output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let base: &'static str = Box::leak(base_dir().to_string_lossy().into_owned().into_boxed_str());
    let paths = ["--model", model.to_str().unwrap(), "--output", output.to_str().unwrap()];
    [&["extract", "--model-id", base], &paths[..], more].concat()
}

#[test]
fn command_writes_an_adapter_that_the_runtime_serves() {
    let room = TempDir::new().unwrap();
    let (output, model_dir) = (room.path().join("adapter"), folder().join("model"));
    let report: Value = serde_json::from_str(&fine(&args(&model_dir, &output, &["--json"]))).unwrap();
    let (base, expected) = (engine(), expected());
    let adapter = base.load_adapter(&output).unwrap();
    let golden = &expected["budgets"][0];
    // The pooler was fine-tuned, so that the adapter carries it.
    assert_eq!(adapter.weights.head.len(), 4);
    assert_eq!(adapter.info.labels, ["negative", "neutral", "positive"]);
    assert_eq!(report["adapter"]["parameters"]["adapter"], json!(adapter.delta_parameters()));
    assert_eq!(report["budget"]["parameters"], golden["parameters"]);
    assert_eq!((&report["compared_on"], &report["distilled"]), (&json!({"data": false, "texts": 256}), &Value::Null));
    let logits = evaluate::logits(&base, &Export::Adapter(adapter), &texts(&base, &expected)).unwrap();
    logits_close(&logits, &golden["logits"], "the written adapter");
    refused(&args(&model_dir, &output, &[]), 1, "is not empty");
    // What cannot be written is told before the work.
    let file = room.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&args(&model_dir, &file.join("below"), &[]), 1, "file/below: ");
    refused(&args(&model_dir, &room.path().join("none"), &["--text-column", "a"]), 1, "--text-column: expected --data");
    let other = room.path().join("other");
    let text = fine(&args(&model_dir, &other, &["--target-params", "1000"]));
    for words in ["budget 1000 parameters, 3.1 % of the base's", "embeddings: stay those of the base  ", "written to"] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    assert!(base.load_adapter(&other).unwrap().delta_parameters() <= 1000);
}

#[test]
fn problem_type_that_the_model_does_not_state_may_be_given() {
    let (room, several) = (TempDir::new().unwrap(), ["--problem-type", "multi_label_classification"]);
    let unstated = changed("config.json", |mut config| {
        config.as_object_mut().unwrap().remove("problem_type");
        config
    });
    let output = room.path().join("adapter");
    fine(&args(unstated.path(), &output, &several));
    let adapter = engine().load_adapter(&output).unwrap();
    assert_eq!(adapter.info.problem_type, Some(ProblemType::MultiLabelClassification));
    let stated = changed("config.json", |mut config| {
        config["problem_type"] = json!("single_label_classification");
        config
    });
    let none = room.path().join("none");
    let words = "--problem-type: expected single_label_classification, as ";
    refused(&args(stated.path(), &none, &several), 1, words);
    refused(&args(unstated.path(), &none, &["--problem-type", "regression"]), 1, words);
}

#[test]
fn distillation_brings_the_adapter_closer_and_needs_no_labels() {
    let (task, room) = (data(), TempDir::new().unwrap());
    // The task's own labels are others than the model's.
    let model_dir = folder().join("model");
    let refused_at = |path: &Path, words: &str| {
        let path = path.to_str().unwrap();
        refused(&args(&model_dir, &room.path().join("none"), &["--data", path]), 1, words);
        assert!(!room.path().join("none").exists());
    };
    refused_at(task.path(), "the adapter has 3 labels, but the data has 2");
    let names = ["negative", "neutral", "positive"];
    for file in ["train.tsv", "validation.tsv"] {
        let path = task.path().join(file);
        let rows = fs::read_to_string(&path).unwrap();
        let texts: Vec<&str> =
            rows.lines().skip(1).filter_map(|line| line.split_once('\t')).map(|(_, text)| text).collect();
        let with = |label: fn(usize) -> &'static str| -> String {
            texts.iter().enumerate().map(|(i, text)| format!("{}{text}\n", label(i))).collect()
        };
        fs::create_dir_all(task.path().join("plain")).unwrap();
        fs::write(task.path().join("plain").join(file), format!("sentence\n{}", with(|_| ""))).unwrap();
        fs::create_dir_all(task.path().join("marked")).unwrap();
        fs::write(task.path().join("marked").join(file), format!("label\tsentence\n{}", with(|_| "-1\t"))).unwrap();
        let labelled = with(|i| ["negative\t", "neutral\t", "positive\t"][i % 3]);
        fs::write(&path, format!("label\tsentence\n{labelled}")).unwrap();
    }
    let run = |from: &Path, to: &str| -> Value {
        let (from, to) = (from.to_str().unwrap(), room.path().join(to));
        let more = ["--data", from, "--json", "--epochs", "4", "--lr", "2e-3", "--batch-size", "8"];
        serde_json::from_str(&fine(&args(&model_dir, &to, &more))).unwrap()
    };
    let (labelled, plain) = (run(task.path(), "labelled"), run(&task.path().join("plain"), "plain"));
    for report in [&labelled, &plain] {
        let difference = |key: &str| report[key]["difference"].as_f64().unwrap();
        assert!(difference("distilled") < difference("extracted"), "{report}");
        assert!(report["distilled_epoch"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report["compared_on"], json!({"data": true, "texts": 12}));
    }
    // Labels change nothing but that metrics are printed.
    assert_eq!((&plain["distilled"], &plain["metrics"]), (&labelled["distilled"], &json!([])));
    // Nor does the mark of rows without a label.
    assert_eq!(run(&task.path().join("marked"), "marked")["distilled"], plain["distilled"]);
    assert_eq!(labelled["metrics"][0]["metric"], "accuracy");
    assert!(labelled["metrics"][0]["distilled"].is_f64());
    let adapter = engine().load_adapter(&room.path().join("plain")).unwrap();
    assert_eq!(
        (adapter.info.labels, adapter.info.base_fingerprint.is_some()),
        (names.map(String::from).to_vec(), true)
    );
}

/// A copy of the fine-tuned model with one file changed.
fn changed(file: &str, change: impl Fn(Value) -> Value) -> TempDir {
    let dir = copied(&folder().join("model"));
    let path = dir.path().join(file);
    let value = change(serde_json::from_slice(&fs::read(&path).unwrap()).unwrap());
    fs::write(path, value.to_string()).unwrap();
    dir
}

fn copied(from: &Path) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// A copy of the fine-tuned model in which `change` changed the tensors.
fn with_tensors(change: impl Fn(&mut HashMap<String, Tensor>)) -> TempDir {
    let dir = copied(&folder().join("model"));
    let path = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    dir
}

#[test]
fn models_that_do_not_come_from_the_base_are_refused_by_name() {
    let room = TempDir::new().unwrap();
    let output = room.path().join("adapter");
    let case = |dir: &Path, words: &str| refused(&args(dir, &output, &[]), 1, words);
    case(&base_dir(), "config.json: expected a fine-tuned text classifier, found architectures BertModel");
    let key = |key: &'static str, value: Value| {
        changed("config.json", move |mut config| {
            config[key] = value.clone();
            config
        })
    };
    let tokens = key("architectures", json!(["BertForTokenClassification"]));
    case(tokens.path(), "expected a fine-tuned text classifier, found architectures BertForTokenClassification");
    case(key("vocab_size", json!(118)).path(), "vocab_size: expected 117, as the base has, found 118");
    case(key("num_hidden_layers", json!(2)).path(), "num_hidden_layers: expected 3, as the base has, found 2");
    case(key("max_position_embeddings", json!(32)).path(), "max_position_embeddings: expected 64");
    let roberta = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/encoders/roberta");
    case(&roberta, "model_type: expected bert, as the base has, found roberta");
    let words = changed("tokenizer.json", |mut tokenizer| {
        let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let id = words.remove("film").unwrap();
        words.insert("movie".to_owned(), id);
        tokenizer
    });
    case(words.path(), "tokenizer.json: it was not fine-tuned from this base: model.vocab: expected 117 words");
    let case_kept = changed("tokenizer_config.json", |mut tokenizer| {
        tokenizer["do_lower_case"] = json!(false);
        tokenizer
    });
    case(case_kept.path(), "tokenizer.json: it was not fine-tuned from this base: tokens of");
    let other = with_tensors(|tensors| {
        let table = tensors.get_mut("bert.embeddings.word_embeddings.weight").unwrap();
        *table = table.randn_like(0.0, 1.0).unwrap();
    });
    case(other.path(), "embeddings: expected a relative difference below 0.7, as the base has, found");
    let of_base = candle_core::safetensors::load(base_dir().join("model.safetensors"), &Device::Cpu).unwrap();
    let same = with_tensors(|tensors| tensors.extend(of_base.clone()));
    case(same.path(), "expected linears that differ from the base's, found that all are equal");
    let bare = with_tensors(|tensors| drop(tensors.remove("classifier.bias")));
    case(bare.path(), "model.safetensors: expected a fine-tuned text classifier, found no tensor classifier.bias");
    let wide =
        with_tensors(|tensors| {
            drop(tensors.insert(
                "classifier.weight".to_owned(),
                tensors["classifier.weight"].t().unwrap().contiguous().unwrap(),
            ))
        });
    case(wide.path(), "tensor classifier.weight: expected shape [32, 32], found [32, 3]");
    let labels = key("id2label", json!({"0": "a", "1": "b"}));
    case(labels.path(), "id2label: expected ids 0 to 2, one for each output, found 2");
    let nan = with_tensors(|tensors| {
        let bias = tensors.get_mut("bert.encoder.layer.0.output.dense.weight").unwrap();
        *bias = (bias.zeros_like().unwrap() / 0.0).unwrap();
    });
    case(nan.path(), "linears: expected a relative difference below 0.7, as the base has, found NaN");
    assert!(!output.exists());
    for (flag, value, words) in [
        ("--target-ratio", "0", "--target-ratio: expected above 0 and at most 1, found 0"),
        (
            "--target-params",
            "63",
            "expected 64 parameters or more, which one rank of the smallest linear has, found 63",
        ),
    ] {
        let flag = format!("{flag}={value}");
        refused(&args(&folder().join("model"), &output, &[&flag]), 1, words);
    }
    for (flag, value, words) in [
        ("--batch-size", "0", "--batch-size: expected 1 or more, found 0"),
        ("--lr", "-1", "--lr: expected a positive number, found -1"),
        ("--temperature", "NaN", "--temperature: expected a positive number, found NaN"),
        ("--class-weights", "balanced", "--class-weights: expected none, because distillation has no labels"),
    ] {
        let flag = format!("{flag}={value}");
        refused(&args(&folder().join("model"), &output, &[&flag, "--data=nowhere"]), 1, words);
        // Without texts, there is no distillation that it could change.
        if !flag.starts_with("--class-weights") {
            refused(&args(&folder().join("model"), &output, &[&flag]), 2, "--data <PATH>|--dataset <ORG/NAME>");
        }
    }
}

/// Fixed numbers from -1 to 1 without order.
fn numbers(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let numbers: Vec<f32> = (0..count).map(|i| ((i * i) as f32 * 0.37 + i as f32).sin()).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// A classifier fine-tuned from a tiny base, of which only linears and the head changed.
fn tuned(name: &str, layout: &Layout) -> TempDir {
    let dir = copied(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/encoders").join(name));
    let path = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    for site in layout.sites() {
        let full = format!("{}.weight", layout.name(site));
        // The file may leave out the prefix.
        let bare = full.strip_prefix(&format!("{}.", layout.prefix)).unwrap().to_owned();
        let weight = if tensors.contains_key(&full) { full } else { bare };
        let weight = tensors.get_mut(&weight).unwrap();
        *weight = (&*weight + (numbers(weight.dims()) * 0.02).unwrap()).unwrap();
    }
    for parameter in layout.head.iter().filter(|parameter| parameter.required) {
        let size = |dim: &Dim| match dim {
            Dim::Labels => 2,
            Dim::Fixed(size) => *size,
        };
        let shape: Vec<usize> = parameter.shape.iter().map(size).collect();
        tensors.insert(parameter.name.clone(), numbers(&shape));
    }
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let config = dir.path().join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    for key in ["architectures", "id2label", "label2id"] {
        value.as_object_mut().unwrap().remove(key);
    }
    fs::write(config, value.to_string()).unwrap();
    dir
}

/// Where the budget takes every rank and only linears and the head changed, nothing is lost.
#[test]
fn adapters_of_full_rank_equal_the_model_on_every_architecture() {
    for name in ENCODERS {
        let (base, source) = (encoder_on(name, &Backend::cpu()), Path::new(env!("CARGO_MANIFEST_DIR")));
        let dir = tuned(name, base.layout());
        let model = FineTuned::open(dir.path(), &Device::Cpu, Precision::F32, None).unwrap();
        assert_eq!((model.labels.len(), model.problem()), (2, ProblemType::SingleLabelClassification), "{name}");
        let of_base = source.join("../tests/goldens/encoders").join(name);
        let extraction = extract((&of_base, &base), &model, usize::MAX, "base").unwrap();
        assert!(lost(&extraction.changes).is_empty(), "{name}: {:?}", extraction.changes);
        let limit = Limit::TRUNCATE;
        let texts = ["the film was great", "the plot"].map(|text| base.encode(text, None, &limit).unwrap());
        let comparison = Comparison::new(&model, texts.to_vec()).unwrap();
        let effect = comparison.adapter(&base, &extraction.adapter).unwrap();
        assert!(effect.difference < TOLERANCE, "{name}: {}", effect.difference);
        let weights = AdapterWeights { sites: vec![None; base.layout().len()], head: model.head.clone() };
        let bare = Adapter { info: extraction.adapter.info.clone(), weights };
        let without = comparison.adapter(&base, &bare).unwrap();
        assert!(without.difference > 100.0 * TOLERANCE, "{name}: {}", without.difference);
    }
}
