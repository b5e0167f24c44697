//! Every method on every kind of task: a short run, what it leaves, and its evaluation.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use polyrank::adapter::AdapterInfo;
use polyrank::encoder::Packed;
use polyrank::engine::Engine;
use polyrank::params::Precision;
use polyrank::text::{Encoded, Limit};
use polyrank_training::fine_tuned::FineTuned;
use polyrank_training::method::adalora::{AdaLora, AdaLoraSettings};
use polyrank_training::method::sora::{GateRule, Sora, SoraSettings, Threshold};
use polyrank_training::method::{
    BottleneckAdapter, DyLora, Export, Lora, LowRankSettings, Method, TrainedHead, bitfit, first_ranks, full,
};
use polyrank_training::optim::{Step, Variable};
use polyrank_training::{evaluate, export};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

use super::run::{fine, names, read, refused};
use super::{backends, base_dir, engine};

const METHODS: [&str; 7] = ["sora", "lora", "adalora", "dylora", "bitfit", "adapter", "full"];

/// The files beside the run that a method leaves.
fn files(method: &str) -> &'static [&'static str] {
    match method {
        "bitfit" | "full" => &["config.json", "model.safetensors", "run", "tokenizer.json", "tokenizer_config.json"],
        "adapter" => &["bottleneck.safetensors", "bottleneck_config.json", "config.json", "run"],
        _ => &["adapter_config.json", "adapter_model.safetensors", "config.json", "run"],
    }
}

/// A kind of task: its name, its columns, and the label and texts of a row. The word at the end decides the label.
type Kind = (&'static str, &'static str, fn(usize) -> String);

const KINDS: [Kind; 4] = [
    ("single", "label\tsentence", |i| format!("{}\tthe plot was {}", NAMES[i % 2], WORDS[i % 2])),
    ("pair", "label\tsentence1\tsentence2", |i| format!("{}\tthe plot\twas {}", NAMES[i % 2], WORDS[i % 2])),
    ("regression", "label\tsentence", |i| format!("{}\tthe plot was {}", [0.5, 1.5][i % 2], WORDS[i % 2])),
    ("several labels", "", |i| {
        let labels = [vec!["plot", "good"], vec!["plot"], vec![]][i % 3].clone();
        let text = ["the plot was very good", "the plot", "not this"][i % 3];
        serde_json::json!({ "label": labels, "sentence": text }).to_string()
    }),
];
const NAMES: [&str; 2] = ["good", "bad"];
const WORDS: [&str; 2] = ["very good", "not good"];

/// The folder of a kind's data: TSV with these columns, or JSON lines.
fn data((_, columns, row): &Kind) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (split, rows) in [("train", 0..24), ("validation", 24..32)] {
        let rows: Vec<String> = rows.map(row).collect();
        let (extension, head) = if columns.is_empty() { ("jsonl", "") } else { ("tsv", "\n") };
        let text = format!("{columns}{head}{}\n", rows.join("\n"));
        fs::write(dir.path().join(format!("{split}.{extension}")), text).unwrap();
    }
    dir
}

fn base() -> &'static str {
    Box::leak(base_dir().to_string_lossy().into_owned().into_boxed_str())
}

/// The arguments of a run of 21 steps.
fn arguments<'a>(method: &'a str, data: &'a Path, output: &'a Path) -> Vec<&'a str> {
    let (data, output) = (data.to_str().unwrap(), output.to_str().unwrap());
    let mut args = vec!["train", "--model-id", base(), "--method", method, "--data", data, "--output", output];
    args.extend(["--epochs", "7", "--batch-size", "8", "--lr", "1e-2", "--seed", "2", "--dropout", "0"]);
    match method {
        "sora" | "lora" | "adalora" | "dylora" => args.extend(["--rank", "4"]),
        "adapter" => args.extend(["--bottleneck", "8"]),
        _ => {}
    }
    args
}

