//! Training on a GPU, whose kernels run on the CPU here: the same losses and variables as on the CPU, the same bits in every run, and
//! runs that go on from a checkpoint.

use std::path::Path;

use candle_core::DType;
use clap::{Args, Command, FromArgMatches};
use polyrank::adapter::ProblemType;
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::Workers;
use polyrank::params::{Backend, DeviceName};
use polyrank::text::Encoded;
use polyrank_training::checkpoint::{self, Progress};
use polyrank_training::data::{DataOptions, Target, TaskData};
use polyrank_training::loss::TaskLoss;
use polyrank_training::method::adalora::{AdaLora, AdaLoraSettings};
use polyrank_training::method::sora::{GateRule, SoraSettings, Threshold};
use polyrank_training::method::{
    BottleneckAdapter, DropoutRates, DyLora, Lora, LowRankSettings, Method, Sora, StepDropout, TrainedHead, bitfit,
    full,
};
use polyrank_training::optim::{Optimizer, Rule};
use polyrank_training::settings::Settings;
use polyrank_training::stepper::{Batch, Stepper};
use polyrank_training::trainer::{Control, Trainer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::{backends, base_dir, run};

const LABELS: usize = 3;
/// Few, because a GPU's kernels are slow on the CPU.
const STEPS: usize = 8;

/// A method that is trained here.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Lora,
    Sora(GateRule, Threshold),
    AdaLora,
    DyLora,
    BitFit,
    Adapter,
    Full,
}

const KINDS: [Kind; 10] = [
    Kind::Lora,
    Kind::Sora(GateRule::Adaptive, Threshold::Ratio(0.5)),
    Kind::Sora(GateRule::Authors, Threshold::Ratio(0.5)),
    Kind::Sora(GateRule::Paper, Threshold::Ratio(0.5)),
    Kind::Sora(GateRule::Authors, Threshold::Xi(0.01)),
    Kind::AdaLora,
    Kind::DyLora,
    Kind::BitFit,
    Kind::Adapter,
    Kind::Full,
];

impl Kind {
    fn method(self, engine: &Engine) -> Box<dyn Method> {
        let modules = (0..engine.layout().modules.len()).collect();
        let shape = LowRankSettings { rank: 3, alpha: 6.0, modules, labels: LABELS, seed: 5 };
        match self {
            Self::Lora => Box::new(Lora::new(engine.layout(), &shape, engine.backend()).unwrap()),
            Self::Sora(gate, threshold) => {
                let settings = SoraSettings { gate, threshold, gate_rate: 1.0, sparse_lambda: 0.1, depth_bias: 0.0 };
                Box::new(Sora::new(engine.layout(), &shape, settings, engine.backend()).unwrap())
            }
            Self::AdaLora => {
                // The ranks are chosen every other step, and are final after the fifth.
                let settings =
                    AdaLoraSettings { target_rank: 2, tinit: 0.1, tfinal: 0.4, delta_t: Some(2), orth_reg_weight: 0.5 };
                Box::new(AdaLora::new(engine.layout(), &shape, settings, engine.backend()).unwrap())
            }
            Self::DyLora => Box::new(DyLora::new(engine.layout(), &shape, 2, engine.backend()).unwrap()),
            Self::BitFit => Box::new(bitfit(&**engine.encoder(), head(engine)).unwrap()),
            Self::Adapter => {
                let (layout, backend) = (engine.layout(), engine.backend());
                Box::new(BottleneckAdapter::new(layout, 6, 5, head(engine), backend).unwrap())
            }
            Self::Full => Box::new(full(&**engine.encoder(), head(engine)).unwrap()),
        }
    }

    fn stepper(self, engine: &Engine) -> Stepper<'_> {
        let method = self.method(engine);
        // With a larger eps, Adam does not turn gradients that are only rounding errors into whole steps.
        let rule = Rule { weight_decay: 0.01, eps: 1e-3, clip: Some(1.0), total: STEPS };
        let optimizer = Optimizer::new(method.variables(), rule, engine.backend()).unwrap();
        let loss = TaskLoss::new(ProblemType::SingleLabelClassification, &[]);
        Stepper { engine, method, optimizer, loss, workers: Workers::new(100).unwrap() }
    }
}

