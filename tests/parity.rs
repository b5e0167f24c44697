//! Compares with `transformers` + `peft` on the same files. `goldens/make_bert.py` and `goldens/make_encoders.py` made the bases, the
//! adapters and the expected answers.
//!
//! Each test runs on every architecture and every backend, which [`goldens`] lists.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use polyrank::adapter::{Adapter, Change};
use polyrank::cuda;
use polyrank::encoder::{HeadJob, Hooks, Identity, Packed};
use polyrank::engine::{Engine, Row};
use polyrank::params::{Backend, DeviceName, Form, Frozen, Precision};
use polyrank::text::{Encoded, Limit};
use serde_json::Value;

/// The folders of the bases, below `tests/goldens`.
const BASES: [&str; 10] = [
    "bert",
    "encoders/roberta",
    "encoders/xlm-roberta",
    "encoders/electra",
    "encoders/distilbert",
    "encoders/deberta",
    "encoders/deberta-v2",
    "encoders/modernbert",
    "encoders/modernbert-mean",
    "encoders/mpnet",
];

pub(crate) fn folder(base: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(base)
}

/// Every base on every backend, and prepacked.
pub(crate) fn goldens() -> impl Iterator<Item = Golden> {
    let exact = backends().into_iter().flat_map(|backend| BASES.map(|base| Golden::open(base, &backend)));
    let prepacked = if asked_device().is_none() { &BASES[..] } else { &[] };
    exact.chain(prepacked.iter().map(|base| Golden::prepacked(base, Precision::F32)))
}

fn bert(backend: &Backend) -> Golden {
    Golden::open("bert", backend)
}

/// The device that the environment names, such as `cuda`. If it names one, tests of every backend run on that device only, and fail if
/// it cannot be opened.
fn asked_device() -> Option<Backend> {
    let name = std::env::var("POLYRANK_TEST_DEVICE").ok()?;
    Some(Backend::native(name.parse::<DeviceName>().unwrap().open().unwrap()))
}

/// The CPU's kernels, the reference, the GPU's kernels compiled for the CPU, and the first GPU in a build with the feature `cuda` on a
/// machine that has one.
pub(crate) fn backends() -> Vec<Backend> {
    if let Some(backend) = asked_device() {
        return vec![backend];
    }
    cuda::run_on_host(polyrank_on_host::launch);
    let mut backends = vec![Backend::cpu(), Backend::reference(Device::Cpu), Backend::cuda_on_host()];
    if cfg!(feature = "cuda") {
        match DeviceName::Cuda(0).open() {
            Ok(device) => backends.push(Backend::native(device)),
            Err(error) => println!("not run on a GPU: {error}"),
        }
    }
    backends
}

pub(crate) struct Golden {
    pub(crate) base: &'static str,
    pub(crate) engine: Engine,
    expected: Value,
}

impl Golden {
    fn open(base: &'static str, backend: &Backend) -> Self {
        Self::over(base, Engine::open(&folder(base), backend).unwrap())
    }

    fn prepacked(base: &'static str, precision: Precision) -> Self {
        Self::over(base, Engine::prepacked(&folder(base), &Device::Cpu, precision, None).unwrap())
    }

    fn over(base: &'static str, engine: Engine) -> Self {
        let expected = std::fs::read(folder(base).join("expected.json")).unwrap();
        Self { base, engine, expected: serde_json::from_slice(&expected).unwrap() }
    }

    /// Whether the kernels of the GPU run on the CPU, which takes long.
    pub(crate) fn emulates_a_gpu(&self) -> bool {
        self.engine.backend().form() == Form::Cuda && self.engine.device().is_cpu()
    }

    pub(crate) fn texts(&self) -> Vec<Encoded> {
        let texts = self.expected["texts"].as_array().unwrap();
        texts
            .iter()
            .map(|text| {
                let limit = Limit::TRUNCATE;
                self.engine.encode(text["text"].as_str().unwrap(), text["text_pair"].as_str(), &limit).unwrap()
            })
            .collect()
    }