fn log(output: &Path) -> Vec<Value> {
    let text = String::from_utf8(read(&output.join("run/log.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a method leaves is read back, and evaluated to the metric of the best epoch: exactly, because the forward pass is the same.
#[test]
fn every_method_learns_every_kind_of_task() {
    let room = TempDir::new().unwrap();
    for kind in &KINDS {
        let data = data(kind);
        for method in METHODS {
            let output = room.path().join(format!("{method}-{}", kind.0));
            let told = fine(&arguments(method, data.path(), &output));
            let log = log(&output);
            let loss = |entry: &Value| entry["loss"].as_f64().unwrap();
            assert_eq!((log.len(), log[6]["step"].as_u64()), (7, Some(21)));
            assert!(loss(&log[6]) < loss(&log[0]), "{method} on {}: {log:?}", kind.0);
            assert_eq!(names(&output), files(method), "{method}");
            let to = output.to_str().unwrap();
            let from = data.path().to_str().unwrap();
            let found = fine(&["evaluate", "--model-id", base(), "--adapter", to, "--data", from, "--json"]);
            let found: Value = serde_json::from_str(&found).unwrap();
            let epochs: Vec<&Value> = log.iter().map(|entry| &entry["metrics"]).collect();
            assert!(epochs.contains(&&found["metrics"]), "{method} on {}: {found} is none of {epochs:?}", kind.0);
            check_parameters(method, &found["parameters"], &log[6], &told);
            check_folder(method, &output);
        }
    }
}

/// The numbers of parameters are those that the method has.
fn check_parameters(method: &str, parameters: &Value, entry: &Value, told: &str) {
    let engine = engine();
    let all: usize = engine.encoder().parameters().iter().map(|p| p.shape().iter().product::<usize>()).sum();
    let found = parameters["adapter"].as_u64().unwrap() as usize;
    let expected = match method {
        "full" => all,
        "bitfit" => {
            let biases = engine.encoder().parameters().iter().filter(|p| p.name().ends_with(".bias"));
            biases.map(|p| p.shape()[0]).sum()
        }
        // Two matrices of 8 and their biases, twice in each layer.
        "adapter" => 2 * engine.layout().layers * (2 * 8 * engine.layout().hidden + 8 + engine.layout().hidden),
        "lora" | "dylora" => {
            let costs = engine.layout().sites().map(|site| {
                let module = engine.layout().module(site);
                4 * (module.in_features + module.out_features)
            });
            costs.sum()
        }
        _ => entry["parameters"].as_u64().unwrap() as usize,
    };
    assert_eq!(found, expected, "{method}");
    assert!(parameters["head"].as_u64().unwrap() > 0);
    if method == "dylora" {
        assert!((1..=4).all(|rank| told.contains(&format!("\nrank {rank}: "))), "{told}");
    }
}

/// The runtime serves the LoRA family, and refuses the other folders by the file that they lack.
fn check_folder(method: &str, output: &Path) {
    let engine = engine();
    let loaded = engine.load_adapter(output);
    match method {
        "bitfit" | "full" => {
            let model = FineTuned::open(output, &Device::Cpu, Precision::F32, None).unwrap();
            let class = "BertForSequenceClassification";
            let config: Value = serde_json::from_slice(&read(&output.join("config.json"))).unwrap();
            assert_eq!(config["architectures"], serde_json::json!([class]));
            assert_eq!(config["id2label"].as_object().unwrap().len(), model.labels.len());
            // The type of the weights, whatever the base's own file says.
            assert_eq!((&config["dtype"], config.get("torch_dtype")), (&serde_json::json!("float32"), None));
            assert!(loaded.unwrap_err().to_string().contains("adapter_config.json"));
        }
        "adapter" => assert!(loaded.unwrap_err().to_string().contains("adapter_config.json")),
        _ => {
            let ranks = loaded.unwrap().ranks(engine.layout());
            let mean = ranks.0.iter().flat_map(|(_, ranks)| ranks).sum::<usize>() as f64 / engine.layout().len() as f64;
            assert!(if method == "adalora" { mean <= 4.0 } else { mean > 0.0 }, "{method}: {ranks:?}");
        }
    }
}

/// Nothing is known about the importance of ranks after one step: as many as asked for stay.
#[test]
fn adalora_of_one_step_keeps_ranks() {
    let (room, data) = (TempDir::new().unwrap(), data(&KINDS[0]));
    let output = room.path().join("a");
    let (from, to) = (data.path().to_str().unwrap(), output.to_str().unwrap());
    fine(&[
        "train",
        "--model-id",
        base(),
        "--method",
        "adalora",
        "--data",
        from,
        "--output",
        to,
        "--rank",
        "4",
        "--epochs",
        "1",
        "--batch-size",
        "24",
    ]);
    let ranks = engine().load_adapter(&output).unwrap().ranks(engine().layout());
    assert!(ranks.0.iter().flat_map(|(_, ranks)| ranks).all(|rank| *rank == 4), "{ranks:?}");
}

/// A folder holds one export, also after it has been replaced by one of another kind.
#[test]
fn another_method_replaces_the_whole_export() {
    let (room, data) = (TempDir::new().unwrap(), data(&KINDS[0]));
    let output = room.path().join("a");
    for method in ["full", "lora", "adapter", "bitfit", "dylora"] {
        let mut args = arguments(method, data.path(), &output);
        args.extend(["--epochs", "1", "--overwrite"].into_iter().filter(|_| method != "full" || !output.exists()));
        // The last value of a flag counts.
        let at = args.iter().position(|arg| *arg == "7").unwrap();
        args.drain(at - 1..=at);
        fine(&args);
        assert_eq!(names(&output), files(method), "{method}");
    }
    // An adapter that another program wrote, with a file that no method writes.
    fs::write(output.join("config.json"), "{\"model_type\": \"bert\"}").unwrap();
    fs::write(output.join("README.md"), "").unwrap();
    for method in ["bitfit", "adapter"] {
        fs::write(output.join("adapter_config.json"), "{}").unwrap();
        fs::write(output.join("adapter_model.safetensors"), "").unwrap();
        fs::write(output.join("config.json"), "{\"model_type\": \"bert\"}").unwrap();
        fine(&[&arguments(method, data.path(), &output)[..], &["--overwrite"]].concat());
        let mine = |name: &String| !["adapter_config.json", "adapter_model.safetensors"].contains(&name.as_str());
        assert!(names(&output).iter().all(mine) && output.join("README.md").exists(), "{:?}", names(&output));
    }
    fine(&[&arguments("lora", data.path(), &output)[..], &["--overwrite"]].concat());
    fs::write(output.join("config.json"), "{\"model_type\": \"bert\"}").unwrap();
    fs::remove_file(output.join("adapter_config.json")).unwrap();
    let args = [&arguments("lora", data.path(), &output)[..], &["--overwrite"]].concat();
    refused(&args, 1, "belongs to neither an adapter nor a run");
}

/// Every method at a point where all variables are random, but some singular values and gates are 0.
fn anywhere(engine: &Engine) -> Vec<Box<dyn Method>> {
    let (layout, backend, encoder) = (engine.layout(), engine.backend(), &**engine.encoder());
    let shape = LowRankSettings { rank: 3, alpha: 6.0, modules: vec![0, 2, 5], labels: 3, seed: 5 };
    let budget = AdaLoraSettings { target_rank: 2, tinit: 0.1, tfinal: 0.5, delta_t: Some(1), orth_reg_weight: 0.5 };
    let threshold = Threshold::Ratio(0.5);
    let gates =
        SoraSettings { gate: GateRule::Adaptive, threshold, gate_rate: 1.0, sparse_lambda: 0.0, depth_bias: 0.0 };
    let head = || TrainedHead::new(layout, 3, &mut StdRng::seed_from_u64(5), backend.device()).unwrap();
    let methods: Vec<Box<dyn Method>> = vec![
        Box::new(Lora::new(layout, &shape, backend).unwrap()),
        Box::new(AdaLora::new(layout, &shape, budget, backend).unwrap()),
        Box::new(bitfit(encoder, head()).unwrap()),
        Box::new(BottleneckAdapter::new(layout, 5, 3, head(), backend).unwrap()),
        Box::new(full(encoder, head()).unwrap()),
        Box::new(Sora::new(layout, &shape, gates, backend).unwrap()),
    ];
    methods.iter().for_each(|method| randomise(&**method));
    methods
}

/// Adds noise to all variables, so that norms stay near 1, and sets one singular value, or one gate, of each site to 0, and all gates of the
/// first site.
fn randomise(method: &dyn Method) {
    let (mut rng, mut has_empty_site) = (StdRng::seed_from_u64(17), false);
    for Variable { name, var, .. } in method.variables() {
        let mut values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.iter_mut().for_each(|value| *value += rng.random_range(-0.3..0.3));
        if name.ends_with("lora_E") || name.ends_with(".gate") {
            values[rng.random_range(0..3)] = 0.0;
        }
        if name.ends_with(".gate") && !std::mem::replace(&mut has_empty_site, true) {
            values.fill(0.0);
        }
        var.set(&Tensor::from_vec(values, var.shape(), var.device()).unwrap()).unwrap();
    }
}

/// The logits of a method's pass, without dropout.
fn pass_logits(engine: &Engine, method: &dyn Method, texts: &[Encoded]) -> Vec<f32> {
    let (encoder, batch) = (&**engine.encoder(), Packed::new(texts));
    let pass = method.pass().unwrap();
    let logits = encoder.logits(&encoder.pooled(&batch, &*pass).unwrap(), &method.head(), &*pass).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn texts(engine: &Engine) -> Vec<Encoded> {
    let limit = Limit::TRUNCATE;
    ["the plot was very good", "not good"].map(|text| engine.encode(text, None, &limit).unwrap()).to_vec()
}

fn info(engine: &Engine) -> AdapterInfo {
    AdapterInfo {
        labels: ["a", "b", "c"].map(str::to_owned).to_vec(),
        problem_type: None,
        base_fingerprint: Some(engine.base_fingerprint().to_owned()),
        base_model: Some("tiny".to_owned()),
    }
}

fn assert_close(found: &[Vec<f32>], expected: &[f32], what: &str) {
    for (found, expected) in found.concat().iter().zip(expected) {
        assert!((found - expected).abs() <= 2e-5 * expected.abs().max(1.0), "{what}: {found} for {expected}");
    }
}

/// What a method leaves gives the logits of training, on every backend.
#[test]
fn exports_give_the_logits_of_the_pass() {
    for backend in backends() {
        let engine = Engine::open(&base_dir(), backend.clone()).unwrap();
        let texts = texts(&engine);
        for (i, method) in anywhere(&engine).iter().enumerate() {
            let export = method.export(info(&engine)).unwrap();
            let what = format!("method {i} on {}", backend.name());
            let found = evaluate::logits(&engine, &export, &texts).unwrap();
            assert_close(&found, &pass_logits(&engine, &**method, &texts), &what);
            if let Export::Adapter(adapter) = &export {
                let ranks: Vec<usize> = adapter.weights.sites.iter().flatten().map(|change| change.rank()).collect();
                // A site without a gate that is not 0 has no delta.
                let sites = 3 * engine.layout().layers;
                let expected = [(3, sites), (2, sites), (0, 0), (0, 0), (0, 0), (2, sites - 1)][i];
                assert_eq!(ranks, vec![expected.0; expected.1], "{what}");
            }
        }
    }
}

/// Each step of DyLoRA trains the adapter of the rank that it drew. Every rank is drawn.
#[test]
fn dylora_trains_the_adapter_of_the_drawn_rank() {
    let engine = engine();
    let (texts, mut drawn) = (texts(&engine), [0; 4]);
    let shape = LowRankSettings { rank: 4, alpha: 6.0, modules: vec![0, 2, 5], labels: 3, seed: 5 };
    let mut method = DyLora::new(engine.layout(), &shape, 4, engine.backend()).unwrap();
    randomise(&method);
    for number in 1..=24 {
        let rank = method.drawn();
        drawn[rank - 1] += 1;
        let whole = method.export(info(&engine)).unwrap().into_adapter().unwrap();
        let cut = first_ranks(&whole, rank).unwrap();
        let found = evaluate::logits(&engine, &Export::Adapter(cut), &texts).unwrap();
        assert_close(&found, &pass_logits(&engine, &method, &texts), &format!("rank {rank}"));
        method.after_step(&Step { number, total: 24, rate: 0.0, gradients: Vec::new() }).unwrap();
    }
    assert!(drawn.iter().all(|times| *times > 1), "{drawn:?}");
}

/// DyLoRA's adapter at a lower rank is the beginning of the whole adapter.
#[test]
fn dylora_exports_its_first_ranks() {
    let (room, data) = (TempDir::new().unwrap(), data(&KINDS[0]));
    let mut told = String::new();
    let adapters = ["4", "3"].map(|rank| {
        let output = room.path().join(rank);
        told = fine(&[&arguments("dylora", data.path(), &output)[..], &["--export-rank", rank]].concat());
        engine().load_adapter(&output).unwrap()
    });
    // A run tells the metrics of each rank's adapter.
    let (adapter, data) = (room.path().join("3"), data.path().to_str().unwrap());
    let args = ["evaluate", "--model-id", base(), "--adapter", adapter.to_str().unwrap(), "--data", data];
    let found: Value = serde_json::from_str(&fine(&args)).unwrap();
    let accuracy = found["metrics"]["accuracy"].as_f64().unwrap();
    assert!(told.contains(&format!("\nrank 3: accuracy {accuracy:.4} on validation, ")), "{told}");
    let [whole, cut] = adapters.each_ref().map(|adapter| adapter.weights.sites[0].as_ref().unwrap().delta());
    assert_eq!((whole.rank(), cut.rank()), (4, 3));
    assert_eq!((whole.scale, cut.scale), (16.0 / 4.0, 16.0 / 3.0));
    let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(whole.a.narrow(0, 0, 3).unwrap()), values(cut.a.clone()));
    assert_eq!(values(whole.b.narrow(1, 0, 3).unwrap()), values(cut.b.clone()));
}

#[test]
fn a_setting_of_another_method_is_refused() {
    let (room, data) = (TempDir::new().unwrap(), data(&KINDS[0]));
    let output = room.path().join("a");
    for (method, flag, value, expected) in [
        ("full", "--rank", "4", "--rank: expected with the method sora or lora or adalora or dylora, found full"),
        ("bitfit", "--target-modules", "query", "--target-modules: expected with the method sora or lora"),
        ("adalora", "--xi", "1e-3", "--xi: expected with the method sora, found adalora"),
        ("lora", "--bottleneck", "8", "--bottleneck: expected with the method adapter, found lora"),
        ("lora", "--tinit", "0.1", "--tinit: expected with the method adalora, found lora"),
        ("adapter", "--bottleneck", "0", "--bottleneck: expected 1 or more, found 0"),
        ("adapter", "--bottleneck", "2000000", "--bottleneck: expected at most 128, four times the width of the base"),
        ("lora", "--lr", "-1", "--lr: expected a positive number, found -1"),
        ("adalora", "--init-rank", "3", "--init-rank: expected at least the rank 4, found 3"),
        ("adalora", "--init-rank", "999", "--init-rank: expected at most"),
        ("adalora", "--tinit", "0.6", "--tinit and --tfinal: expected shares whose sum is below 1, found 0.6 and 0.5"),
        ("adalora", "--tfinal", "2", "--tfinal: expected from 0 to 1, found 2"),
        ("adalora", "--delta-t", "0", "--delta-t: expected 1 or more, found 0"),
        ("adalora", "--orth-reg-weight", "nan", "--orth-reg-weight: expected 0 or a positive number, found NaN"),
        ("dylora", "--export-rank", "5", "--export-rank: expected at most the rank 4, found 5"),
        ("full", "--dtype", "int8", "--dtype: expected f32 with the method full"),
        ("full", "--dtype", "bf16", "--dtype: expected f32 with the method full on a CPU"),
    ] {
        let mut args = arguments(method, data.path(), &output);
        if let Some(at) = args.iter().position(|arg| *arg == flag) {
            args.drain(at..at + 2);
        }
        args.extend([flag, value]);
        refused(&args, 1, expected);
    }
    assert!(!output.exists());
}

/// Bottlenecks on disk: [`export::write`] and [`export::read`] give the same logits, and damaged files are refused by name.
#[test]
fn damaged_bottlenecks_are_refused() {
    let (engine, room) = (engine(), TempDir::new().unwrap());
    let head = TrainedHead::new(engine.layout(), 3, &mut StdRng::seed_from_u64(1), &Device::Cpu).unwrap();
    let method = BottleneckAdapter::new(engine.layout(), 5, 1, head, engine.backend()).unwrap();
    let info = info(&engine);
    let written = method.export(info.clone()).unwrap();
    export::write(room.path(), &engine, &written, &base_dir()).unwrap();
    let Export::Bottlenecks(found) = export::read(room.path(), &engine).unwrap() else { panic!("no bottlenecks") };
    let Export::Bottlenecks(expected) = written else { panic!("no bottlenecks") };
    assert_eq!(found.info, info);
    for (found, expected) in found.sites.iter().flatten().zip(expected.sites.iter().flatten()) {
        for (found, expected) in found.parts().into_iter().zip(expected.parts()) {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(found), values(expected));
        }
    }
    let refused = |words: &[&str]| {
        let error = export::read(room.path(), &engine).map(|_| ()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "expected {words:?} in {error}");
    };
    let weights = room.path().join("bottleneck.safetensors");
    let whole = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let name = "bert.encoder.layer.0.output.dense.up.weight";
    let with = |change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &weights).unwrap();
    };
    let put = |tensor: Tensor| with(&|tensors| drop(tensors.insert(name.to_owned(), tensor.clone())));
    with(&|tensors| drop(tensors.remove(name)));
    refused(&["bottleneck.safetensors", name, "is missing"]);
    put(Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap());
    refused(&[name, "expected shape [32, 5], found [2, 5]"]);
    put(Tensor::zeros((32, 5), DType::F64, &Device::Cpu).unwrap());
    refused(&[name, "expected type F32, found F64"]);
    put(Tensor::full(f32::NAN, (32, 5), &Device::Cpu).unwrap());
    refused(&[name, "expected finite numbers, found NaN"]);
    with(&|tensors| drop(tensors.insert("more".to_owned(), whole[name].clone())));
    refused(&["tensor more belongs to no bottleneck"]);
    with(&|tensors| drop(tensors.remove("classifier.bias")));
    refused(&["classifier.bias", "is missing"]);
    fs::write(&weights, b"no safetensors").unwrap();
    refused(&["bottleneck.safetensors"]);
    with(&|_| {});
    let config = room.path().join("bottleneck_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"bottleneck\": 5", "\"bottleneck\": 6")).unwrap();
    refused(&["down.weight", "expected shape [6, 32], found [5, 32]"]);
    fs::write(&config, text.replace("sha256:", "sha256:f")).unwrap();
    refused(&["bottleneck_config.json", "trained on the base sha256:f"]);
    fs::write(&config, "{}").unwrap();
    refused(&["bottleneck_config.json", "missing field `bottleneck`"]);
    fs::write(&config, &text).unwrap();
    let labels = room.path().join("config.json");
    let names = fs::read_to_string(&labels).unwrap().replace("\"2\": \"c\"", "\"3\": \"c\"");
    fs::write(&labels, names).unwrap();
    refused(&["config.json", "id2label"]);
}

