//! A base's folder: its configuration, its mapped weights and its fingerprint, and every error in its files.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use half::{bf16, f16};
use polyrank::base::{Base, BaseConfig, ModelError, Weights};
use polyrank::engine::Engine;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert")
}

/// A folder with a changed copy of the goldens' `config.json`.
fn configured(change: impl FnOnce(&mut Value)) -> TempDir {
    let mut config = serde_json::from_slice(&fs::read(golden().join("config.json")).unwrap()).unwrap();
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn reads_configuration() {
    let config = BaseConfig::read(&golden()).unwrap();
    let file: Value = serde_json::from_slice(&fs::read(golden().join("config.json")).unwrap()).unwrap();
    for (key, found) in [
        ("vocab_size", config.vocab_size),
        ("hidden_size", config.hidden_size),
        ("num_hidden_layers", config.num_hidden_layers),
        ("num_attention_heads", config.num_attention_heads),
        ("intermediate_size", config.intermediate_size),
        ("max_position_embeddings", config.max_position_embeddings),
        ("type_vocab_size", config.type_vocab_size),
    ] {
        assert_eq!(file[key], found, "{key}");
    }
    let least = configured(|config| {
        for key in ["hidden_act", "hidden_dropout_prob", "layer_norm_eps", "type_vocab_size", "pad_token_id"] {
            config.as_object_mut().unwrap().remove(key);
        }
    });
    let least = BaseConfig::read(least.path()).unwrap();
    assert_eq!((least.hidden_act.as_str(), least.hidden_dropout_prob, least.layer_norm_eps), ("gelu", 0.1, 1e-12));
    assert_eq!((least.type_vocab_size, least.pad_token_id, least.classifier_dropout), (2, None, None));
}

#[test]
fn errors_of_values_name_their_keys() {
    for (key, value) in
        [("hidden_size", json!("16")), ("type_vocab_size", json!(-1)), ("hidden_dropout_prob", json!([]))]
    {
        let dir = configured(|config| config[key] = value.clone());
        let error = BaseConfig::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("config.json: {key}: invalid")), "{error}");
    }
    let dir = configured(|config| config.as_object_mut().unwrap().retain(|key, _| key != "hidden_size"));
    let error = BaseConfig::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("missing field `hidden_size`"), "{error}");
    let rope = json!({"full_attention": {"rope_type": "yarn"}});
    let modern = json!({
        "model_type": "modernbert", "vocab_size": 1, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 8, "rope_parameters": rope,
    });
    let config = BaseConfig::parse(Path::new("config.json"), modern).unwrap();
    let error = polyrank::base::layout(&config).unwrap_err().to_string();
    assert!(error.contains("rope_parameters.full_attention.rope_type: unknown variant `yarn`"), "{error}");
    // Angles that do not say for which layers they are would be passed over.
    let flat = json!({
        "model_type": "modernbert", "vocab_size": 1, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 8, "rope_parameters": {"rope_theta": 5.0},
    });
    let config = BaseConfig::parse(Path::new("config.json"), flat).unwrap();
    let error = polyrank::base::layout(&config).unwrap_err().to_string();
    assert!(error.contains("rope_parameters.rope_theta: unknown field"), "{error}");
}