    /// Each adapter with the logits `[texts][labels]` that peft computed.
    pub(crate) fn adapters(&self) -> Vec<(String, Arc<Adapter>, Vec<Vec<f32>>)> {
        let adapters = self.expected["adapters"].as_object().unwrap();
        adapters
            .iter()
            .map(|(name, golden)| {
                let adapter = self.engine.load_adapter(&folder(self.base).join(name)).unwrap();
                (name.clone(), Arc::new(adapter), serde_json::from_value(golden["logits"].clone()).unwrap())
            })
            .collect()
    }
}

pub(crate) fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    // `f32::max` ignores NaN.
    assert!(found.iter().all(|x| x.is_finite()), "{found:?}");
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn token_ids_equal_transformers() {
    for base in BASES {
        let golden = Golden::open(base, &Backend::cpu());
        assert_eq!(golden.engine.max_length() as u64, golden.expected["max_length"].as_u64().unwrap(), "{base}");
        // If the base has at most one segment, the type ids do not matter.
        let typed = golden.engine.config().type_vocab_size > 1;
        for (text, expected) in golden.texts().iter().zip(golden.expected["texts"].as_array().unwrap()) {
            let list = |key: &str| serde_json::from_value::<Vec<u32>>(expected[key].clone()).unwrap();
            assert_eq!(text.ids, list("ids"), "{base}: {}", expected["text"]);
            assert!(!typed || text.type_ids == list("type_ids"), "{base}: {}", expected["text"]);
            assert_eq!(text.truncated, expected["truncated"].as_bool().unwrap());
        }
    }
}

/// Replaces one parameter by the base's own, times 1.5.
struct Scaled<'a>(&'a Frozen);

impl Hooks for Scaled<'_> {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        if name == self.0.name() { Ok(Some((self.0.tensor()?.to_dtype(DType::F32)? * 1.5)?)) } else { Ok(None) }
    }
}

