//! The trainer on the tiny base, without the command line: runs that stop at any step, become longer or end early, accumulated
//! gradients, and values that are not finite.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use clap::{Args, Command, FromArgMatches};
use polyrank::adapter::{AdapterInfo, ProblemType};
use polyrank::encoder::Head;
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::Workers;
use polyrank::text::Encoded;
use polyrank_training::data::{DataOptions, Target, TaskData};
use polyrank_training::error::Error;
use polyrank_training::loss::TaskLoss;
use polyrank_training::method::{Export, Lora, LowRankSettings, Method, Pass, Report, StepDropout};
use polyrank_training::optim::{Optimizer, Rule, Step, Variable};
use polyrank_training::settings::{RunSettings, Settings};
use polyrank_training::stepper::{Batch, Stepper};
use polyrank_training::trainer::{Control, Trainer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

use super::engine;
use super::run::{data, names, read};

/// The flags of all runs here; the task has 6 steps in an epoch.
const FLAGS: [&str; 7] = ["train", "--batch-size", "8", "--rank", "4", "--seed", "3"];

fn settings(flags: &[&str]) -> Settings {
    let matches = Settings::augment_args(Command::new("train")).get_matches_from(FLAGS.iter().chain(flags));
    Settings::from_arg_matches(&matches).unwrap()
}

fn task() -> TaskData {
    TaskData::load(data().path(), &DataOptions::default()).unwrap()
}

/// Runs in one folder.
struct Runs {
    engine: Engine,
    data: TaskData,
    room: TempDir,
}

impl Runs {
    fn new() -> Self {
        Self::on(engine())
    }

    fn on(engine: Engine) -> Self {
        Self { engine, data: task(), room: TempDir::new().unwrap() }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.room.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Begins or continues the run in the folder `name`.
    fn run(&self, name: &str, settings: &Settings, control: &Control) -> Result<PathBuf, Error> {
        let folder = self.folder(name);
        Trainer::new(settings, &self.engine, &self.data, Some(&folder))?.run(&folder, control)
    }

    fn whole(&self, name: &str, settings: &Settings) -> PathBuf {
        self.run(name, settings, &control(&[], &|| false)).unwrap()
    }

    /// The lines of the log of epochs without durations, and the bytes of the log of steps.
    fn logs(&self, name: &str) -> (Vec<Value>, String) {
        let mut epochs = lines(&self.folder(name).join("log.jsonl"));
        for epoch in &mut epochs {
            epoch.as_object_mut().unwrap().retain(|key, _| !["seconds", "tokens_per_second"].contains(&&**key));
        }
        (epochs, String::from_utf8(read(&self.folder(name).join("steps.jsonl"))).unwrap())
    }

    /// Checks that two runs have the same logs and checkpoints, bit by bit.
    fn check_equal(&self, found: &str, expected: &str) {
        assert_eq!(names(&self.folder(found)), names(&self.folder(expected)), "{found}");
        assert_eq!(self.logs(found), self.logs(expected), "{found}");
        for checkpoint in names(&self.folder(expected)).iter().filter(|name| name.starts_with("checkpoint-")) {
            for file in ["state.safetensors", "state.json"] {
                let of = |name| read(&self.folder(name).join(checkpoint).join(file));
                assert!(of(found) == of(expected), "{found}/{checkpoint}/{file}");
            }
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = String::from_utf8(read(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn control<'a>(flags: &[&str], stop: &'a dyn Fn() -> bool) -> Control<'a> {
    let matches = RunSettings::augment_args(Command::new("train")).get_matches_from(["train"].iter().chain(flags));
    Control::new(&RunSettings::from_arg_matches(&matches).unwrap(), stop)
}

/// Otherwise it would divide by zero.
#[test]
fn distance_of_zero_logs_every_step() {
    let runs = Runs::new();
    let settings = settings(&["--method", "lora", "--epochs", "1"]);
    runs.run("run", &settings, &Control { log_every: 0, ..control(&[], &|| false) }).unwrap();
    assert_eq!(runs.logs("run").1.lines().count(), 6);
}

/// Every continued run is stopped at a random step again, until it reaches its end.
#[test]
fn run_stopped_at_any_step_ends_as_if_it_was_not() {
    let runs = Runs::new();
    let mut rng = StdRng::seed_from_u64(8);
    for gate in ["adaptive", "authors", "paper"] {
        let settings = settings(&["--epochs", "4", "--lr", "3e-3", "--dropout", "0.1", "--gate", gate]);
        runs.whole("whole", &settings);
        let (mut stops, mut done) = (Vec::new(), 0);
        let best = loop {
            let left = Cell::new(rng.random_range(0..10));
            let stop = || left.replace(left.get() - 1) == 0;
            let ended = runs.run("parted", &settings, &control(&[], &stop));
            match ended {
                Err(Error::Stopped { step, steps: 24, epoch, epochs: 4 }) => {
                    assert!(step >= done && epoch == step / 6 + 1, "step {step} after {done}, in epoch {epoch}");
                    stops.push(step - done);
                    done = step;
                }
                ended => break ended.unwrap(),
            }
        };
        assert!(stops.iter().any(|steps| steps % 6 > 0), "{stops:?}");
        runs.check_equal("parted", "whole");
        assert_eq!(best.file_name(), runs.whole("whole", &settings).file_name());
        for name in ["parted", "whole"] {
            std::fs::remove_dir_all(runs.folder(name)).unwrap();
        }
    }
}

/// A checkpoint in the middle of an epoch gives way to the next one.
#[test]
fn checkpoints_in_the_middle_of_an_epoch_are_continued() {
    let runs = Runs::new();
    let settings = settings(&["--epochs", "3", "--method", "lora"]);
    runs.whole("whole", &settings);
    runs.run("often", &settings, &control(&["--checkpoint-every", "4"], &|| false)).unwrap();
    runs.check_equal("often", "whole");
    // A crash in the second epoch: of what came later, only lines of logs are there.
    let crashed = runs.folder("crashed");
    let saved = ["--checkpoint-every", "2", "--log-every", "1", "--keep-checkpoints"];
    let stop = || crashed.join("checkpoint-1+2").exists();
    let ended = runs.run("crashed", &settings, &control(&saved, &stop));
    assert!(matches!(ended, Err(Error::Stopped { step: 8, epoch: 2, .. })), "{ended:?}");
    let middle: Vec<String> = names(&crashed).into_iter().filter(|name| name.contains('+')).collect();
    assert_eq!(middle.len(), 1, "{middle:?}");
    let mut late = String::from_utf8(read(&crashed.join("steps.jsonl"))).unwrap();
    late.push_str("{\"step\":17,\"epoch\":3}\n{\"step\":");
    std::fs::write(crashed.join("steps.jsonl"), late).unwrap();
    runs.run("crashed", &settings, &control(&["--log-every", "1", "--keep-checkpoints"], &|| false)).unwrap();
    let (epochs, steps) = runs.logs("crashed");
    assert_eq!(epochs, runs.logs("whole").0);
    let numbers = steps.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap());
    assert_eq!(numbers.collect::<Vec<_>>(), (1..=18).collect::<Vec<_>>());
    assert_eq!(names(&crashed).iter().filter(|name| name.starts_with("checkpoint-")).count(), 3);
}

/// On a device, losses wait there for several steps.
#[test]
fn run_on_a_device_continues_in_the_middle_of_an_epoch() {
    let [.., backend] = super::backends();
    let runs = Runs::on(Engine::open(&super::base_dir(), &backend).unwrap());
    let settings = settings(&["--epochs", "1", "--method", "lora"]);
    runs.whole("whole", &settings);
    let parted = runs.folder("parted");
    let stop = || names(&parted).iter().any(|name| name.starts_with("checkpoint-"));
    let stopped = runs.run("parted", &settings, &control(&["--checkpoint-every", "2"], &stop));
    assert!(matches!(stopped, Err(Error::Stopped { step: 2, .. })), "{stopped:?}");
    runs.whole("parted", &settings);
    runs.check_equal("parted", "whole");
}

/// At this learning rate, the weights stay as they are, so that the loss is the variance of the values and not their square.
#[test]
fn regression_starts_at_the_mean() {
    let mut runs = Runs::new();
    let folder = runs.folder("values");
    for (name, rows) in [("train.tsv", 0..12), ("validation.tsv", 12..16)] {
        let rows = rows.map(|i| format!("{}.5\tthe plot was {}\n", 100 + i % 3, ["good", "very good"][i % 2]));
        std::fs::write(folder.join(name), format!("label\tsentence\n{}", rows.collect::<String>())).unwrap();
    }
    runs.data = TaskData::load(&folder, &DataOptions::default()).unwrap();
    assert_eq!(runs.data.problem, ProblemType::Regression);
    // A bottleneck of width 1 has biases of the output's shape.
    for (method, more) in [("sora", &[][..]), ("full", &[]), ("adapter", &["--bottleneck", "1"])] {
        let flags = ["--epochs", "1", "--lr", "1e-9", "--method", method];
        runs.whole(method, &settings(&[&flags[..], more].concat()));
        let losses = ["loss", "validation_loss"].map(|key| runs.logs(method).0[0][key].as_f64().unwrap());
        assert!(losses.iter().all(|loss| *loss < 2.0), "{method}: {losses:?}");
    }
}

/// Values in thousandths are learned as well as the same values. Losses are in the unit of the values, squared.
#[test]
fn regression_does_not_depend_on_the_unit() {
    let mut runs = Runs::new();
    let mut losses = Vec::new();
    for unit in [1.0_f64, 1000.0] {
        let folder = runs.folder(&format!("values in {unit}"));
        for (name, rows) in [("train.tsv", 0..24), ("validation.tsv", 24..32)] {
            let value = |i: usize| unit * (7.5 + [0.0, 1.0, 5.0][i % 3]);
            let rows = rows.map(|i| format!("{}\tthe plot was {}\n", value(i), ["bad", "good", "very good"][i % 3]));
            std::fs::write(folder.join(name), format!("label\tsentence\n{}", rows.collect::<String>())).unwrap();
        }
        let options = DataOptions { problem: Some(ProblemType::Regression), ..DataOptions::default() };
        runs.data = TaskData::load(&folder, &options).unwrap();
        for method in ["lora", "full", "adapter"] {
            let name = format!("{method} in {unit}");
            runs.whole(&name, &settings(&["--epochs", "8", "--lr", "1e-2", "--method", method]));
            let last = runs.logs(&name).0[7].clone();
            losses.push(["loss", "validation_loss"].map(|key| last[key].as_f64().unwrap() / unit.powi(2)));
        }
    }
    // The variance of the values is 4.7.
    assert!(losses[0].iter().all(|loss| *loss < 3.0), "{losses:?}");
    for (small, large) in losses.iter().zip(&losses[3..]) {
        for (small, large) in small.iter().zip(large) {
            assert!((small - large).abs() < 0.01 * small.abs().max(0.1), "{losses:?}");
        }
    }
}

#[test]
fn log_of_steps_has_every_tenth_and_the_last() {
    let runs = Runs::new();
    runs.whole("run", &settings(&["--epochs", "4", "--target-ratio", "0.5", "--warmup", "0"]));
    let steps = lines(&runs.folder("run").join("steps.jsonl"));
    let of = |key: &str| steps.iter().map(|step| step[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!((of("step"), of("epoch")), (vec![10.0, 20.0, 24.0], vec![2.0, 4.0, 4.0]));
    let peak = 1.5e-3;
    for (found, done) in of("rate").into_iter().zip([9.0, 19.0, 23.0]) {
        assert!((found - peak * (24.0 - done) / 24.0).abs() < 1e-12, "{found} after {done} steps");
    }
    let last = &lines(&runs.folder("run").join("log.jsonl"))[3];
    for key in ["mean_rank", "parameters", "kept"] {
        assert_eq!(steps[2][key], last[key], "{key}");
    }
    assert!(of("loss").iter().all(|loss| (0.0..2.0).contains(loss)), "{steps:?}");
}

#[test]
fn longer_run_follows_its_new_plan_and_keeps_its_ranks() {
    let runs = Runs::new();
    for flags in [&["--method", "sora", "--gate", "authors"][..], &["--method", "sora"], &["--method", "lora"]] {
        let of = |more: &[&str]| settings(&[flags, &["--lr", "3e-3"], more].concat());
        runs.whole("extended", &of(&["--epochs", "3"]));
        let best = runs.whole("extended", &of(&["--epochs", "3"]));
        runs.whole("extended", &of(&["--epochs", "6", "--extended-from", "3"]));
        let (epochs, _) = runs.logs("extended");
        let values = |key: &str| epochs.iter().map(|epoch| epoch[key].as_f64().unwrap()).collect::<Vec<_>>();
        // Ranks are final from 40 % of the first plan on, which is in its second epoch.
        let parameters = &values("parameters")[1..];
        assert_eq!(parameters.len(), 5);
        assert!(parameters.iter().all(|after| *after == parameters[0]), "{parameters:?}");
        // The best of all epochs is chosen, where every epoch that could be chosen before still can be.
        let first: usize = best.file_name().unwrap().to_str().unwrap()["checkpoint-".len()..].parse().unwrap();
        let accuracy = |epoch: &Value| epoch["metrics"]["accuracy"].as_f64().unwrap();
        let chosen = best_epoch(&runs, "extended");
        assert!(accuracy(&epochs[chosen - 1]) >= accuracy(&epochs[first - 1]), "epoch {chosen} instead of {first}");
        // The same in one go.
        runs.whole("at-once", &of(&["--epochs", "6", "--extended-from", "3"]));
        runs.check_equal("extended", "at-once");
        for name in ["extended", "at-once"] {
            std::fs::remove_dir_all(runs.folder(name)).unwrap();
        }
    }
}

fn best_epoch(runs: &Runs, name: &str) -> usize {
    let last = polyrank_training::checkpoint::last(&runs.folder(name)).unwrap().unwrap();
    let state: Value = serde_json::from_slice(&read(&last.join("state.json"))).unwrap();
    state["progress"]["best_epoch"].as_u64().unwrap() as usize
}

/// At this learning rate, nothing changes, so that no epoch is better than the first that may be chosen.
#[test]
fn patience_ends_a_run_early() {
    let runs = Runs::new();
    // With a target ratio, no epoch may be chosen before the ranks are final, in the fourth of ten epochs.
    for (method, first, ends) in [("lora", 1, 3), ("sora", 4, 6)] {
        let flags = ["--epochs", "10", "--lr", "1e-30", "--weight-decay", "0", "--method", method, "--patience", "2"];
        let settings = settings(&flags);
        let best = runs.whole(method, &settings);
        assert_eq!(best, runs.folder(method).join(format!("checkpoint-{first}")));
        let (epochs, steps) = runs.logs(method);
        let ended: Vec<bool> = epochs.iter().map(|epoch| epoch["ended_early"] == true).collect();
        assert_eq!((ended.len(), ended.iter().position(|ended| *ended)), (ends, Some(ends - 1)), "{method}");
        let last: Value = serde_json::from_str(steps.lines().last().unwrap()).unwrap();
        assert_eq!(last["step"], 6 * ends);
        // A run that has ended early has nothing to continue.
        assert_eq!(runs.whole(method, &settings), best);
        assert_eq!(runs.logs(method), (epochs, steps));
    }
}

/// Who asks for more epochs gets them: those before the planned end, and then as many as `--patience` waits for.
#[test]
fn run_that_ended_early_can_be_made_longer() {
    let runs = Runs::new();
    let flags = ["--lr", "1e-30", "--weight-decay", "0", "--method", "lora", "--patience", "2"];
    runs.whole("lora", &settings(&[&flags[..], &["--epochs", "4"]].concat()));
    assert_eq!(runs.logs("lora").0.len(), 3);
    let longer = settings(&[&flags[..], &["--epochs", "8", "--extended-from", "4"]].concat());
    runs.whole("lora", &longer);
    assert_eq!(runs.logs("lora").0.len(), 6);
}

fn stepper<'a>(engine: &'a Engine, method: Box<dyn Method>) -> Stepper<'a> {
    let rule = Rule { weight_decay: 0.01, eps: 1e-3, clip: Some(1.0), total: 4 };
    let optimizer = Optimizer::new(method.variables(), rule, engine.backend()).unwrap();
    let loss = TaskLoss::new(ProblemType::SingleLabelClassification, &[]);
    Stepper { engine, method, optimizer, loss, workers: Workers::new(100).unwrap() }
}

fn lora(engine: &Engine) -> Lora {
    let modules = (0..engine.layout().modules.len()).collect();
    let shape = LowRankSettings { rank: 3, alpha: 6.0, modules, labels: 3, seed: 5 };
    Lora::new(engine.layout(), &shape, engine.backend()).unwrap()
}

/// Texts of random words, each with a label.
fn rows(engine: &Engine, count: usize) -> (Vec<Encoded>, Vec<Target>) {
    let words = engine.config().vocab_size as u32;
    let mut rng = StdRng::seed_from_u64(23);
    let text = |i: usize| Encoded {
        ids: (0..3 + i % 7).map(|_| rng.random_range(0..words)).collect(),
        type_ids: vec![0; 3 + i % 7],
        truncated: false,
    };
    ((0..count).map(text).collect(), (0..count).map(|i| Target::Class(i % 3)).collect())
}

/// The last batch is smaller than the others: each row has the same weight, not each batch.
#[test]
fn accumulated_batches_step_like_one_batch_with_all_rows() {
    // A GPU's kernels, which are slow on the CPU, have other tests: the batches are added in the same code.
    for backend in super::backends().into_iter().take(2) {
        let engine = Engine::open(&super::base_dir(), &backend).unwrap();
        let (texts, targets) = rows(&engine, 10);
        let texts: Vec<&Encoded> = texts.iter().collect();
        let run = |size: usize| {
            let mut stepper = stepper(&engine, Box::new(lora(&engine)));
            let losses: Vec<f32> = (0..2)
                .map(|_| {
                    let batches = texts.chunks(size).zip(targets.chunks(size));
                    let batches: Vec<Batch> = batches.map(|(texts, targets)| Batch { texts, targets }).collect();
                    stepper.step_over(&batches, StepDropout::default(), 5e-3).unwrap().to_scalar().unwrap()
                })
                .collect();
            let values: Vec<f32> = stepper
                .method
                .variables()
                .iter()
                .flat_map(|variable| variable.var.flatten_all().unwrap().to_vec1::<f32>().unwrap())
                .collect();
            (losses, values)
        };
        let ((whole, expected), (parts, found)) = (run(10), run(4));
        assert!(whole.windows(2).all(|pair| pair[1] < pair[0]), "{whole:?}");
        assert!(whole.iter().zip(&parts).all(|(whole, part)| (whole - part).abs() < 1e-5), "{whole:?} and {parts:?}");
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} and {expected:?}");
    }
}

#[test]
fn run_with_accumulated_batches_equals_one_with_larger_batches() {
    let runs = Runs::new();
    let run = |name: &str, size: &str, accumulate: &str| {
        let flags = ["--epochs", "2", "--dropout", "0", "--batch-size", size, "--accumulate", accumulate];
        // A flag given twice is refused, so that this one's batch size replaces the common one.
        let flags: Vec<&str> =
            FLAGS.iter().filter(|flag| !["--batch-size", "8"].contains(flag)).chain(&flags).copied().collect();
        let matches = Settings::augment_args(Command::new("train")).get_matches_from(flags);
        runs.whole(name, &Settings::from_arg_matches(&matches).unwrap());
        runs.logs(name).0
    };
    // 48 rows are 5 steps of 10 rows, of which the last has 8.
    for (whole, part) in run("whole", "10", "1").iter().zip(run("parts", "5", "2")) {
        assert_eq!((&whole["step"], &whole["metrics"]), (&part["step"], &part["metrics"]));
        let [whole, part] = [whole, &part].map(|epoch| epoch["loss"].as_f64().unwrap());
        assert!((whole - part).abs() < 1e-4, "{whole} and {part}");
    }
}

/// LoRA with a penalty whose gradient for one variable is infinite where the penalty is 0.
struct Poisoned(Lora);

const POISONED: usize = 7;

impl Method for Poisoned {
    fn variables(&self) -> Vec<Variable> {
        self.0.variables()
    }

    fn head(&self) -> Head {
        self.0.head()
    }

    fn pass(&self) -> candle_core::Result<Box<dyn Pass + '_>> {
        self.0.pass()
    }

    fn penalty(&self) -> candle_core::Result<Option<Tensor>> {
        let var = self.variables()[POISONED].var.clone();
        Ok(Some((var.as_tensor() - var.as_detached_tensor())?.sqrt()?.sum_all()?))
    }

    fn before_step(&mut self, step: &mut Step) -> candle_core::Result<()> {
        self.0.before_step(step)
    }

    fn restore(&mut self, state: &HashMap<String, Tensor>) -> candle_core::Result<()> {
        self.0.restore(state)
    }

    fn report(&self) -> candle_core::Result<Report> {
        self.0.report()
    }

    fn export(&self, info: AdapterInfo) -> candle_core::Result<Export> {
        self.0.export(info)
    }
}

#[test]
fn gradient_that_is_not_finite_is_named() {
    let engine = engine();
    let (texts, targets) = rows(&engine, 4);
    let texts: Vec<&Encoded> = texts.iter().collect();
    let batch = Batch { texts: &texts, targets: &targets };
    let name = lora(&engine).variables()[POISONED].name.clone();
    let mut stepper = stepper(&engine, Box::new(Poisoned(lora(&engine))));
    stepper.optimizer.done = 41;
    let error = stepper.step(&batch, StepDropout::default(), 1e-3).unwrap_err();
    let expected = format!("the gradient of {name} is NaN or infinite at step 42: lower the learning rate");
    assert_eq!(error.to_string(), expected);
}

/// The learning rate is 0 in the first step, and huge in the second.
#[test]
fn run_that_diverges_keeps_its_last_checkpoint() {
    let runs = Runs::new();
    for (lr, every, step, left) in [("1e30", "1", 3, "checkpoint-0+2"), ("1e41", "1", 2, "checkpoint-0+1")] {
        let settings = settings(&["--epochs", "2", "--lr", lr, "--warmup", "1", "--method", "lora"]);
        let error = runs.run(lr, &settings, &control(&["--checkpoint-every", every], &|| false)).unwrap_err();
        match (&error, step) {
            (Error::Diverged { step: 3, loss }, 3) => assert!(!loss.is_finite()),
            (Error::NotFiniteTensor { step: 2, tensor }, 2) => assert!(tensor.ends_with("lora_B"), "{tensor}"),
            _ => panic!("{error}"),
        }
        let checkpoints: Vec<String> =
            names(&runs.folder(lr)).into_iter().filter(|name| name.starts_with("ch")).collect();
        assert_eq!(checkpoints, [left]);
        // It can be continued, with the same end.
        let again = runs.run(lr, &settings, &control(&["--checkpoint-every", every], &|| false)).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
    }
}