#[test]
fn refuses_unsupported_features_by_key() {
    for (key, value) in [
        ("model_type", json!("gpt2")),
        ("hidden_act", json!("gelu_new")),
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("is_causal", json!(true)),
    ] {
        let dir = configured(|config| config[key] = value.clone());
        match BaseConfig::read(dir.path()) {
            Err(ModelError::Unsupported { path, key: found, .. }) => {
                assert_eq!((path, found), (dir.path().join("config.json"), key));
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    // An unknown architecture is refused by its `model_type`, even if it has other keys.
    let dir = configured(|config| *config = json!({"model_type": "t5", "d_model": 8}));
    assert!(matches!(BaseConfig::read(dir.path()), Err(ModelError::Unsupported { key: "model_type", .. })));
}

#[test]
fn refuses_impossible_values_by_key() {
    for (key, value) in [
        ("vocab_size", json!(0)),
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(2_000_000)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(5)),
        ("intermediate_size", json!(1_u64 << 60)),
        ("max_position_embeddings", json!(0)),
        ("type_vocab_size", json!(0)),
        ("hidden_dropout_prob", json!(1.0)),
        ("attention_probs_dropout_prob", json!(-0.1)),
        ("classifier_dropout", json!(2)),
        ("layer_norm_eps", json!(0)),
    ] {
        let dir = configured(|config| config[key] = value.clone());
        match BaseConfig::read(dir.path()) {
            Err(ModelError::Value { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {other:?}"),
        }
    }
}

/// `transformers` accepts these spellings too, with the same meaning.
#[test]
fn reads_unusual_spellings_of_a_configuration() {
    let plain = BaseConfig::read(&golden()).unwrap();
    for (key, value) in [
        ("position_embedding_type", json!(null)),
        ("is_decoder", json!(null)),
        ("hidden_act", json!("gelu_python")),
        ("hidden_act", json!(null)),
        ("hidden_dropout_prob", json!(0)),
        ("classifier_dropout", json!(0)),
        ("type_vocab_size", json!(2.0)),
        ("hidden_size", json!(32.0)),
        ("pad_token_id", json!(-1)),
        ("pad_token_id", json!(null)),
        ("pad_token_id", json!(-5)),
        ("id2label", json!({"0": 1})),
        ("label2id", json!([])),
    ] {
        let dir = configured(|config| config[key] = value.clone());
        let found = BaseConfig::read(dir.path()).unwrap_or_else(|error| panic!("{key} {value}: {error}"));
        assert_eq!(
            (found.hidden_size, found.longest_text()),
            (plain.hidden_size, plain.longest_text()),
            "{key} {value}"
        );
    }
    let read = |config: Value| BaseConfig::read(configured(|file| *file = config).path());
    let deberta: Value =
        serde_json::from_slice(&fs::read(golden().join("../encoders/deberta/config.json")).unwrap()).unwrap();
    for key in ["conv_kernel_size", "pooler_hidden_size", "conv_act", "norm_rel_ebd"] {
        let mut config = deberta.clone();
        config[key] = json!(null);
        let config = read(config).unwrap();
        polyrank::base::layout(&config).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    // RoBERTa's positions start after `pad_token_id`. If that is -1, they start at 0.
    let roberta = |padding: i64| {
        let mut config: Value =
            serde_json::from_slice(&fs::read(golden().join("../encoders/roberta/config.json")).unwrap()).unwrap();
        config["pad_token_id"] = json!(padding);
        read(config)
    };
    assert_eq!((roberta(1).unwrap().longest_text(), roberta(-1).unwrap().longest_text()), (64, 66));
    match roberta(-2) {
        Err(ModelError::Value { key: "pad_token_id", found, .. }) => assert_eq!(found, "-2"),
        other => panic!("{other:?}"),
    }
}

/// An MPNet's file may leave out some keys, and `transformers` ignores some others.
#[test]
fn reads_mpnet_configuration() {
    let read = |config: Value| {
        let dir = configured(|file| *file = config);
        BaseConfig::read(dir.path()).unwrap()
    };
    let least = read(json!({"model_type": "mpnet"}));
    assert_eq!((least.vocab_size, least.hidden_size, least.intermediate_size), (30527, 768, 3072));
    assert_eq!((least.num_hidden_layers, least.num_attention_heads, least.type_vocab_size), (12, 12, 0));
    assert_eq!((least.layer_norm_eps, least.pad_token_id, least.longest_text()), (1e-12, Some(1), 510));
    let real = json!({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0});
    assert_eq!(read(real).longest_text(), 512);
    let golden = golden().join("../encoders/mpnet");
    let dir = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden.join(name), dir.path().join(name)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(golden.join("config.json")).unwrap()).unwrap();
    config["relative_attention_num_buckets"] = json!(31);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let error = Engine::open(dir.path(), &Device::Cpu).map(drop).unwrap_err().to_string();
    assert!(error.contains("relative_attention_num_buckets") && error.contains("32 or more"), "{error}");
}

/// Architectures have names of their own for BERT's keys. `transformers` prefers BERT's name of some, and ignores that of others.
#[test]
fn names_of_keys_win_as_in_transformers() {
    let read = |own: Value| {
        let mut config = own;
        config["vocab_size"] = json!(9);
        BaseConfig::parse(Path::new("config.json"), config).unwrap()
    };
    let both =
        read(json!({"model_type": "distilbert", "dim": 8, "n_heads": 4, "num_attention_heads": 2, "n_layers": 3,
                           "hidden_dim": 5, "intermediate_size": 7, "num_hidden_layers": null}));
    assert_eq!(
        (both.hidden_size, both.num_attention_heads, both.num_hidden_layers, both.intermediate_size),
        (8, 2, 3, 5)
    );
    let modern = json!({"model_type": "modernbert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                        "intermediate_size": 8, "layer_norm_eps": 0.01});
    assert_eq!(read(modern.clone()).layer_norm_eps, 1e-5);
    let mut own = modern;
    own["norm_eps"] = json!(0.1);
    assert_eq!(read(own).layer_norm_eps, 0.1);
}

/// Checkpoints of mmBERT name a kind of positions that ModernBERT, which has none in its embeddings, never reads.
#[test]
fn kinds_of_positions_matter_only_where_there_are_positions() {
    let golden = golden().join("../encoders/modernbert");
    let mut config: Value = serde_json::from_slice(&fs::read(golden.join("config.json")).unwrap()).unwrap();
    config["position_embedding_type"] = json!("sans_pos");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(BaseConfig::read(dir.path()).unwrap().longest_text(), 8192);
}

/// Stretched positions (RoPE scaling) are not supported. They are refused in each of their spellings.
#[test]
fn refuses_stretched_positions() {
    let golden = golden().join("../encoders/modernbert");
    let open = |change: &dyn Fn(&mut Value)| {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(golden.join(name), dir.path().join(name)).unwrap();
        }
        let mut config = serde_json::from_slice(&fs::read(golden.join("config.json")).unwrap()).unwrap();
        change(&mut config);
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        Engine::open(dir.path(), &Device::Cpu).map(drop).map_err(|error| error.to_string())
    };
    open(&|config| config["rope_scaling"] = Value::Null).unwrap();
    open(&|config| config["rope_scaling"] = json!({"rope_type": "default"})).unwrap();
    for key in ["type", "rope_type"] {
        let linear = json!({key: "linear", "factor": 4.0, "rope_theta": 160000.0});
        let own = |kind: &str| json!({"rope_parameters": {kind: linear}});
        for change in [json!({"rope_scaling": linear}), own("full_attention"), own("sliding_attention")] {
            let change = change.as_object().unwrap();
            let error = open(&|config| change.iter().for_each(|(key, value)| config[key] = value.clone()));
            assert!(error.as_ref().is_err_and(|error| error.contains("linear")), "{change:?}: {error:?}");
        }
    }
}

#[test]
fn refuses_malformed_configuration() {
    for change in [json!(null), json!([]), json!({"model_type": "bert"})] {
        let dir = configured(|config| *config = change);
        assert!(matches!(BaseConfig::read(dir.path()), Err(ModelError::Config { .. })));
    }
    for (key, value) in [("hidden_size", json!(-4)), ("vocab_size", json!("many")), ("hidden_size", json!(1.5))] {
        let dir = configured(|config| config[key] = value);
        assert!(matches!(BaseConfig::read(dir.path()), Err(ModelError::Config { .. })), "{key}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(BaseConfig::read(dir.path()), Err(ModelError::Io { .. })));
    fs::write(dir.path().join("config.json"), "{\"model_type\": \"bert\"").unwrap();
    assert!(matches!(BaseConfig::read(dir.path()), Err(ModelError::Config { .. })));
}

/// A tensor of a file: name, type, shape, bytes.
type Entry<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

fn write(path: &Path, entries: &[Entry]) {
    let views = entries
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.to_string(), TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-2.0..2.0)).collect()
}

fn bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn open(entries: &[Entry]) -> (TempDir, Weights) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    write(&path, entries);
    let weights = Weights::open(&path).unwrap();
    (dir, weights)
}

#[test]
fn f32_weights_are_mapped_and_not_copied() {
    let data = random(0, 6);
    let (_dir, weights) = open(&[("bert.encoder.w", Dtype::F32, &[2, 3], bytes(&data))]);
    let first = weights.parameter("bert.encoder.w", &[2, 3]).unwrap();
    assert_eq!((first.name(), first.shape(), first.slice().unwrap()), ("bert.encoder.w", &[2, 3][..], &data[..]));
    // Both slices are the same memory, so that no copy was made.
    let second = weights.parameter("bert.encoder.w", &[2, 3]).unwrap();
    assert_eq!(first.slice().unwrap().as_ptr(), second.slice().unwrap().as_ptr());
    assert!(first.device().is_cpu());
    assert_eq!(first.tensor().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), data);
    // The mapping outlives the file's name and the weights.
    drop((_dir, weights, second));
    assert_eq!(first.slice().unwrap(), data);
}

#[test]
fn other_precisions_and_misaligned_floats_are_converted() {
    let data = random(1, 8);
    let halves: Vec<u8> = data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let brains: Vec<u8> = data.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    let doubles: Vec<u8> = data.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
    let (_dir, weights) = open(&[
        ("half", Dtype::F16, &[8], halves),
        ("brain", Dtype::BF16, &[2, 4], brains),
        ("double", Dtype::F64, &[8], doubles),
    ]);
    assert_eq!(weights.parameter("double", &[8]).unwrap().slice().unwrap(), data);
    let expected: Vec<f32> = data.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
    assert_eq!(weights.parameter("half", &[8]).unwrap().slice().unwrap(), expected);
    let expected: Vec<f32> = data.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    assert_eq!(weights.parameter("brain", &[2, 4]).unwrap().slice().unwrap(), expected);

    // The header's length makes the data misaligned.
    let mut header = r#"{"w":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}"#.to_owned();
    while (header.len() + 8) % 4 != 1 {
        header.push(' ');
    }
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes(&data)].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, file).unwrap();
    let weights = Weights::open(&path).unwrap();
    assert_eq!(weights.parameter("w", &[8]).unwrap().slice().unwrap(), data);
}

#[test]
fn finds_names_without_prefix_and_with_old_names_of_norms() {
    let data = random(2, 4);
    let norm = "bert.encoder.layer.0.output.LayerNorm";
    for name in ["bert.encoder.layer.0.output.LayerNorm.gamma", "encoder.layer.0.output.LayerNorm.weight"] {
        let (_dir, weights) = open(&[(name, Dtype::F32, &[4], bytes(&data))]);
        assert!(weights.contains(&format!("{norm}.weight")), "{name}");
        assert!(!weights.contains(&format!("{norm}.bias")), "{name}");
        let found = weights.parameter(&format!("{norm}.weight"), &[4]).unwrap();
        assert_eq!((found.name(), found.slice().unwrap()), (&*format!("{norm}.weight"), &data[..]));
    }
    // Sentence encoders on MPNet are saved with these names.
    let (_dir, weights) = open(&[("encoder.relative_attention_bias.weight", Dtype::F32, &[4], bytes(&data))]);
    assert!(weights.contains("mpnet.encoder.relative_attention_bias.weight"));
    let (_dir, weights) = open(&[("encoder.layer.0.output.LayerNorm.beta", Dtype::F32, &[4], bytes(&data))]);
    assert_eq!(weights.find(&format!("{norm}.bias")).unwrap().shape, [4]);
}

#[test]
fn errors_name_tensors_that_do_not_fit() {
    let (dir, weights) = open(&[
        ("w", Dtype::F32, &[2, 3], bytes(&random(3, 6))),
        ("ids", Dtype::I64, &[1], vec![1; 8]),
        ("byte", Dtype::U8, &[1], vec![1]),
    ]);
    let file = dir.path().join("model.safetensors");
    match weights.parameter("bert.v", &[2, 3]) {
        Err(ModelError::MissingTensor { path, tensor }) => assert_eq!((path, &*tensor), (file, "bert.v")),
        other => panic!("{other:?}"),
    }
    match weights.parameter("w", &[3, 2]) {
        Err(ModelError::Shape { tensor, expected, found, .. }) => {
            assert_eq!((&*tensor, &expected[..], &found[..]), ("w", &[3, 2][..], &[2, 3][..]));
        }
        other => panic!("{other:?}"),
    }
    for (name, dtype) in [("ids", "I64"), ("byte", "U8")] {
        match weights.parameter(name, &[1]) {
            Err(ModelError::Dtype { tensor, found, .. }) => assert_eq!((&*tensor, &*found), (name, dtype)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn refuses_malformed_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    assert!(matches!(Weights::open(&path), Err(ModelError::Io { .. })));
    assert!(Weights::open(dir.path()).is_err());
    let whole = fs::read(golden().join("model.safetensors")).unwrap();
    let headed = |length: u64, header: &str| [&length.to_le_bytes()[..], header.as_bytes()].concat();
    let overflow = r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}"#;
    let outside = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[1152921504606846976,1152921504606846980]}}"#;
    for file in [
        vec![],
        vec![1, 2, 3],
        headed(1 << 60, "{}"),
        headed(u64::MAX, "{}"),
        headed(2, "[]"),
        headed(9, "{}"),
        headed(overflow.len() as u64, overflow),
        headed(outside.len() as u64, outside),
        whole[..whole.len() - 1].to_vec(),
        whole[..100].to_vec(),
        [&whole[..], &[0]].concat(),
    ] {
        fs::write(&path, &file).unwrap();
        match Weights::open(&path) {
            Err(ModelError::Header { path: found, .. }) => assert_eq!(found, path),
            other => panic!("{} bytes: {other:?}", file.len()),
        }
    }
}

/// Otherwise it would depend on chance which of the two is read.
#[test]
fn refuses_tensors_that_are_there_twice() {
    let (dir, entry) = (tempfile::tempdir().unwrap(), |name| (name, Dtype::F32, &[4][..], bytes(&random(3, 4))));
    let path = dir.path().join("model.safetensors");
    for twice in
        ["embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma", "roberta.embeddings.LayerNorm.weight"]
    {
        write(&path, &[entry("bert.embeddings.LayerNorm.weight"), entry(twice)]);
        match Weights::open(&path) {
            Err(ModelError::Duplicate { tensor, .. }) => assert_eq!(tensor, "embeddings.LayerNorm.weight"),
            other => panic!("{twice}: {other:?}"),
        }
    }
}

/// A folder with the goldens' configuration and these weights.
fn base(entries: &[Entry]) -> (TempDir, Base) {
    let dir = configured(|_| {});
    write(&dir.path().join("model.safetensors"), entries);
    let base = Base::open(dir.path()).unwrap();
    (dir, base)
}

#[test]
fn fingerprint_depends_only_on_the_encoder() {
    let (table, weight, bias) = (bytes(&random(4, 12)), bytes(&random(5, 4)), bytes(&random(6, 4)));
    let fingerprint = |entries: &[Entry]| base(entries).1.fingerprint().to_owned();
    let plain = fingerprint(&[
        ("bert.embeddings.word_embeddings.weight", Dtype::F32, &[3, 4], table.clone()),
        ("bert.encoder.layer.0.output.LayerNorm.weight", Dtype::F32, &[4], weight.clone()),
        ("bert.encoder.layer.0.output.LayerNorm.bias", Dtype::F32, &[4], bias.clone()),
    ]);
    assert_eq!(plain.len(), "sha256:".len() + 64);
    let bare = fingerprint(&[
        ("encoder.layer.0.output.LayerNorm.beta", Dtype::F32, &[4], bias.clone()),
        ("encoder.layer.0.output.LayerNorm.gamma", Dtype::F32, &[4], weight.clone()),
        ("embeddings.word_embeddings.weight", Dtype::F32, &[3, 4], table.clone()),
        ("embeddings.position_ids", Dtype::I64, &[1, 1], vec![0; 8]),
        ("pooler.dense.weight", Dtype::F32, &[4], bytes(&random(7, 4))),
        ("classifier.bias", Dtype::F32, &[4], bytes(&random(8, 4))),
        ("cls.predictions.bias", Dtype::F32, &[4], bytes(&random(9, 4))),
    ]);
    assert_eq!(plain, bare);
    let norm = |weight: &Vec<u8>, bias: &Vec<u8>, shape: &[usize]| {
        fingerprint(&[
            ("embeddings.word_embeddings.weight", Dtype::F32, shape, table.clone()),
            ("encoder.layer.0.output.LayerNorm.weight", Dtype::F32, &[4], weight.clone()),
            ("encoder.layer.0.output.LayerNorm.bias", Dtype::F32, &[4], bias.clone()),
        ])
    };
    assert_eq!(norm(&weight, &bias, &[3, 4]), plain);
    assert_ne!(norm(&bias, &weight, &[3, 4]), plain);
    assert_ne!(norm(&weight, &bias, &[4, 3]), plain);
}

/// Adapters record the fingerprint, so that it must not change between versions.
#[test]
fn fingerprint_of_the_goldens_never_changes() {
    let base = Base::open(&golden()).unwrap();
    assert_eq!(base.fingerprint(), "sha256:c68e0511957c58acae57cc2f605bb32ad4ed51b3d704cc74b69c872ec5c7cf12");
}
