//! Reads files that PEFT wrote, and checks the rank, the scale and the values of every site.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use polyrank::adapter::{Adapter, Change, ProblemType, layout_of, peek, read};
use safetensors::tensor::Dtype;
use tempfile::tempdir;

use super::{floats, golden, layout, raw_tensors, write_raw_tensors};

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Reads a golden and checks each site against `expected(layer, module) -> (rank, scale)`. The rank is 0 where PEFT has no delta.
fn check(name: &str, expected: impl Fn(usize, &str) -> (usize, f64)) -> Adapter {
    let layout = layout();
    let adapter = read(&golden(name), &layout, &Device::Cpu).unwrap();
    let tensors = raw_tensors(&golden(name));
    for site in layout.sites() {
        let full = layout.name(site);
        let (rank, scale) = expected(site.layer, layout.module(site).name);
        let delta = adapter.weights.sites[layout.index(site)].as_ref().map(Change::delta);
        assert_eq!(delta.map_or(0, |delta| delta.rank()), rank, "{name}: rank of {full}");
        let Some(delta) = delta else { continue };
        assert!((delta.scale - scale).abs() < 1e-12, "{name}: scale of {full}: {} is not {scale}", delta.scale);
        for (which, tensor) in [("lora_A", &delta.a), ("lora_B", &delta.b)] {
            let (_, shape, bytes) = &tensors[&format!("base_model.model.{full}.{which}.weight")];
            assert_eq!(tensor.dims(), shape, "{name}: {full}.{which}");
            assert_eq!(tensor.dtype(), DType::F32);
            let expected: Vec<u32> = floats(bytes).iter().map(|x| x.to_bits()).collect();
            assert_eq!(bits(tensor), expected, "{name}: {full}.{which}");
        }
    }
    for (head, tensor) in &adapter.weights.head {
        let (_, shape, bytes) = &tensors[&format!("base_model.model.{head}")];
        assert_eq!(tensor.dims(), shape);
        assert_eq!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), floats(bytes), "{name}: {head}");
    }
    adapter
}

#[test]
fn targets_as_suffixes() {
    let adapter = check("plain", |_, module| match module {
        "attention.self.query" | "attention.self.value" | "intermediate.dense" => (4, 2.0),
        _ => (0, 0.0),
    });
    assert_eq!(adapter.info.labels, ["LABEL_0", "LABEL_1"]);
    assert_eq!(adapter.info.problem_type, None);
    assert_eq!(adapter.info.base_fingerprint, None);
    assert_eq!(adapter.info.base_model.as_deref(), Some("base"));
    assert_eq!(adapter.weights.head.keys().collect::<Vec<_>>(), ["classifier.bias", "classifier.weight"]);
}

#[test]
fn ranks_and_alphas_by_site() {
    const RANKS: [usize; 18] = [1, 4, 9, 2, 7, 3, 5, 8, 6, 1, 2, 9, 3, 4, 1, 6, 2, 5];
    let modules: Vec<_> = layout().modules.iter().map(|module| module.name).collect();
    let adapter = check("ragged", |layer, module| {
        let i = 6 * layer + modules.iter().position(|name| *name == module).unwrap();
        (RANKS[i], (2 + (5 * i) % 17) as f64 / RANKS[i] as f64)
    });
    assert_eq!(adapter.info.labels, ["negative", "neutral", "positive"]);
    assert_eq!(adapter.info.problem_type, Some(ProblemType::SingleLabelClassification));
}

#[test]
fn rslora_divides_by_the_root_of_each_modules_own_rank() {
    check("rslora", |layer, module| match (layer, module) {
        (2, "attention.self.key") => (1, 2.0),
        (_, "attention.self.key") => (2, 2.0 / 2f64.sqrt()),
        (0, "attention.output.dense") => (5, 3.0 / 5f64.sqrt()),
        (_, "attention.output.dense") => (2, 3.0 / 2f64.sqrt()),
        _ => (0, 0.0),
    });
}

#[test]
fn targets_by_full_name_match_no_other_site() {
    let adapter = check("absent", |layer, module| match (layer, module) {
        (1, "attention.self.value") | (2, "attention.self.value" | "output.dense") => (3, 2.0),
        (1, "output.dense") => (1, 6.0),
        _ => (0, 0.0),
    });
    assert_eq!(adapter.first_active_site(&layout()).map(|site| (site.layer, site.module)), Some((1, 2)));
}

#[test]
fn targets_as_a_regex() {
    check("regex", |layer, module| match (layer, module) {
        (0 | 2, "attention.self.query" | "attention.self.key" | "attention.output.dense" | "output.dense") => {
            // The pattern follows `layer.N.`, so that `output.dense` does not match `attention.output.dense`.
            if module == "attention.output.dense" { (0, 0.0) } else { (2, 2.0) }
        }
        _ => (0, 0.0),
    });
}