/// An encoder keeps products of its own parameters from one batch to the next, but none of those that hooks replace.
#[test]
fn replaced_parameters_count_whatever_ran_before() {
    for base in BASES {
        let [used, new] = [(); 2].map(|()| Golden::open(base, &Backend::cpu()));
        let batch = Packed::new(&used.texts()[..2]);
        let run = |golden: &Golden, hooks: &dyn Hooks| {
            let hidden = golden.engine.encoder().forward(&batch, hooks).unwrap();
            hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let own = run(&used, &Identity);
        let mut changed = 0;
        for (before, after) in used.engine.encoder().parameters().iter().zip(new.engine.encoder().parameters()) {
            let found = run(&used, &Scaled(before));
            assert_eq!(found, run(&new, &Scaled(after)), "{base}: {}", before.name());
            changed += usize::from(found != own);
        }
        assert!(changed > 10, "{base}: {changed}");
        assert_eq!(run(&new, &Identity), own, "{base}");
    }
}

/// A base that knows only distances answers texts that are longer than its positions, if it is asked to.
#[test]
fn texts_beyond_the_positions_are_answered_like_peft() {
    let long: Value = serde_json::from_slice(&std::fs::read(folder("").join("long_texts.json")).unwrap()).unwrap();
    for backend in backends() {
        for base in ["deberta", "modernbert"] {
            let base = BASES.into_iter().find(|known| known.ends_with(&format!("/{base}"))).unwrap();
            let engine = Engine::open(&folder(base), &backend).unwrap();
            let expected = &long["bases"][base.rsplit('/').next().unwrap()];
            let max_length = long["max_length"].as_u64().map(|length| length as usize);
            let limit = Limit { max_length, truncate: true, side: None };
            let text = engine.encode(long["text"].as_str().unwrap(), None, &limit).unwrap();
            assert_eq!(serde_json::json!(text.ids), expected["ids"]);
            let adapter = Arc::new(engine.load_adapter(&folder(base).join("ragged")).unwrap());
            let found = engine.logits(&[Row { text, adapter }]).unwrap();
            let expected: Vec<f32> = serde_json::from_value(expected["logits"].clone()).unwrap();
            let worst = worst(&found[0], &expected);
            assert!(worst <= 1e-4, "{base} on {}: {worst}", backend.name());
        }
    }
}

#[test]
fn hidden_states_equal_transformers() {
    for backend in backends() {
        let golden = bert(&backend);
        let texts = golden.texts();
        let chosen: Vec<usize> = serde_json::from_value(golden.expected["base"]["texts"].clone()).unwrap();
        let hidden: Vec<Vec<Vec<f32>>> = serde_json::from_value(golden.expected["base"]["hidden"].clone()).unwrap();
        let batch = Packed::new(chosen.iter().map(|&i| &texts[i]));
        let found = golden.engine.encoder().forward(&batch, &Identity).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(found.len(), hidden.iter().map(Vec::len).sum::<usize>());
        for (found, expected) in found.iter().zip(hidden.iter().flatten()) {
            assert!(worst(found, expected) <= 1e-4);
        }
    }
}

#[test]
fn adapters_alone_answer_like_peft() {
    for golden in goldens() {
        for (name, adapter, expected) in golden.adapters() {
            for (i, (text, expected)) in golden.texts().into_iter().zip(&expected).enumerate() {
                let row = Row { text, adapter: Arc::clone(&adapter) };
                let found = golden.engine.logits(&[row]).unwrap();
                let worst = worst(&found[0], expected);
                assert!(worst <= 1e-4, "{}/{name}, text {i}: {worst}", golden.base);
            }
        }
    }
}

#[test]
fn packed_and_mixed_answers_equal_answers_alone() {
    for golden in goldens() {
        let (base, texts, adapters) = (golden.base, golden.texts(), golden.adapters());
        // One forward pass runs every text with every adapter, so that texts of different lengths and adapters are neighbours.
        let mut rows = Vec::new();
        let mut expected = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            for k in 0..adapters.len() {
                let (_, adapter, logits) = &adapters[(k + i) % adapters.len()];
                rows.push(Row { text: text.clone(), adapter: Arc::clone(adapter) });
                expected.push(&logits[i]);
            }
        }
        let mixed = golden.engine.logits(&rows).unwrap();
        for ((row, mixed), expected) in rows.iter().zip(&mixed).zip(expected) {
            let alone = golden.engine.logits(std::slice::from_ref(row)).unwrap();
            let apart = worst(mixed, &alone[0]);
            assert!(apart <= 1e-5, "{base}: mixed differs from alone by {apart}");
            assert!(worst(mixed, expected) <= 1e-4, "{base}");
        }
    }
}

/// In bf16 and int8, too, a text's answer does not depend on its neighbours, and is close to the answer in f32.
#[test]
fn every_precision_is_close_to_f32() {
    for (precision, most) in [(Precision::Bf16, 0.02), (Precision::Int8, 0.05)] {
        for base in BASES {
            let golden = Golden::prepacked(base, precision);
            let (texts, adapters) = (golden.texts(), golden.adapters());
            let (mut rows, mut expected) = (Vec::new(), Vec::new());
            for (i, text) in texts.iter().enumerate() {
                for (_, adapter, logits) in &adapters {
                    rows.push(Row { text: text.clone(), adapter: Arc::clone(adapter) });
                    expected.push(&logits[i]);
                }
            }
            let mixed = golden.engine.logits(&rows).unwrap();
            let (mut error, mut size) = (0.0, 0.0);
            for ((row, mixed), expected) in rows.iter().zip(&mixed).zip(expected) {
                let alone = golden.engine.logits(std::slice::from_ref(row)).unwrap();
                assert!(worst(mixed, &alone[0]) <= 1e-5, "{base} {precision}: mixed differs from alone");
                error += mixed.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
                size += expected.iter().map(|b| b.powi(2)).sum::<f32>();
            }
            let relative = (error / size).sqrt();
            assert!(relative > 0.0 && relative < most, "{base} {precision}: relative error {relative}");
        }
    }
}