/// A rename that fails stands for a process that is killed at this point: no weights lie beside labels that are not theirs, and no
/// command reads the folder.
#[test]
fn export_that_fails_half_way_leaves_no_weights() {
    let engine = engine();
    let head = || TrainedHead::new(engine.layout(), 3, &mut StdRng::seed_from_u64(1), &Device::Cpu).unwrap();
    let shape = LowRankSettings { rank: 2, alpha: 4.0, modules: vec![0, 2], labels: 3, seed: 1 };
    let exports: [Export; 3] = [
        Lora::new(engine.layout(), &shape, engine.backend()).unwrap().export(info(&engine)).unwrap(),
        full(&**engine.encoder(), head()).unwrap().export(info(&engine)).unwrap(),
        BottleneckAdapter::new(engine.layout(), 5, 1, head(), engine.backend()).unwrap().export(info(&engine)).unwrap(),
    ];
    let configs = ["adapter_config.json", "tokenizer.json", "bottleneck_config.json"];
    for before in &exports {
        for (after, config) in exports.iter().zip(configs) {
            let room = TempDir::new().unwrap();
            export::write(room.path(), &engine, before, &base_dir()).unwrap();
            let config = room.path().join(config);
            let _ = fs::remove_file(&config);
            fs::create_dir_all(config.join("in the way")).unwrap();
            let error = export::write(room.path(), &engine, after, &base_dir()).unwrap_err().to_string();
            assert!(error.contains(config.to_str().unwrap()), "{error}");
            let left = names(room.path());
            assert!(!left.iter().any(|name| name.ends_with(".safetensors")), "{left:?}");
            assert!(export::read(room.path(), &engine).is_err() && !export::is_model(room.path()));
            fs::remove_dir_all(config).unwrap();
            export::write(room.path(), &engine, after, &base_dir()).unwrap();
            assert_eq!(export::is_model(room.path()), matches!(after, Export::Model(_)));
        }
    }
}

/// The tokenizer of another base would be read in part.
#[test]
fn model_replaces_all_files_of_one_on_another_base() {
    let (engine, room) = (engine(), TempDir::new().unwrap());
    let head = TrainedHead::new(engine.layout(), 3, &mut StdRng::seed_from_u64(1), &Device::Cpu).unwrap();
    let model = full(&**engine.encoder(), head).unwrap().export(info(&engine)).unwrap();
    let write = || export::write(room.path(), &engine, &model, &base_dir()).unwrap();
    write();
    let files = names(room.path());
    fs::write(room.path().join("added_tokens.json"), "{}").unwrap();
    fs::write(room.path().join("notes.txt"), "mine").unwrap();
    write();
    let mut expected = files;
    expected.push("notes.txt".to_owned());
    expected.sort();
    assert_eq!(names(room.path()), expected);
}