#[test]
fn the_first_pattern_that_matches_wins() {
    let adapter = check("patterns", |layer, module| match (layer, module) {
        (1, "attention.self.query") => (5, 2.0 / 5.0),
        (_, "attention.self.query") => (4, 2.0 / 4.0),
        (_, "attention.self.value") => (2, 4.0 / 2.0),
        (_, "attention.output.dense") => (3, 5.0 / 3.0),
        (2, "output.dense") => (1, 7.0),
        (_, "output.dense") => (1, 3.0),
        _ => (0, 0.0),
    });
    assert_eq!(adapter.info.labels, ["toxic", "rude", "spam", "off topic", "fine"]);
    assert_eq!(adapter.info.problem_type, Some(ProblemType::MultiLabelClassification));
}

#[test]
fn excluded_modules_and_chosen_layers() {
    check("layers", |layer, module| match (layer, module) {
        (1 | 2, "attention.self.query" | "attention.self.key" | "output.dense") => (2, 1.0),
        _ => (0, 0.0),
    });
}

#[test]
fn heads_of_any_size_and_own_poolers() {
    let value = |rank, scale| {
        move |_: usize, module: &str| {
            if module == "attention.self.value" { (rank, scale) } else { (0, 0.0) }
        }
    };
    assert_eq!(check("bighead", value(2, 4.0)).info.labels.len(), 17);
    let adapter = check("onelabel", |_, module| match module {
        "attention.self.value" | "intermediate.dense" => (1, 4.0),
        _ => (0, 0.0),
    });
    assert_eq!(
        (adapter.info.labels, adapter.info.problem_type),
        (vec!["similarity".into()], Some(ProblemType::Regression))
    );
    let adapter = check("pooler", |_, module| if module == "attention.self.query" { (2, 2.0) } else { (0, 0.0) });
    assert_eq!(adapter.weights.head["bert.pooler.dense.weight"].dims(), [32, 32]);
    assert_eq!(adapter.weights.head["bert.pooler.dense.bias"].dims(), [32]);
    assert_eq!(adapter.head_parameters(), 3 * 32 + 3 + 32 * 32 + 32);
}

#[test]
fn module_to_save_is_not_a_target_even_if_listed() {
    check("all_linear", |_, _| (1, 2.0));
}