/// On a GPU, activations and weights may be bf16 or f16. Each text's logits are within rounding of those in f32, alone and mixed.
#[test]
fn half_types_on_a_gpu_are_close_to_f32() {
    let gpus = || backends().into_iter().filter(|backend| backend.form() == Form::Cuda);
    assert!(gpus().count() > 0 || asked_device().is_some());
    for (backend, dtype) in gpus().flat_map(|backend| [(backend.clone(), DType::BF16), (backend, DType::F16)]) {
        let backend = backend.with_dtype(dtype).unwrap();
        for base in BASES {
            let golden = Golden::open(base, &backend);
            let (texts, adapters) = (golden.texts(), golden.adapters());
            let (mut rows, mut expected) = (Vec::new(), Vec::new());
            for (i, text) in texts.iter().enumerate() {
                for (_, adapter, logits) in &adapters {
                    rows.push(Row { text: text.clone(), adapter: Arc::clone(adapter) });
                    expected.push(&logits[i]);
                }
            }
            let mixed = golden.engine.logits(&rows).unwrap();
            let alone: Vec<_> =
                rows.iter().map(|row| golden.engine.logits(std::slice::from_ref(row)).unwrap()).collect();
            let norm = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>| pairs.map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let size: f32 = expected.iter().flat_map(|logits| logits.iter()).map(|b| b.powi(2)).sum();
            let of_mixed = norm(&mut mixed.iter().flatten().zip(expected.iter().flat_map(|logits| logits.iter())));
            let of_alone = norm(&mut alone.iter().flatten().flatten().zip(mixed.iter().flatten()));
            let [to_f32, to_mixed] = [of_mixed, of_alone].map(|error| (error / size).sqrt());
            assert!(to_f32 > 0.0 && to_f32 < 0.03, "{base} {dtype:?}: {to_f32} from f32");
            assert!(to_mixed < 0.03, "{base} {dtype:?}: alone is {to_mixed} from mixed");
        }
    }
}

#[test]
fn adapter_of_rank_0_is_bit_identical_to_the_base() {
    for backend in backends() {
        for base in BASES {
            rank_0_is_the_base(&Golden::open(base, &backend));
        }
    }
}

fn rank_0_is_the_base(golden: &Golden) {
    let (texts, adapters) = (golden.texts(), golden.adapters());
    let (_, donor, _) = adapters.iter().find(|(name, ..)| name == "plain").unwrap();
    let mut empty = Adapter::clone(donor);
    empty.weights.sites.fill(None);
    let empty = Arc::new(empty);
    let encoder = &**golden.engine.encoder();
    let mut rows: Vec<Row> = texts.iter().map(|text| Row { text: text.clone(), adapter: Arc::clone(&empty) }).collect();
    // Each text runs alone, because a machine with many cores splits a batch into micro-batches, and products of fewer rows may round
    // differently.
    let mut pure = Vec::new();
    for (text, row) in texts.iter().zip(&rows) {
        let batch = Packed::new([text]);
        let pooled = encoder.pooled(&batch, &Identity).unwrap();
        let job = HeadJob { rows: &[0], head: &donor.weights.head };
        let base = encoder.heads(&pooled, &[job], &Identity).unwrap().remove(0);
        let found = golden.engine.logits(std::slice::from_ref(row)).unwrap();
        assert_eq!(found, base.to_vec2::<f32>().unwrap());
        pure.extend(found);
    }
    // Now together with adapters that do change their rows.
    rows.push(Row { text: texts[0].clone(), adapter: Arc::clone(donor) });
    let beside = golden.engine.logits(&rows).unwrap();
    for (beside, pure) in beside.iter().zip(&pure) {
        assert!(worst(beside, pure) <= 1e-5);
    }
}

