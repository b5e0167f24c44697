//! Bases in older formats are converted once, into the cache. `goldens/make_legacy.py` made the bases and the expected token ids.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use polyrank::base::{Base, BaseConfig, ModelError, Sources};
use polyrank::engine::Engine;
use polyrank::text::{Limit, TokenizeError, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/legacy").join(name)
}

fn sources(home: &TempDir) -> Sources {
    Sources {
        home: home.path().to_owned(),
        endpoint: "http://127.0.0.1:9".to_owned(),
        token: None,
        offline: true,
        pip: None,
    }
}

/// A copy of a golden, which a test may change.
fn copy(name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

/// A copy of a golden's configuration and weights.
fn without_tokenizer(name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden(name).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn ensure(home: &TempDir, dir: &Path) -> Result<PathBuf, ModelError> {
    sources(home).ensure(dir.to_str().unwrap(), &())
}

#[test]
fn tokenizers_of_older_repositories_give_the_expected_ids() {
    let expected: Value = serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap();
    let home = TempDir::new().unwrap();
    for name in ["deberta", "bert", "roberta"] {
        let dir = ensure(&home, &golden(name)).unwrap();
        assert!(dir.starts_with(home.path()), "{dir:?}");
        let engine = Engine::open(&dir, &Device::Cpu).unwrap();
        for (text, ids) in expected["texts"].as_array().unwrap().iter().zip(expected["ids"][name].as_array().unwrap()) {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            let limit = Limit::TRUNCATE;
            let found = engine.encode(text.as_str().unwrap(), None, &limit).unwrap();
            // A text that is longer than the positions is truncated, and ends in the last special token.
            let most = engine.max_length().min(ids.len());
            assert_eq!(found.ids[..most - 1], ids[..most - 1], "{name}: {text}");
            assert_eq!(found.ids.last(), ids.last(), "{name}: {text}");
        }
        // The converted base is used again.
        assert_eq!(ensure(&home, &golden(name)).unwrap(), dir);
    }
}

#[test]
fn weights_are_the_same_from_every_format() {
    let home = TempDir::new().unwrap();
    for (name, source) in [("deberta", golden("deberta.safetensors")), ("bert", golden("../bert/model.safetensors"))] {
        let dir = ensure(&home, &golden(name)).unwrap();
        let converted = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
        let source = candle_core::safetensors::load(source, &Device::Cpu).unwrap();
        assert_eq!(converted.len(), source.len());
        for (key, expected) in source {
            let found = converted[&key].to_dtype(candle_core::DType::F32).unwrap();
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let worst = super::parity::worst(&values(&found), &values(&expected));
            let tolerance = if name == "bert" { 1e-3 } else { 0.0 };
            assert!(worst <= tolerance, "{name}: {key}");
        }
        // The old formats are not copied into the cache.
        assert!(!dir.join("pytorch_model.bin").exists() && !dir.join("model.safetensors.index.json").exists());
        assert!(
            golden(name)
                .join(if name == "bert" { "model.safetensors.index.json" } else { "pytorch_model.bin" })
                .exists()
        );
    }
}

/// As for pickles, the last shard counts.
#[test]
fn tensor_in_two_shards_is_read_from_the_last() {
    let (home, source) = (TempDir::new().unwrap(), copy("bert"));
    let shard = |number: usize| source.path().join(format!("model-0000{number}-of-00002.safetensors"));
    let [first, mut second] = [1, 2].map(|number| candle_core::safetensors::load(shard(number), &Device::Cpu).unwrap());
    let (name, tensor) = first.iter().next().unwrap();
    second.insert(name.clone(), (tensor + 1.0).unwrap());
    candle_core::safetensors::save(&second, shard(2)).unwrap();
    let dir = ensure(&home, source.path()).unwrap();
    let found = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let values = |tensor: &Tensor| {
        tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(found.len(), first.len() + second.len() - 1);
    assert_eq!(values(&found[name]), values(&second[name]));
}

#[test]
fn what_is_no_part_of_a_base_is_not_copied() {
    let (home, source) = (TempDir::new().unwrap(), copy("roberta"));
    let spare = ["optimizer.pt", "training_args.bin", "rng_state.pth", "tf_model.h5", "pytorch_model.bin"];
    for name in spare {
        std::fs::write(source.path().join(name), name).unwrap();
    }
    let dir = ensure(&home, source.path()).unwrap();
    assert!(dir != source.path() && dir.join("model.safetensors").is_file());
    for name in spare {
        assert!(!dir.join(name).exists(), "{name}");
    }
}

/// A folder with the base `deberta`, and with these bytes as its weights.
fn with_weights(bytes: &[u8]) -> TempDir {
    let dir = copy("deberta");
    std::fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
    dir
}

/// `goldens/make_legacy_pickle.py` wrote the same weights in the format of that time.
#[test]
fn reads_weights_from_before_torch_1_6() {
    let (home, source) = (TempDir::new().unwrap(), with_weights(&std::fs::read(golden("before_1_6.bin")).unwrap()));
    let dir = ensure(&home, source.path()).unwrap();
    let found = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let expected = candle_core::safetensors::load(golden("deberta.safetensors"), &Device::Cpu).unwrap();
    let names = |tensors: &std::collections::HashMap<String, Tensor>| {
        let mut names: Vec<_> = tensors.keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&found), names(&expected));
    for (name, expected) in expected {
        let values = |tensor: &Tensor| {
            let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(found[&name].dims(), expected.dims(), "{name}");
        let tolerance = if name.ends_with("0.output.dense.weight") { 1e-3 } else { 0.0 };
        let worst = super::parity::worst(&values(&found[&name]), &values(&expected));
        assert!(worst <= tolerance, "{name}: {worst}");
    }
    Engine::open(&dir, &Device::Cpu).unwrap();
}

#[test]
fn error_on_unknown_weights_says_how_to_save_them() {
    let home = TempDir::new().unwrap();
    let mut tar = vec![0; 1024];
    tar[..8].copy_from_slice(b"sys_info");
    tar[257..262].copy_from_slice(b"ustar");
    let whole = std::fs::read(golden("before_1_6.bin")).unwrap();
    let nested = whole.windows(7).position(|bytes| bytes == b"storage").unwrap();
    let mut foreign = whole.clone();
    foreign[nested..nested + 7].copy_from_slice(b"another");
    for (bytes, words) in [
        (&tar[..], "before 0.1.10"),
        (b"no weights", "no archive of torch.save"),
        (&[][..], "no archive of torch.save"),
        (&whole[..whole.len() - 1], "does not lie in the file"),
        (&whole[..40], "the facts of the machine"),
        (&foreign, "is part of another one"),
    ] {
        let error = ensure(&home, with_weights(bytes).path()).unwrap_err().to_string();
        assert!(error.contains("pytorch_model.bin") && error.contains(words), "{words}: {error}");
        assert!(error.contains("save_file as model.safetensors"), "{error}");
    }
}

/// An archive as `torch.save` writes it, with this pickle.
fn archive(pickle: &[u8]) -> Vec<u8> {
    zipped(&[("archive/data.pkl".to_owned(), pickle.to_vec())])
}

/// An archive of files with these names, stored as `torch.save` stores them.
fn zipped(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(name, stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// The files in the golden that `torch.save` wrote. The pickle comes first.
static SAVED: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let mut archive = zip::ZipArchive::new(File::open(golden("deberta/pytorch_model.bin")).unwrap()).unwrap();
    let mut files = Vec::new();
    for i in 0..archive.len() {
        let mut file = archive.by_index(i).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        files.push((file.name().unwrap().into_owned(), bytes));
    }
    files.sort_by_key(|(name, _)| !name.ends_with("data.pkl"));
    files
});

/// A folder of a base whose pickle is `pickle`.
fn pickled(pickle: &[u8]) -> TempDir {
    let (dir, mut files) = (TempDir::new().unwrap(), SAVED.clone());
    files[0].1 = pickle.to_vec();
    std::fs::copy(golden("deberta/config.json"), dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    std::fs::write(dir.path().join("pytorch_model.bin"), zipped(&files)).unwrap();
    dir
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged pickle of `torch.save` gives either a base or an error that names the file.
    #[test]
    fn damaged_pickle_is_read_or_refused(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let (home, mut pickle) = (TempDir::new().unwrap(), SAVED[0].1.clone());
        let whole = pickle.len();
        for (at, byte) in &hits {
            pickle[at.index(whole)] = *byte;
        }
        pickle.truncate(cut.map_or(whole, |cut| cut.index(whole)));
        let damaged = pickled(&pickle);
        match ensure(&home, damaged.path()) {
            Ok(dir) => prop_assert!(dir.join("model.safetensors").is_file()),
            Err(error) => prop_assert!(error.to_string().contains("pytorch_model.bin"), "{}", error),
        }
        prop_assert!(!hits.is_empty() || cut.is_some() || ensure(&home, damaged.path()).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Damaged weights from before torch 1.6 give either a base or an error that names the file.
    #[test]
    fn damaged_weights_from_before_torch_1_6_are_read_or_refused(hits in prop::collection::vec((0..4000_usize, any::<u8>()), 1..6)) {
        let (home, mut bytes) = (TempDir::new().unwrap(), std::fs::read(golden("before_1_6.bin")).unwrap());
        for (at, byte) in &hits {
            bytes[*at] = *byte;
        }
        match ensure(&home, with_weights(&bytes).path()) {
            Ok(dir) => prop_assert!(dir.join("model.safetensors").is_file()),
            Err(error) => prop_assert!(error.to_string().contains("pytorch_model.bin"), "{}", error),
        }
    }
}

#[test]
fn error_names_malformed_file_and_leaves_no_files_behind() {
    let home = TempDir::new().unwrap();
    let spoil = |name: &str, file: &str, bytes: &[u8], words: &str| {
        let dir = copy(name);
        std::fs::write(dir.path().join(file), bytes).unwrap();
        let error = ensure(&home, dir.path()).unwrap_err().to_string();
        // It is the user's own file, and not a copy in the cache.
        let file = dir.path().join(file).display().to_string();
        assert!(error.contains(&file) && error.contains(words), "{file}: {error}");
    };
    let pickle = std::fs::read(golden("deberta/pytorch_model.bin")).unwrap();
    spoil("deberta", "pytorch_model.bin", &pickle[..pickle.len() / 2], "");
    spoil("deberta", "pytorch_model.bin", b"not a pickle", "");
    let claim = archive(b"\x80\x02X\xff\xff\xff\xff");
    spoil("deberta", "pytorch_model.bin", &claim, "4294967295 bytes are claimed where 0 are left");
    let bare = archive(b"}X\x01\x00\x00\x00wctorch._tensor\n_rebuild_from_type_v2\n)Rs.");
    spoil("deberta", "pytorch_model.bin", &bare, "arguments are malformed");
    spoil("deberta", "spm.model", b"\xff\xff\xff", "SentencePiece");
    spoil("deberta", "spm.model", b"", "no piece");
    spoil("bert", "vocab.txt", b"a\nb\n", "no token [UNK]");
    spoil("bert", "model-00001-of-00002.safetensors", b"short", "not a safetensors file");
    spoil("bert", "model.safetensors.index.json", br#"{"weight_map": {}}"#, "names no file");
    spoil("bert", "model.safetensors.index.json", br#"{"weight_map": {"a": "../b"}}"#, "no file of this folder");
    spoil("bert", "tokenizer_config.json", b"{", "EOF while parsing");
    spoil("bert", "tokenizer_config.json", br#"{"do_lower_case": 3}"#, "do_lower_case");
    spoil("roberta", "vocab.json", br#"{"a": 0}"#, "no token <unk>");
    spoil("roberta", "merges.txt", b"lonely\n", "is no pair");
    let models = home.path().join("models");
    assert_eq!(std::fs::read_dir(models).unwrap().count(), 0);
}

/// Adapters name the folder that was converted, or its repository, and not the folder in this program's cache.
#[test]
fn converted_base_has_the_name_of_its_own_folder() {
    let (home, room) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (folder, name) in [("my-bert", "my-bert"), ("models--org--bert/snapshots/1ab", "org/bert")] {
        let dir = room.path().join(folder);
        std::fs::create_dir_all(&dir).unwrap();
        for entry in std::fs::read_dir(golden("bert")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
        let converted = ensure(&home, &dir).unwrap();
        assert!(converted.starts_with(home.path()), "{converted:?}");
        assert_eq!(Base::open(&converted).unwrap().name(), name);
    }
}

#[test]
fn copy_of_a_former_state_is_removed_unless_it_is_used() {
    let (home, changing, other) = (TempDir::new().unwrap(), copy("bert"), copy("bert"));
    let after = |added: &str| {
        std::fs::write(changing.path().join("added_tokens.json"), added).unwrap();
        ensure(&home, changing.path()).unwrap()
    };
    let other = ensure(&home, other.path()).unwrap();
    let first = after("{}");
    let second = after(r#"{"<a>": 117}"#);
    assert!(!first.exists() && second.exists());
    let used = Base::open(&second).unwrap();
    let third = after(r#"{"<ab>": 117}"#);
    assert!(second.join("model.safetensors").is_file() && third.exists());
    drop(used);
    let fourth = after(r#"{"<abc>": 117}"#);
    let mut left: Vec<PathBuf> =
        std::fs::read_dir(home.path().join("models")).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.sort();
    let mut expected = [other, fourth];
    expected.sort();
    assert_eq!(left, expected);
}

/// If one storage has many names, each of them takes memory.
#[test]
fn refuses_pickle_whose_tensors_are_far_larger_than_the_file() {
    const FLOATS: u16 = 8000;
    let pickled = |names: usize| {
        let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let number = [&b"M"[..], &FLOATS.to_le_bytes()].concat();
        let mut pickle = b"\x80\x02}(".to_vec();
        for name in 0..names {
            pickle.extend(text(&format!("w{name}")));
            pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            pickle.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu")].concat());
            pickle.extend(
                [&number, &b"tQK\x00"[..], &number, b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"].concat(),
            );
        }
        pickle.extend(b"u.");
        let files = [("archive/data.pkl", pickle), ("archive/data/0", vec![0; 4 * usize::from(FLOATS)])];
        let dir = TempDir::new().unwrap();
        std::fs::copy(golden("deberta/config.json"), dir.path().join("config.json")).unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        let files = files.map(|(name, bytes)| (name.to_owned(), bytes));
        std::fs::write(dir.path().join("pytorch_model.bin"), zipped(&files)).unwrap();
        dir
    };
    let home = TempDir::new().unwrap();
    ensure(&home, pickled(2).path()).unwrap();
    let error = ensure(&home, pickled(30).path()).unwrap_err().to_string();
    assert!(error.contains("its tensors take more than 4 times the file"), "{error}");
}

/// The base has only a vocabulary. Texts and pairs get MPNet's special tokens, and the mask includes the space before it.
#[test]
fn mpnet_vocabulary_gives_the_expected_ids() {
    let (home, dir) = (TempDir::new().unwrap(), without_tokenizer("../encoders/mpnet"));
    let base = golden("../encoders/mpnet");
    let json = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(base.join(name)).unwrap()).unwrap() };
    let vocabulary = json("tokenizer.json")["model"]["vocab"].clone();
    let mut tokens: Vec<(u64, String)> =
        vocabulary.as_object().unwrap().iter().map(|(token, id)| (id.as_u64().unwrap(), token.clone())).collect();
    tokens.sort_unstable();
    let lines: String = tokens.into_iter().map(|(_, token)| token + "\n").collect();
    std::fs::write(dir.path().join("vocab.txt"), lines).unwrap();
    let converted = ensure(&home, dir.path()).unwrap();
    let engine = Engine::open(&converted, &Device::Cpu).unwrap();
    for text in json("expected.json")["texts"].as_array().unwrap() {
        let limit = Limit::TRUNCATE;
        let found = engine.encode(text["text"].as_str().unwrap(), text["text_pair"].as_str(), &limit).unwrap();
        assert_eq!(serde_json::json!(found.ids), text["ids"], "{}", text["text"]);
    }
    let [whole, made] = [base, converted]
        .map(|dir| tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap())
        .map(|tokenizer| tokenizer.encode("good <mask> film", true).unwrap().get_ids().to_vec());
    assert_eq!(made, whole);
}

/// As in SentencePiece and `XLMRobertaConverter`.
#[test]
fn xlm_roberta_ignores_blanks_at_the_end() {
    let (home, dir) = (TempDir::new().unwrap(), without_tokenizer("../encoders/xlm-roberta"));
    std::fs::copy(golden("deberta/spm.model"), dir.path().join("sentencepiece.bpe.model")).unwrap();
    let tokenizer = ensure(&home, dir.path()).unwrap().join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(tokenizer).unwrap();
    let ids = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    assert_eq!(ids("good film  "), ids("good film"));
    assert_eq!(ids("  good film"), ids(" good film"));
    assert_ne!(ids("good film"), ids("goodfilm"));
    assert_eq!(ids("good film <mask>"), ids("good film<mask>"));
}

/// A server may run as another user, who must be able to read the files.
#[cfg(unix)]
#[test]
fn converted_files_have_the_mode_of_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let home = TempDir::new().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    let plain = home.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    // One base is converted from a pickle, the other from shards.
    for name in ["deberta", "bert"] {
        let dir = ensure(&home, &golden(name)).unwrap();
        for name in ["model.safetensors", "tokenizer.json", "config.json"] {
            assert_eq!(mode(&dir.join(name)), mode(&plain), "{name}");
        }
    }
}

/// The files beside a vocabulary count both before and after the conversion to `tokenizer.json`.
#[test]
fn added_tokens_keep_their_ids() {
    let (home, dir) = (TempDir::new().unwrap(), copy("bert"));
    let ids = |text: &str, home: &TempDir| {
        let converted = ensure(home, dir.path()).unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(converted.join("config.json")).unwrap()).unwrap();
        config["vocab_size"] = 200.into();
        let config = BaseConfig::parse(&converted.join("config.json"), config).unwrap();
        let tokenizer = Tokenizer::open(&converted, &config.tokenizer_inputs()).unwrap();
        tokenizer.encode(text, None, &Limit::TRUNCATE).unwrap().ids
    };
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("added_tokens.json", r#"{"<ent>": 117}"#);
    write("tokenizer_config.json", r#"{"additional_special_tokens": ["<new>"]}"#);
    assert_eq!(ids("a bad <ent> film <new>", &home), [2, 22, 87, 117, 90, 118, 3]);
    // Special tokens of `tokenizer_config.json`, of which some are in the vocabulary and some are not.
    write("tokenizer_config.json", r#"{"cls_token": "good", "sep_token": "<end>", "do_lower_case": false}"#);
    assert_eq!(ids("a bad <ent> film", &home), [86, 22, 87, 117, 90, 118]);
    assert_eq!(ids("A film", &home)[1], 1);
}

/// `goldens/make_older_tokenizers.py` made the expected ids.
#[test]
fn tokenizer_class_decides_which_files_are_read() {
    let (home, goldens) = (TempDir::new().unwrap(), golden(".."));
    let json = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let cases = json(goldens.join("older_tokenizers/cases.json"));
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let (name, dir) = (case["name"].as_str().unwrap(), TempDir::new().unwrap());
        let base = goldens.join(case["base"].as_str().unwrap());
        let mut config = json(base.join("config.json"));
        // Some vocabularies are larger than that of the base.
        config["vocab_size"] = 1000.into();
        for (key, value) in case["config"].as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        std::fs::copy(base.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        for (file, source) in case["copies"].as_object().unwrap() {
            std::fs::copy(goldens.join(source.as_str().unwrap()), dir.path().join(file)).unwrap();
        }
        for (file, value) in case["files"].as_object().unwrap() {
            std::fs::write(dir.path().join(file), value.to_string()).unwrap();
        }
        let converted = ensure(&home, dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let config = BaseConfig::read(&converted).unwrap();
        let tokenizer = Tokenizer::open(&converted, &config.tokenizer_inputs()).unwrap();
        for answer in case["answers"].as_array().unwrap() {
            let (text, pair) = (answer[0].as_str().unwrap(), answer[1].as_str());
            let found = tokenizer.encode(text, pair, &Limit::TRUNCATE).unwrap();
            let found = serde_json::json!([found.ids, found.type_ids]);
            assert_eq!([&found[0], &found[1]], [&answer[2], &answer[3]], "{name}: {text:?} {pair:?}");
        }
    }
}

#[test]
fn error_names_tokenizer_class_whose_files_cannot_be_read() {
    let (home, dir) = (TempDir::new().unwrap(), copy("roberta"));
    let unsupported = |file: &str, class: &str| match ensure(&home, dir.path()) {
        Err(ModelError::Tokenizer(TokenizeError::Unsupported { path, key, found, .. })) => {
            assert_eq!((path, &*key, &*found), (dir.path().join(file), "tokenizer_class", class));
        }
        other => panic!("{other:?}"),
    };
    let name = |file: &str, class: &str| {
        let bytes = std::fs::read(dir.path().join(file)).unwrap_or_else(|_| b"{}".to_vec());
        let mut keys: Value = serde_json::from_slice(&bytes).unwrap();
        keys["tokenizer_class"] = class.into();
        std::fs::write(dir.path().join(file), keys.to_string()).unwrap();
    };
    // PhoBERT is a RoBERTa whose configuration names its class.
    name("config.json", "PhobertTokenizer");
    unsupported("config.json", "PhobertTokenizer");
    name("tokenizer_config.json", "CamembertTokenizerFast");
    unsupported("tokenizer_config.json", "CamembertTokenizerFast");
    for (class, words) in [
        ("BertTokenizer", "or vocab.txt for BertTokenizer, found vocab.json, merges.txt"),
        ("XLMRobertaTokenizerFast", "or sentencepiece.bpe.model for XLMRobertaTokenizer, found vocab.json, merges.txt"),
        ("PreTrainedTokenizerFast", "or no other file for PreTrainedTokenizerFast, found vocab.json, merges.txt"),
    ] {
        name("tokenizer_config.json", class);
        match ensure(&home, dir.path()) {
            Err(ModelError::Convert { path, reason }) => {
                assert_eq!(path, dir.path());
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    name("tokenizer_config.json", "RobertaTokenizer");
    ensure(&home, dir.path()).unwrap();
}

#[test]
fn offline_no_request_is_made() {
    let home = TempDir::new().unwrap();
    for model in ["default", "org/name", "org/name@v2"] {
        assert!(matches!(sources(&home).ensure(model, &()), Err(ModelError::Offline { .. })), "{model}");
    }
    assert!(matches!(sources(&home).adapter("org/name", &()), Err(ModelError::Offline { .. })));
    assert!(matches!(sources(&home).adapter("nonsense", &()), Err(ModelError::NoAdapter { .. })));
}