fn copied(name: &str) -> tempfile::TempDir {
    let dir = tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn rewrite_config(dir: &std::path::Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("adapter_config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

fn ranks(dir: &std::path::Path) -> Vec<usize> {
    let adapter = read(dir, &layout(), &Device::Cpu).unwrap();
    (0..layout().len()).map(|i| adapter.rank(i)).collect()
}

#[test]
fn all_linear_and_look_around_work_as_in_python() {
    let dir = copied("all_linear");
    for pattern in [
        "all-linear",
        "All-Linear",
        r"bert\.(?!pooler).*(dense|query|key|value)",
        r".*(?<!pooler\.)(dense|query|key|value)",
    ] {
        rewrite_config(dir.path(), |config| config["target_modules"] = pattern.into());
        assert_eq!(ranks(dir.path()), [1; 18], "{pattern}");
    }
}

/// In `exclude_modules`, `all-linear` is a regex, which matches no name.
#[test]
fn all_linear_in_exclude_modules_excludes_nothing() {
    let dir = copied("all_linear");
    rewrite_config(dir.path(), |config| config["exclude_modules"] = "all-linear".into());
    assert_eq!(ranks(dir.path()), [1; 18]);
}

#[test]
fn absent_keys_have_pefts_defaults() {
    // r 8, alpha 8, query and value.
    let dir = copied("plain");
    std::fs::write(dir.path().join("adapter_config.json"), r#"{"peft_type": "LORA"}"#).unwrap();
    let mut tensors = raw_tensors(dir.path());
    tensors.retain(|name, _| !name.contains("intermediate"));
    for (name, (_, shape, bytes)) in &mut tensors {
        if name.contains("lora") {
            let rank = shape.iter_mut().min().unwrap();
            *rank = 8;
            *bytes = bytes.repeat(2);
        }
    }
    write_raw_tensors(dir.path(), &tensors);
    let adapter = read(dir.path(), &layout(), &Device::Cpu).unwrap();
    let (layout, deltas) = (layout(), adapter.weights.sites.iter().flatten().map(Change::delta).collect::<Vec<_>>());
    assert_eq!(deltas.len(), 2 * layout.layers);
    assert!(deltas.iter().all(|delta| delta.rank() == 8 && delta.scale == 1.0));
}

#[test]
fn layers_to_transform_as_a_number_and_a_target_by_full_name() {
    let dir = copied("layers");
    let mut tensors = raw_tensors(dir.path());
    tensors.retain(|name, _| !name.contains("layer.2.") || name.contains("layer.2.attention.self.key"));
    write_raw_tensors(dir.path(), &tensors);
    rewrite_config(dir.path(), |config| {
        config["layers_to_transform"] = 1.into();
        config["layers_pattern"] = serde_json::Value::Null;
        // A module that is listed by its full name is selected in any layer.
        config["target_modules"] =
            serde_json::json!(["query", "key", "output.dense", "bert.encoder.layer.2.attention.self.key"]);
    });
    let expected = [[0; 6], [2, 2, 0, 0, 0, 2], [0, 2, 0, 0, 0, 0]].concat();
    assert_eq!(ranks(dir.path()), expected);
}

/// Layer 0 is a layer also where a pattern names the layers.
#[test]
fn layers_to_transform_may_be_0() {
    let dir = copied("layers");
    let renamed = raw_tensors(dir.path()).into_iter().filter(|(name, _)| !name.contains("layer.2."));
    let tensors = renamed.map(|(name, tensor)| (name.replace("layer.1.", "layer.0."), tensor)).collect();
    write_raw_tensors(dir.path(), &tensors);
    rewrite_config(dir.path(), |config| {
        config["layers_to_transform"] = 0.into();
        config["layers_pattern"] = "layer".into();
    });
    assert_eq!(ranks(dir.path()), [[2, 2, 0, 0, 0, 2], [0; 6], [0; 6]].concat());
}

#[test]
fn reads_long_names_of_heads() {
    let dir = copied("pooler");
    let short = read(dir.path(), &layout(), &Device::Cpu).unwrap();
    let long = |name: String| {
        let name = name.replace("model.classifier.", "model.classifier.modules_to_save.default.");
        name.replace("bert.pooler.", "bert.pooler.modules_to_save.other.")
    };
    let tensors = raw_tensors(dir.path()).into_iter().map(|(name, tensor)| (long(name), tensor)).collect();
    write_raw_tensors(dir.path(), &tensors);
    let read = read(dir.path(), &layout(), &Device::Cpu).unwrap();
    assert_eq!(read.weights.head.len(), 4);
    for (name, tensor) in &short.weights.head {
        assert_eq!(bits(&read.weights.head[name]), bits(tensor), "{name}");
    }
}

#[test]
fn half_precision_becomes_f32() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let encode = |x: f32| match dtype {
            Dtype::F16 => f16::from_f32(x).to_le_bytes(),
            _ => bf16::from_f32(x).to_le_bytes(),
        };
        let rounded = |x: f32| match dtype {
            Dtype::F16 => f16::from_f32(x).to_f32(),
            _ => bf16::from_f32(x).to_f32(),
        };
        let dir = copied("plain");
        let mut tensors = raw_tensors(dir.path());
        for (to, _, bytes) in tensors.values_mut() {
            *to = dtype;
            *bytes = floats(bytes).into_iter().flat_map(encode).collect();
        }
        write_raw_tensors(dir.path(), &tensors);
        let full = read(&golden("plain"), &layout(), &Device::Cpu).unwrap();
        let half = read(dir.path(), &layout(), &Device::Cpu).unwrap();
        for (half, full) in half
            .weights
            .sites
            .iter()
            .flatten()
            .map(Change::delta)
            .zip(full.weights.sites.iter().flatten().map(Change::delta))
        {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (half, full) in [(&half.a, &full.a), (&half.b, &full.b)] {
                assert_eq!(values(half), values(full).into_iter().map(rounded).collect::<Vec<_>>());
            }
        }
        assert_eq!(half.weights.head["classifier.weight"].dtype(), DType::F32);
    }
}

#[test]
fn double_precision_becomes_f32() {
    let dir = copied("plain");
    let mut tensors = raw_tensors(dir.path());
    for (dtype, _, bytes) in tensors.values_mut() {
        *dtype = Dtype::F64;
        *bytes = floats(bytes).into_iter().flat_map(|x| f64::from(x).to_le_bytes()).collect();
    }
    write_raw_tensors(dir.path(), &tensors);
    let [double, single] = [dir.path(), &golden("plain")].map(|dir| read(dir, &layout(), &Device::Cpu).unwrap());
    for (double, single) in double
        .weights
        .sites
        .iter()
        .flatten()
        .map(Change::delta)
        .zip(single.weights.sites.iter().flatten().map(Change::delta))
    {
        assert_eq!((bits(&double.a), bits(&double.b)), (bits(&single.a), bits(&single.b)));
    }
    // Values beyond f32's range become infinite.
    let (_, _, bytes) = tensors.get_mut("base_model.model.classifier.bias").unwrap();
    bytes[..8].copy_from_slice(&1e300_f64.to_le_bytes());
    write_raw_tensors(dir.path(), &tensors);
    let error = read(dir.path(), &layout(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("classifier.bias: element 0 is inf"), "{error}");
}

#[test]
fn guesses_layout_from_the_tensors() {
    for name in ["plain", "ragged", "absent", "patterns", "layers", "bighead", "onelabel", "pooler", "all_linear"] {
        let mut guessed = layout_of(&golden(name)).unwrap();
        // If no linear of the feed-forward has a delta, its width is taken to be four times the hidden size, as in BERT.
        if ["bighead", "pooler"].contains(&name) {
            assert_eq!((guessed.modules[4].out_features, guessed.modules[5].in_features), (128, 128));
            (guessed.modules[4].out_features, guessed.modules[5].in_features) = (64, 64);
        }
        assert_eq!(guessed, layout(), "{name}");
        let (_, adapter) = peek(&golden(name)).unwrap();
        assert_eq!(adapter.bytes(), read(&golden(name), &layout(), &Device::Cpu).unwrap().bytes());
    }
}