/// An encoder whose head reads only the first tokens leaves out the other rows of the last layer.
#[test]
fn pooled_texts_equal_those_of_all_hidden_states() {
    for backend in backends() {
        for base in BASES {
            let golden = Golden::open(base, &backend);
            let encoder = &**golden.engine.encoder();
            assert_eq!(encoder.first_tokens_from().is_none(), base.contains("mean"), "{base}");
            let texts: Vec<_> = golden.texts().into_iter().filter(|text| !text.ids.is_empty()).collect();
            let batch = Packed::new(&texts);
            let hidden = encoder.forward(&batch, &Identity).unwrap();
            let expected = encoder.pool(&hidden, &batch.offsets).unwrap().to_vec2::<f32>().unwrap();
            let found = encoder.pooled(&batch, &Identity).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(found.len(), texts.len(), "{base}");
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.len(), expected.len(), "{base}");
                assert!(worst(found, expected) <= 1e-5, "{base} on {backend:?}");
            }
        }
    }
}

#[test]
fn resident_bytes_follow_from_the_true_ranks() {
    let golden = bert(&Backend::cpu());
    for (name, adapter, _) in golden.adapters() {
        let layout = golden.engine.layout();
        let deltas: usize = layout
            .sites()
            .map(|site| {
                let module = layout.module(site);
                adapter.rank(layout.index(site)) * (module.in_features + module.out_features)
            })
            .sum();
        let head: usize = adapter.weights.head.values().map(Tensor::elem_count).sum();
        assert_eq!(adapter.bytes(), 4 * (deltas + head), "{name}");
        let stored: usize = adapter.weights.sites.iter().flatten().map(Change::parameters).sum();
        assert_eq!(stored, deltas, "{name}");
    }
}

#[test]
fn encoder_equals_bert_of_candle_transformers() {
    use candle_nn::VarBuilder;
    use candle_transformers::models::bert::{BertModel, Config};
    let golden = bert(&Backend::cpu());
    let config: Config = serde_json::from_slice(&std::fs::read(folder("bert").join("config.json")).unwrap()).unwrap();
    let weights = std::fs::read(folder("bert").join("model.safetensors")).unwrap();
    let vars = VarBuilder::from_buffered_safetensors(weights, candle_core::DType::F32, &Device::Cpu).unwrap();
    let oracle = BertModel::load(vars.pp("bert"), &config).unwrap();
    for text in golden.texts().into_iter().filter(|text| !text.ids.is_empty()) {
        let ids = Tensor::new(&text.ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let types = Tensor::new(&text.type_ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let expected = oracle.forward(&ids, &types, None).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        let found = golden.engine.encoder().forward(&Packed::new([&text]), &Identity).unwrap();
        assert_eq!(found.dims(), [expected.len(), expected[0].len()]);
        for (found, expected) in found.to_vec2::<f32>().unwrap().iter().zip(&expected) {
            assert!(worst(found, expected) <= 1e-4);
        }
    }
}

#[test]
fn batch_in_several_micro_batches_answers_as_each_text_alone() {
    let golden = bert(&Backend::cpu());
    let (texts, adapters) = (golden.texts(), golden.adapters());
    // The batch has every text with every adapter, without duplicates, because equal rows run only once.
    let pairs = texts.iter().flat_map(|text| adapters.iter().map(move |(_, adapter, _)| (text, adapter)));
    let rows: Vec<Row> =
        pairs.map(|(text, adapter)| Row { text: text.clone(), adapter: Arc::clone(adapter) }).collect();
    // A micro-batch has at most 256 tokens.
    assert!(rows.iter().map(|row| row.text.ids.len()).sum::<usize>() > 1024);
    let together = golden.engine.logits(&rows).unwrap();
    for (row, together) in rows.iter().zip(&together) {
        let alone = golden.engine.logits(std::slice::from_ref(row)).unwrap();
        assert_eq!(alone[0].len(), together.len());
        for (a, b) in alone[0].iter().zip(together) {
            assert!((a - b).abs() <= 1e-5, "{a} alone, {b} together");
        }
    }
}