fn head(engine: &Engine) -> TrainedHead {
    TrainedHead::new(engine.layout(), LABELS, &mut StdRng::seed_from_u64(5), engine.device()).unwrap()
}

/// Texts of random words, whose label is the first word's remainder.
fn batch(engine: &Engine) -> (Vec<Encoded>, Vec<Target>) {
    let words = engine.config().vocab_size as u32;
    let mut rng = StdRng::seed_from_u64(23);
    let texts = [4, 9, 1, 6].map(|len| Encoded {
        ids: (0..len).map(|_| rng.random_range(0..words)).collect(),
        type_ids: vec![0; len],
        truncated: false,
    });
    let targets = texts.iter().map(|text| Target::Class(text.ids[0] as usize % LABELS)).collect();
    (texts.to_vec(), targets)
}

/// Makes steps on the same batch, and returns their losses.
fn train(stepper: &mut Stepper, steps: usize, dropout: f64) -> Vec<f32> {
    let (texts, targets) = batch(stepper.engine);
    let texts: Vec<&Encoded> = texts.iter().collect();
    let rates = DropoutRates { hidden: dropout, attention: dropout, head: dropout, head_input: dropout };
    let step = |_| {
        let dropout = StepDropout { rates, seed: stepper.optimizer.done as u64 };
        let loss = stepper.step(&Batch { texts: &texts, targets: &targets }, dropout, 5e-3).unwrap();
        loss.to_scalar().unwrap()
    };
    (0..steps).map(step).collect()
}

