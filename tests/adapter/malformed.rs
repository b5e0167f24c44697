//! Each kind of malformed file gives its own error, which names the values at fault.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use polyrank::adapter::{Adapter, AdapterError, Change, ProblemType, layout_of, read, summary};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::{Raw, f32_bytes, golden, layout, raw_tensors, write_raw_tensors};

const QUERY_A: &str = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.weight";
const QUERY_B: &str = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_B.weight";
const CLASSIFIER: &str = "base_model.model.classifier.weight";
const FILES: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "config.json"];

/// A copy of an adapter that PEFT wrote, for a test to damage.
struct Spoilt(TempDir);

impl Spoilt {
    fn new(name: &str) -> Self {
        let dir = tempdir().unwrap();
        for file in FILES.iter().filter(|file| golden(name).join(file).exists()) {
            std::fs::copy(golden(name).join(file), dir.path().join(file)).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn json(self, file: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let mut value = serde_json::from_slice(&std::fs::read(self.path().join(file)).unwrap()).unwrap();
        edit(&mut value);
        std::fs::write(self.path().join(file), value.to_string()).unwrap();
        self
    }

    fn config(self, key: &str, value: Value) -> Self {
        self.json("adapter_config.json", |config| config[key] = value)
    }

    fn tensors(self, edit: impl FnOnce(&mut BTreeMap<String, Raw>)) -> Self {
        let mut tensors = raw_tensors(self.path());
        edit(&mut tensors);
        write_raw_tensors(self.path(), &tensors);
        self
    }

    fn bytes(self, file: &str, edit: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = std::fs::read(self.path().join(file)).unwrap();
        edit(&mut bytes);
        std::fs::write(self.path().join(file), bytes).unwrap();
        self
    }

    fn read(&self) -> Result<Adapter, AdapterError> {
        read(self.path(), &layout(), &Device::Cpu)
    }

    fn error(&self) -> AdapterError {
        self.read().expect_err("a malformed adapter was read")
    }

    /// Expects an error about a malformed `file` whose reason contains `words`.
    #[track_caller]
    fn malformed(&self, file: &str, words: &[&str]) {
        let error = self.error();
        let AdapterError::Malformed { file: named, reason } = &error else { panic!("{error:?}") };
        assert!(named.ends_with(file), "{error}");
        assert!(words.iter().all(|word| reason.contains(word)), "{reason} has not all of {words:?}");
        assert!(error.to_string().contains(file));
    }

    #[track_caller]
    fn unsupported(&self, expected: &str, value: &str) {
        let error = self.error();
        let AdapterError::Unsupported { file, key, found } = &error else { panic!("{error:?}") };
        assert!(file.ends_with("adapter_config.json"));
        assert_eq!((key.as_str(), found.as_str()), (expected, value));
    }
}

fn plain() -> Spoilt {
    Spoilt::new("plain")
}

#[test]
fn errors_name_unsupported_features() {
    let features = [
        ("peft_type", json!("IA3")),
        ("peft_type", json!("ADALORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 2], [1, 3]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("alora_invocation_string", json!("go")),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("target_parameters", json!(["x"])),
        ("trainable_token_indices", json!([5])),
        ("arrow_config", json!({"top_k": 3})),
        ("kasa_config", json!({"beta": 1e-4})),
        ("monteclora_config", json!({"samples": 3})),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("OLoRA")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
    ];
    for (key, value) in features {
        plain().config(key, value.clone()).unsupported(key, &value.to_string());
    }
    // These features are switched off, or do not matter once an adapter is trained.
    for (key, value) in [
        ("use_dora", json!(null)),
        ("layer_replication", json!([])),
        ("trainable_token_indices", json!(null)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!(false)),
        ("task_type", json!(null)),
        ("a_key_of_the_future", json!({"x": 1})),
    ] {
        assert!(plain().config(key, value).read().is_ok(), "{key}");
    }
}

#[test]
fn errors_name_targets_that_are_not_sites() {
    let targets = |value| plain().config("target_modules", value);
    targets(json!(["query", "dense"])).unsupported("target_modules", "bert.pooler.dense");
    targets(json!(".*dense")).unsupported("target_modules", "bert.pooler.dense");
    targets(json!("all-linear")).unsupported("target_modules", "bert.pooler.dense");
    let table = "bert.embeddings.word_embeddings";
    targets(json!(["query", "word_embeddings"])).unsupported("target_modules", table);
    targets(json!(["q_proj", "wquery"])).malformed("adapter_config.json", &["target_modules"]);
    targets(json!([])).malformed("adapter_config.json", &["target_modules"]);
    // PEFT writes such tensors where the task type is not SEQ_CLS, and then no classifier.
    let of_classifier = plain().tensors(|tensors| {
        let weight = tensors.remove("base_model.model.classifier.weight").unwrap();
        tensors.insert("base_model.model.classifier.lora_A.weight".into(), weight.clone());
        tensors.insert("base_model.model.classifier.lora_B.weight".into(), weight);
    });
    of_classifier.unsupported("target_modules", "classifier");
    let error = layout_of(of_classifier.path()).unwrap_err();
    assert!(matches!(&error, AdapterError::Unsupported { found, .. } if found == "classifier"), "{error}");
    // Names of other architectures among the targets are ignored, as in PEFT.
    assert!(targets(json!(["query", "value", "intermediate.dense", "q_proj"])).read().is_ok());
}

#[test]
fn malformed_configurations() {
    let file = "adapter_config.json";
    let config = |key, value| plain().config(key, value);
    config("peft_type", json!(null)).malformed(file, &["peft_type is missing"]);
    config("r", json!(0)).malformed(file, &["layer.0.attention.self.query", "rank of 1 or more", "found 0"]);
    config("rank_pattern", json!({"query": 0})).malformed(file, &["query", "found 0"]);
    config("rank_pattern", json!({"query": 2.5})).malformed(file, &["found 2.5"]);
    config("rank_pattern", json!({"query": -3})).malformed(file, &["found -3"]);
    config("rank_pattern", json!({"query": "4"})).malformed(file, &["rank_pattern", "query", "\"4\""]);
    config("rank_pattern", json!([1])).malformed(file, &["rank_pattern = [1]"]);
    config("r", json!(-1)).malformed(file, &["r = -1"]);
    config("r", json!("8")).malformed(file, &["r = \"8\""]);
    config("lora_alpha", json!("x")).malformed(file, &["lora_alpha"]);
    config("lora_alpha", json!(1e300)).malformed(file, &["finite scale"]);
    config("use_rslora", json!(3)).malformed(file, &["use_rslora = 3"]);
    config("target_modules", json!(3)).malformed(file, &["target_modules = 3", "a list of strings"]);
    config("target_modules", json!("(query")).malformed(file, &["target_modules", "(query"]);
    config("exclude_modules", json!("[")).malformed(file, &["exclude_modules"]);
    config("rank_pattern", json!({"(": 4})).malformed(file, &["rank_pattern"]);
    config("modules_to_save", json!(["("])).malformed(file, &["modules_to_save"]);
    // What a hostile file asks for is bounded: the number of patterns, and the memory and time of each.
    let many: Vec<String> = (0..65).map(|i| format!("x{i}.")).collect();
    config("modules_to_save", json!(many)).malformed(file, &["modules_to_save", "at most 64 patterns", "found 65"]);
    let many = many.iter().map(|name| (format!("{name}+"), json!(4))).collect::<serde_json::Map<_, _>>();
    config("rank_pattern", json!(many)).malformed(file, &["rank_pattern", "at most 64 patterns"]);
    config("modules_to_save", json!([r"\w{150}N{150}\w{150}"])).malformed(file, &["modules_to_save"]);
    // Python takes these for plain characters.
    for (pattern, found) in [("[a-z--q]uery", "--"), ("[[:alpha:]]+", "["), ("[^&&q]uery", "&&"), (r"\[]q[~~]", "~~")] {
        config("alpha_pattern", json!({pattern: 4}))
            .malformed(file, &["alpha_pattern", &format!("{found} inside of [...]")]);
    }
    config("layers_pattern", json!("layer")).malformed(file, &["layers_pattern without layers_to_transform"]);
    // A backtracking matcher needs exponential time for this pattern, and gives up.
    let endless = r"(?=(b|be|r|er|t|rt|.)*$)((.*)*)*\1\1\1x";
    config("target_modules", json!(endless)).malformed(file, &["target_modules"]);
    for key in ["layers_to_transform", "layers_pattern"] {
        let spoilt = config("target_modules", json!(".*query"));
        spoilt.config(key, json!(["1"])).malformed(file, &[key]);
        // Layer 0 and an empty list are values, too.
        for value in [json!(0), json!([])] {
            let spoilt = config("target_modules", json!(".*query"));
            spoilt.config(key, value).malformed(file, &[key]);
        }
    }
    let long = |bytes: &mut Vec<u8>| {
        let mut config: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        config["id2label"]["0"] = json!("x".repeat(2 << 20));
        *bytes = config.to_string().into_bytes();
    };
    Spoilt::new("ragged").bytes("config.json", long).malformed("config.json", &["labels", "at most 1048576 bytes"]);
    plain().bytes(file, |bytes| bytes.truncate(40)).malformed(file, &["EOF"]);
    plain().bytes(file, |bytes| *bytes = b"[]".to_vec()).malformed(file, &["expected a map"]);
    plain().bytes(file, |bytes| bytes.resize(5 << 20, b' ')).malformed(file, &["at most 4194304 bytes, found 5242880"]);
}

#[test]
fn errors_name_missing_files() {
    for file in FILES {
        let spoilt = Spoilt::new("ragged");
        std::fs::remove_file(spoilt.path().join(file)).unwrap();
        match (file, spoilt.read()) {
            ("config.json", adapter) => assert_eq!(adapter.unwrap().info.labels, ["LABEL_0", "LABEL_1", "LABEL_2"]),
            (_, Err(AdapterError::Io { file: named, source })) => {
                assert!(named.ends_with(file) && source.kind() == std::io::ErrorKind::NotFound);
            }
            (_, other) => panic!("{other:?}"),
        }
        std::fs::create_dir(spoilt.path().join(file)).unwrap();
        spoilt.malformed(file, &["not a regular file"]);
    }
}

#[test]
fn labels_that_do_not_fit_the_head() {
    let labels = |edit: fn(&mut Value)| Spoilt::new("ragged").json("config.json", edit);
    let expected = "expected ids 0 to 2";
    labels(|c| c["id2label"] = json!({"0": "a", "1": "b"}))
        .malformed("config.json", &["id2label", expected, "found 2"]);
    labels(|c| c["id2label"] = json!({"0": "a", "1": "b", "3": "c"})).malformed("config.json", &[expected, "last 3"]);
    labels(|c| c["id2label"] = json!({})).malformed("config.json", &[expected, "found 0"]);
    labels(|c| c["id2label"] = json!({"x": "a"})).malformed("config.json", &["x"]);
    // Two scores under one name could not be told apart.
    labels(|c| c["id2label"] = json!({"0": "a", "1": "b", "2": "a"}))
        .malformed("config.json", &["id2label", "a different name for each id", "\"a\" for both 0 and 2"]);
    labels(|c| c["id2label"] = json!({"0": 1, "1": "1", "2": "a"}))
        .malformed("config.json", &["\"1\" for both 0 and 1"]);
    labels(|c| c["problem_type"] = json!("guessing")).malformed("config.json", &["guessing"]);
    let spoilt = labels(|c| {
        c["id2label"] = json!(null);
        c["label2id"] = json!({"b": 1, "c": 2, "a": 0});
    });
    assert_eq!(spoilt.read().unwrap().info.labels, ["a", "b", "c"]);
    labels(|c| {
        c["id2label"] = json!(null);
        c["label2id"] = json!({"a": 0});
    })
    .malformed("config.json", &["label2id", "found 1"]);
}

/// Names and ids may be scalars of any type, and keys that are not needed are not read.
#[test]
fn reads_label_maps_of_other_types() {
    let named = |edit: Value| {
        let spoilt = Spoilt::new("ragged").json("config.json", |config| {
            config.as_object_mut().unwrap().remove("label2id");
            edit.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        });
        spoilt.read().unwrap_or_else(|error| panic!("{edit}: {error}")).info.labels
    };
    assert_eq!(named(json!({"id2label": {"0": 0, "1": 1, "2": 2}})), ["0", "1", "2"]);
    assert_eq!(named(json!({"id2label": {"0": 1.0, "2": true, "1": 0.5}})), ["1", "0.5", "true"]);
    let good = json!({"0": "a", "1": "b", "2": "c"});
    for unused in [json!({"a": "0"}), json!({"a": [1]}), json!({"a": -1}), json!([]), json!("x"), json!(null)] {
        assert_eq!(named(json!({"id2label": good, "label2id": unused})), ["a", "b", "c"]);
    }
    for ids in
        [json!({"a": "0", "c": "2", "b": "1"}), json!({"a": 0.0, "b": 1.0, "c": 2}), json!({"c": " 2", "b": 1, "a": 0})]
    {
        assert_eq!(named(json!({"id2label": null, "label2id": ids})), ["a", "b", "c"]);
    }
    assert_eq!(named(json!({"id2label": null, "problem_type": null, "polyrank": null, "torch_dtype": [3]})).len(), 3);
    let refused = |edit: Value, words: &[&str]| {
        let spoilt = Spoilt::new("ragged").json("config.json", |config| {
            edit.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        });
        spoilt.malformed("config.json", words);
    };
    refused(json!({"id2label": {"0": null, "1": "b", "2": "c"}}), &["id2label", "\"0\"", "null"]);
    refused(json!({"id2label": {"0": ["a"], "1": "b", "2": "c"}}), &["id2label", "[\"a\"]"]);
    refused(json!({"id2label": ["a", "b", "c"]}), &["id2label"]);
    refused(json!({"id2label": null, "label2id": {"a": 0.5}}), &["label2id", "\"a\"", "0.5"]);
    refused(json!({"id2label": null, "label2id": {"a": "first"}}), &["label2id", "first"]);
    refused(json!({"id2label": null, "label2id": ["a"]}), &["label2id"]);
    refused(json!({"polyrank": {"base_fingerprint": 3}}), &["polyrank"]);
}

/// Python may write whole numbers with a point and booleans as numbers, and null means PEFT's default.
#[test]
fn reads_unusual_spellings_of_a_configuration() {
    let bits = |adapter: &Adapter| {
        let scales = adapter
            .weights
            .sites
            .iter()
            .flatten()
            .map(Change::delta)
            .map(|delta| (delta.rank(), delta.scale.to_bits()));
        scales.collect::<Vec<_>>()
    };
    let expected = bits(&plain().read().unwrap());
    for (key, value) in [
        ("r", json!(4.0)),
        ("lora_alpha", json!(8.0)),
        ("rank_pattern", json!(null)),
        ("rank_pattern", json!({"query": 4.0})),
        ("alpha_pattern", json!(null)),
        ("modules_to_save", json!(null)),
        ("layers_to_transform", json!(null)),
        ("layers_to_transform", json!([0.0, 1, 2])),
        ("layers_pattern", json!(null)),
        ("exclude_modules", json!(null)),
        ("use_rslora", json!(null)),
        ("use_rslora", json!(0)),
        ("use_dora", json!(0)),
        ("fan_in_fan_out", json!(0)),
        ("fan_in_fan_out", json!(true)),
        ("fan_in_fan_out", json!(null)),
        ("bias", json!(null)),
        ("init_lora_weights", json!(null)),
        ("inference_mode", json!("yes")),
        ("lora_dropout", json!(null)),
        ("base_model_name_or_path", json!(null)),
        ("base_model_name_or_path", json!(3)),
        ("revision", json!(1.5)),
    ] {
        let read = plain().config(key, value.clone()).read();
        assert_eq!(bits(&read.unwrap_or_else(|error| panic!("{key} {value}: {error}"))), expected, "{key} {value}");
    }
    let rslora = plain().config("use_rslora", json!(1)).read().unwrap();
    assert_eq!(rslora.weights.sites.iter().flatten().map(Change::delta).next().unwrap().scale, 8.0 / 2.0);
    plain().config("r", json!(4.5)).malformed("adapter_config.json", &["r = 4.5"]);
    plain().config("use_dora", json!(1)).unsupported("use_dora", "1");
    plain().config("fan_in_fan_out", json!(1)).unsupported("fan_in_fan_out", "1");
}

#[test]
fn reads_the_fingerprint() {
    let spoilt = plain();
    let config = json!({"polyrank": {"base_fingerprint": "sha256:12", "layers": 3}});
    std::fs::write(spoilt.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(spoilt.read().unwrap().info.base_fingerprint.as_deref(), Some("sha256:12"));
}

#[test]
fn errors_name_missing_tensors() {
    for name in [QUERY_A, QUERY_B, CLASSIFIER, "base_model.model.classifier.bias"] {
        let spoilt = plain().tensors(|tensors| drop(tensors.remove(name)));
        assert!(matches!(spoilt.error(), AdapterError::MissingTensor { tensor, .. } if tensor == name));
    }
    // A pooler without its bias, and a pooler that the configuration lists but the file lacks.
    let bias = "base_model.model.bert.pooler.dense.bias";
    let spoilt =
        Spoilt::new("pooler").config("modules_to_save", json!(null)).tensors(|tensors| drop(tensors.remove(bias)));
    assert!(matches!(spoilt.error(), AdapterError::MissingTensor { tensor, .. } if tensor == bias));
    let spoilt = plain().config("modules_to_save", json!(["classifier", "pooler"]));
    let weight = "base_model.model.bert.pooler.dense.weight";
    assert!(matches!(spoilt.error(), AdapterError::MissingTensor { tensor, .. } if tensor == weight));
}

#[test]
fn errors_name_unexpected_tensors() {
    let extra = [
        "base_model.model.bert.encoder.layer.1.attention.self.key.lora_A.weight",
        "base_model.model.bert.encoder.layer.7.attention.self.query.lora_A.weight",
        "base_model.model.bert.encoder.layer.1.attention.self.query.lora_magnitude_vector",
        "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A",
        "classifier.weight",
    ];
    for name in extra {
        let tensor = (Dtype::F32, vec![4, 32], f32_bytes(&[0.5; 128]));
        let spoilt = plain().tensors(|tensors| drop(tensors.insert(name.into(), tensor)));
        let error = spoilt.error();
        assert!(matches!(&error, AdapterError::UnexpectedTensor { tensor, .. } if tensor == name), "{error}");
    }
    let spoilt = plain().tensors(|tensors| {
        let twin = tensors[CLASSIFIER].clone();
        tensors.insert(CLASSIFIER.replace("classifier.", "classifier.modules_to_save.default."), twin);
    });
    spoilt.malformed("adapter_model.safetensors", &["two names", CLASSIFIER]);
}

/// `get_peft_model_state_dict` of a model that `inject_adapter_in_model` changed has names without PEFT's prefix. `state_dict()` of a PEFT
/// model has the adapter's name in them.
#[test]
fn error_on_a_state_dict_says_how_to_save_an_adapter() {
    type Rename = fn(&str) -> String;
    let renames: [Rename; 3] = [
        |name| name.replace("base_model.model.", ""),
        |name| name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        |name| format!("module.{}", name.replace(".lora_A.", ".lora_A.default.")),
    ];
    for rename in renames {
        let renamed = plain().tensors(|tensors| {
            *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        });
        for error in
            [renamed.error(), layout_of(renamed.path()).unwrap_err(), summary(renamed.path(), &layout()).unwrap_err()]
        {
            let AdapterError::StateDict { tensor, .. } = &error else { panic!("{error:?}") };
            assert!(tensor.contains("lora_A"), "{error}");
            let told = error.to_string();
            assert!(
                ["base_model.model.MODULE.lora_A.weight", "save_pretrained"].iter().all(|word| told.contains(word)),
                "{told}"
            );
        }
    }
}

/// PEFT can train and save any module in full. Here this is supported for heads only.
#[test]
fn error_names_module_to_save_that_is_not_a_head() {
    let saved = |modules: Value, tensor: &str| {
        let raw = (Dtype::F32, vec![32], f32_bytes(&[0.5; 32]));
        plain().config("modules_to_save", modules).tensors(|tensors| drop(tensors.insert(tensor.into(), raw)))
    };
    let norm = "base_model.model.bert.embeddings.LayerNorm.weight";
    let modules = json!(["classifier", "embeddings.LayerNorm"]);
    saved(modules, norm).unsupported("modules_to_save", "bert.embeddings.LayerNorm");
    saved(json!(null), "base_model.model.score.weight").unsupported("modules_to_save", "score");
    let error = saved(json!(["classifier"]), norm).error();
    assert!(matches!(&error, AdapterError::UnexpectedTensor { tensor, .. } if tensor == norm), "{error}");
}

#[test]
fn shape_errors_give_tensor_expected_and_found() {
    let shape = |spoilt: Spoilt, name: &str, wanted: &str, got: &[usize]| {
        let error = spoilt.error();
        let AdapterError::Shape { tensor, expected, found, .. } = &error else { panic!("{error:?}") };
        assert_eq!((tensor.as_str(), expected.as_str(), found.as_slice()), (name, wanted, got));
    };
    let reshaped = |name: &'static str, to: &[usize]| {
        let (to, size) = (to.to_vec(), to.iter().product());
        plain().tensors(|tensors| drop(tensors.insert(name.into(), (Dtype::F32, to, f32_bytes(&vec![0.5; size])))))
    };
    shape(reshaped(QUERY_A, &[4, 31]), QUERY_A, "[4, 32]", &[4, 31]);
    shape(reshaped(QUERY_A, &[32, 4]), QUERY_A, "[4, 32]", &[32, 4]);
    shape(reshaped(QUERY_A, &[128]), QUERY_A, "[4, 32]", &[128]);
    shape(reshaped(QUERY_A, &[0, 32]), QUERY_A, "[4, 32]", &[0, 32]);
    shape(reshaped(QUERY_B, &[32, 3]), QUERY_B, "[32, 4]", &[32, 3]);
    shape(reshaped(CLASSIFIER, &[2, 33]), CLASSIFIER, "[labels, 32]", &[2, 33]);
    shape(reshaped(CLASSIFIER, &[0, 32]), CLASSIFIER, "[labels, 32]", &[0, 32]);
    shape(reshaped(CLASSIFIER, &[64]), CLASSIFIER, "[labels, 32]", &[64]);
    let bias = "base_model.model.classifier.bias";
    shape(reshaped(bias, &[3]), bias, "[2]", &[3]);
    // The configuration's rank differs from the tensor's.
    let query_0 = QUERY_A.replace("layer.1", "layer.0");
    shape(plain().config("rank_pattern", json!({"query": 5})), &query_0, "[5, 32]", &[4, 32]);
    let most = usize::MAX >> 11;
    shape(plain().config("r", json!(most)), &query_0, &format!("[{}, 32]", most as f64 as usize), &[4, 32]);
}

#[test]
fn errors_name_elements_that_are_not_finite() {
    for (name, bad) in [(QUERY_B, f32::NAN), (QUERY_A, f32::INFINITY), (CLASSIFIER, f32::NEG_INFINITY)] {
        let spoilt = plain().tensors(|tensors| {
            tensors.get_mut(name).unwrap().2[4 * 17..4 * 18].copy_from_slice(&bad.to_le_bytes());
        });
        let error = spoilt.error();
        let AdapterError::NotFinite { tensor, index, found, .. } = &error else { panic!("{error:?}") };
        assert_eq!((tensor.as_str(), *index, found.to_bits()), (name, 17, bad.to_bits()));
    }
    let spoilt = plain().tensors(|tensors| tensors.get_mut(QUERY_A).unwrap().0 = Dtype::I32);
    spoilt.malformed("adapter_model.safetensors", &[QUERY_A, "f32, f16 or bf16", "I32"]);
}

#[test]
fn refuses_truncated_weights_and_false_sizes() {
    let file = "adapter_model.safetensors";
    let weights = |edit: &dyn Fn(&mut Vec<u8>)| plain().bytes(file, edit);
    let size = std::fs::metadata(golden("plain").join(file)).unwrap().len() as usize;
    for length in [0, 7, 8, 100, size / 2, size - 1] {
        weights(&|bytes| bytes.truncate(length)).malformed(file, &["not a safetensors file"]);
    }
    weights(&|bytes| bytes.push(0)).malformed(file, &["not a safetensors file"]);
    for header in [0, 1, u64::MAX, 1 << 62, 99_999_999] {
        weights(&|bytes| bytes[..8].copy_from_slice(&header.to_le_bytes()))
            .malformed(file, &["not a safetensors file"]);
    }
    // A file of 100 bytes claims a tensor larger than memory, and another claims one whose size overflows.
    for (shape, end) in [("[1099511627776,1099511627776]", 0), ("[1099511627776]", 4u64 << 40), ("[4]", 15)] {
        let header = format!(r#"{{"{QUERY_A}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[1; 16]].concat();
        weights(&|file| file.clone_from(&bytes)).malformed(file, &["not a safetensors file"]);
    }
}

#[test]
fn guessing_a_layout_refuses_unknown_tensors() {
    let renamed = |from: &str, to: &str| {
        plain().tensors(|tensors| {
            *tensors = std::mem::take(tensors).into_iter().map(|(name, raw)| (name.replace(from, to), raw)).collect();
        })
    };
    for (from, to, word) in [
        ("model.bert.", "model.albert.", "architecture that is served"),
        ("layer.2.", "layer.1099511627776.", "layer below 1024"),
        ("classifier.", "score.", "classifier"),
    ] {
        let error = layout_of(renamed(from, to).path()).unwrap_err();
        assert!(matches!(&error, AdapterError::Malformed { reason, .. } if reason.contains(word)), "{error}");
    }
    // A square of such a width would be allocated.
    let wide = plain().tensors(|tensors| {
        let (dtype, _, _) = tensors["base_model.model.classifier.weight"].clone();
        tensors
            .insert("base_model.model.classifier.weight".into(), (dtype, vec![1, 20_000], f32_bytes(&[0.5; 20_000])));
    });
    let error = layout_of(wide.path()).unwrap_err().to_string();
    assert!(error.contains("expected a classifier of at most 16384 columns, found 20000"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// With any damage to any file, reading gives a complete adapter or an error, and never panics.
    #[test]
    fn damage_never_panics(
        which in 0..3usize, cut in any::<prop::sample::Index>(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), truncate: bool,
    ) {
        let spoilt = Spoilt::new("ragged").bytes(FILES[which], |bytes| {
            // Damage in headers has the most effects, so that half of the changed bytes are there.
            let near = bytes.len().min(2048);
            for (i, (at, byte)) in hits.iter().enumerate() {
                let at = at.index(if i % 2 == 0 { near } else { bytes.len() });
                bytes[at] = *byte;
            }
            if truncate {
                bytes.truncate(cut.index(bytes.len()));
            }
        });
        if let Ok(adapter) = spoilt.read() {
            prop_assert_eq!(adapter.info.labels.len(), adapter.weights.head["classifier.bias"].elem_count());
        }
        let _ = layout_of(spoilt.path());
    }
}

/// The listing of a folder reads only heads of files, whose sizes anybody may have made up.
#[test]
fn head_that_cannot_lie_in_its_file_is_refused_without_its_tensors() {
    let layout = layout();
    let golden = summary(&golden("ragged"), &layout).unwrap();
    assert_eq!(golden.problem_type, Some(ProblemType::SingleLabelClassification));
    for outputs in [golden.labels.len() + 1_000_000, 4_000_000_000_000_000, 1_000_000_000_000_000_000, usize::MAX] {
        let header = json!({CLASSIFIER: {"dtype": "F32", "shape": [outputs, layout.hidden], "data_offsets": [0, 0]}});
        let header = header.to_string();
        let spoilt = Spoilt::new("ragged").bytes("adapter_model.safetensors", |bytes| {
            *bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        });
        std::fs::remove_file(spoilt.path().join("config.json")).unwrap();
        let error = summary(spoilt.path(), &layout).unwrap_err().to_string();
        assert!(error.contains("cannot lie in") && error.contains(&outputs.to_string()), "{error}");
    }
}