/// The values of all variables, in order, with their names.
fn values(stepper: &Stepper) -> Vec<(String, Vec<f32>)> {
    let variables = stepper.method.variables().into_iter();
    variables.map(|variable| (variable.name, variable.var.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

fn open(backend: &Backend) -> Engine {
    Engine::open(&base_dir(), backend).unwrap()
}

/// The GPU that the variable `POLYRANK_TEST_DEVICE` names, else a GPU's form on the CPU.
fn gpu() -> Backend {
    match std::env::var("POLYRANK_TEST_DEVICE") {
        Ok(name) => Backend::native(name.parse::<DeviceName>().unwrap().open().unwrap()),
        Err(_) => backends()[2].clone(),
    }
}

/// The CPU, the reference, and a GPU.
fn all_backends() -> [Backend; 3] {
    let [cpu, reference, _] = backends();
    [cpu, reference, gpu()]
}

#[test]
fn every_method_trains_alike_on_every_backend() {
    let engines = all_backends().map(|backend| open(&backend));
    for kind in KINDS {
        let [expected, found @ ..] = engines.each_ref().map(|engine| {
            let mut stepper = kind.stepper(engine);
            let losses = train(&mut stepper, STEPS, 0.1);
            (losses, values(&stepper), stepper.method.report().unwrap())
        });
        for (backend, (losses, values, report)) in ["reference", "cuda"].iter().zip(found) {
            for (step, (found, expected)) in losses.iter().zip(&expected.0).enumerate() {
                assert!((found - expected).abs() < 2e-4, "{kind:?} on {backend}, step {step}: {found} for {expected}");
            }
            assert_eq!(report, expected.2, "{kind:?} on {backend}");
            for ((name, found), (_, expected)) in values.iter().zip(&expected.1) {
                let off = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
                let worst = off.max_by(f32::total_cmp).unwrap();
                assert!(worst < 5e-4, "{kind:?} on {backend}: {name} is off by {worst}");
            }
        }
        assert!(expected.0[STEPS - 1] < expected.0[0], "{kind:?} learns: {:?}", expected.0);
    }
}

/// Also across a checkpoint. The gates of the authors' rule are folded in the meantime. What a checkpoint has does not depend on the
/// backend, so that a GPU only trains some of the methods.
#[test]
fn run_is_the_same_every_time_and_goes_on_from_a_checkpoint() {
    let [cpu, _, gpu] = all_backends().map(|backend| open(&backend));
    let on_gpu = [Kind::Sora(GateRule::Authors, Threshold::Ratio(0.5)), Kind::AdaLora];
    let runs = KINDS.map(|kind| (kind, &cpu)).into_iter().chain(on_gpu.map(|kind| (kind, &gpu)));
    for (kind, engine) in runs {
        let mut whole = kind.stepper(engine);
        let expected = train(&mut whole, STEPS, 0.1);
        let (room, progress) = (TempDir::new().unwrap(), Progress { epoch: 1, ..Progress::default() });
        let mut first = kind.stepper(engine);
        let mut losses = train(&mut first, STEPS / 2, 0.1);
        checkpoint::save(room.path(), &*first.method, &first.optimizer, &progress).unwrap();
        let mut second = kind.stepper(engine);
        let saved = checkpoint::folder(room.path(), 1);
        let found = checkpoint::load(&saved, &mut *second.method, &mut second.optimizer).unwrap();
        assert_eq!(found, progress);
        losses.extend(train(&mut second, STEPS - STEPS / 2, 0.1));
        assert_eq!(losses, expected, "{kind:?}");
        assert_eq!(values(&second), values(&whole), "{kind:?}");
    }
}

/// The whole run of the trainer: the log, evaluation, checkpoints and the report on ranks.
#[test]
fn trainer_runs_alike_on_every_backend() {
    let data = run::data();
    let mut data = TaskData::load(data.path(), &DataOptions::default()).unwrap();
    // A GPU's kernels are slow on the CPU.
    data.train.truncate(16);
    data.validation[0].examples.truncate(4);
    let args = ["train", "--epochs", "2", "--batch-size", "8", "--rank", "4", "--seed", "3"];
    let matches = Settings::augment_args(Command::new("train")).get_matches_from(args);
    let settings = Settings::from_arg_matches(&matches).unwrap();
    let log = |backend: &Backend| {
        let (engine, room) = (open(backend), TempDir::new().unwrap());
        let trainer = Trainer::new(&settings, &engine, &data, None).unwrap();
        let control = Control { keep_checkpoints: false, log_every: 10, checkpoint_every: None, stop: &|| false };
        let best = trainer.run(room.path(), &control).unwrap();
        assert!(best.is_dir());
        losses_in(&room.path().join("log.jsonl"))
    };
    let [expected, found @ ..] = all_backends().each_ref().map(log);
    assert_eq!(expected.len(), 2);
    for found in found {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
        }
    }
}

/// The training loss, the validation loss and the mean rank of each epoch.
fn losses_in(log: &Path) -> Vec<[f64; 3]> {
    let text = std::fs::read_to_string(log).unwrap();
    let of = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        ["loss", "validation_loss", "mean_rank"].map(|key| entry[key].as_f64().unwrap())
    };
    text.lines().map(of).collect()
}

/// What is trained stays f32. These methods use all operations.
#[test]
fn methods_learn_on_a_base_in_bf16() {
    let engine = open(&gpu().with_dtype(DType::BF16).unwrap());
    let exact = open(&Backend::cpu());
    for kind in [Kind::Sora(GateRule::Adaptive, Threshold::Ratio(0.5)), Kind::Adapter, Kind::Full] {
        let mut stepper = kind.stepper(&engine);
        let losses = train(&mut stepper, STEPS, 0.0);
        let expected = train(&mut kind.stepper(&exact), STEPS, 0.0);
        assert!(losses[STEPS - 1] < 0.9 * losses[0], "{kind:?}: {losses:?}");
        for (found, expected) in losses.iter().zip(&expected) {
            assert!((found - expected).abs() < 0.05, "{kind:?}: {losses:?} for {expected:?}");
        }
        assert!(stepper.optimizer.variables.iter().all(|variable| variable.var.dtype() == DType::F32));
        assert!((0..2).all(|i| stepper.optimizer.moments(i).unwrap().first.dtype() == DType::F32));
    }
}

#[test]
fn bench_prints_its_speed() {
    let base = base_dir();
    let args = ["bench", "--model-id", base.to_str().unwrap(), "--steps", "2", "--warmup-steps", "1"];
    let told = run::fine(&[&args[..], &["--lengths", "3,5,9", "--batch-size", "4", "--rank", "2"]].concat());
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["tokens_per_second"].as_f64().unwrap() > 0.0 && told["loss"].as_f64().unwrap() > 0.0, "{told}");
    assert_eq!((&told["method"], &told["steps"]), (&"sora".into(), &2.into()));
}
