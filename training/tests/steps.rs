//! Optimiser steps against PyTorch's: `goldens/make_step.py` made the variables, gradients and losses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use polyrank::adapter::ProblemType;
use polyrank::encoder::{Head, Hooks, Packed, head_logits};
use polyrank::engine::Engine;
use polyrank_training::data::Target;
use polyrank_training::method::{GateRule, GateStart, LowRank, LowRankSettings, Replace, Subset, Trainable};
use polyrank_training::optim::{Optimizer, StepRule, Threshold};
use polyrank_training::trainer::task_loss;
use serde_json::Value;

use super::{ENCODERS, encoder, engine, pack};

/// What each method may differ by, in variables; gradients are relative to their global norm.
const TOLERANCE: f32 = 1e-4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/step")
}

struct Golden {
    engine: Engine,
    tensors: HashMap<String, Tensor>,
    batch: Packed,
    facts: Value,
    targets: Vec<Target>,
    problem: ProblemType,
}

impl Golden {
    fn open(method: &str) -> Self {
        let all: Value = serde_json::from_slice(&std::fs::read(folder().join("batch.json")).unwrap()).unwrap();
        let file = folder().join(format!("{method}.safetensors"));
        let regression = method == "regression";
        let key = if regression { "regression_labels" } else { "labels" };
        let target = |value: &Value| match regression {
            true => Target::Value(value.as_f64().unwrap()),
            false => Target::Class(value.as_u64().unwrap() as usize),
        };
        Self {
            engine: engine(),
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
            batch: pack(&all["texts"]),
            facts: all["methods"][method].clone(),
            targets: all[key].as_array().unwrap().iter().map(target).collect(),
            problem: if regression { ProblemType::Regression } else { ProblemType::SingleLabelClassification },
        }
    }

    fn setting(&self, name: &str) -> Option<f64> {
        self.facts["settings"][name].as_f64()
    }

    fn low_rank(&self, gates: Option<GateStart>) -> LowRank {
        let settings = LowRankSettings {
            rank: self.setting("rank").unwrap() as usize,
            alpha: self.setting("alpha").unwrap(),
            gates,
            modules: (0..self.engine.layout().modules.len()).collect(),
            labels: self.tensors["init.classifier.bias"].elem_count(),
            seed: 11,
        };
        let method = LowRank::new(self.engine.layout(), &settings, &Device::Cpu).unwrap();
        for Trainable { name, var, .. } in method.trainables() {
            var.set(&self.tensors[&format!("init.{name}")]).unwrap();
        }
        method
    }

    fn replace(&self, subset: Subset) -> Replace {
        let head = ["classifier.weight", "classifier.bias"];
        let head: Head =
            head.iter().map(|name| ((*name).to_owned(), self.tensors[&format!("init.{name}")].clone())).collect();
        Replace::new(&**self.engine.encoder(), subset, &head).unwrap()
    }

    fn loss(&self, head: &Head, hooks: &dyn Hooks) -> Tensor {
        let encoder = &**self.engine.encoder();
        let hidden = encoder.forward(&self.batch, hooks).unwrap();
        let logits = head_logits(encoder, &hidden, &self.batch, head, hooks).unwrap();
        task_loss(&logits, &self.targets, self.problem).unwrap()
    }

    fn rule(&self, gate: GateRule) -> StepRule {
        let threshold =
            self.setting("lambda").map_or(Threshold::Xi(self.setting("xi").unwrap_or(0.0)), Threshold::Lambda);
        StepRule {
            weight_decay: self.setting("weight_decay").unwrap_or(0.0),
            eps: self.setting("eps").unwrap_or(1e-8),
            clip: self.setting("clip"),
            gate,
            gate_rate: 1.0,
            threshold,
        }
    }

    /// The gradients before the first step, relative to their norm.
    fn check_gradients(&self, trainables: &[Trainable], gradients: &GradStore) {
        let norm = self.facts["grad_norm"][0].as_f64().unwrap() as f32;
        for Trainable { name, var, .. } in trainables {
            let found = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let worst = largest_difference(found, &self.tensors[&format!("grad.{name}")]);
            assert!(worst <= 1e-5 * norm, "gradient of {name}: off by {worst} of {norm}");
        }
    }

    /// The variables after a step. Where the golden has none (key biases, whose gradient is noise) nothing is asked.
    fn check_variables(&self, trainables: &[Trainable], step: usize) {
        let mut checked = 0;
        for Trainable { name, var, .. } in trainables {
            let Some(expected) = self.tensors.get(&format!("step{step}.{name}")) else { continue };
            checked += 1;
            let worst = largest_difference(var.as_tensor(), expected);
            assert!(worst <= TOLERANCE, "{name} after step {step}: off by {worst}");
            if name.ends_with(".gate") {
                let zeros = |tensor: &Tensor| -> Vec<bool> {
                    tensor.to_vec1::<f32>().unwrap().iter().map(|gate| *gate == 0.0).collect()
                };
                assert_eq!(zeros(var.as_tensor()), zeros(expected), "exact zeros of {name} after step {step}");
            }
        }
        let stored = self.tensors.keys().filter(|key| key.starts_with(&format!("step{step}."))).count();
        assert_eq!(checked, stored, "variables after step {step}");
    }

    /// Three steps; the loss before each and after the last, gradients at first, variables where the golden has them.
    fn run(&self, trainables: Vec<Trainable>, gate: GateRule, forward: impl Fn() -> (Tensor, Option<Tensor>)) {
        let mut optimizer = Optimizer::new(trainables, self.rule(gate));
        for step in 0..=3 {
            let (loss, penalty) = forward();
            let found = f64::from(loss.to_scalar::<f32>().unwrap());
            let expected = self.facts["loss"][step].as_f64().unwrap();
            // The loss after three steps carries what the variables may differ by.
            let allowed = if step == 0 { 1e-5 } else { 1e-4 };
            assert!((found - expected).abs() <= allowed, "loss before step {}: {found}, expected {expected}", step + 1);
            if let Some(penalty) = &penalty {
                let found = f64::from(penalty.to_scalar::<f32>().unwrap());
                let expected = self.facts["penalty"][step].as_f64().unwrap();
                assert!(
                    (found - expected).abs() <= allowed,
                    "penalty before step {}: {found}, expected {expected}",
                    step + 1
                );
            }
            let whole = match penalty {
                Some(penalty) => (loss + penalty).unwrap(),
                None => loss,
            };
            let gradients = whole.backward().unwrap();
            if step == 0 {
                self.check_gradients(&optimizer.trainables, &gradients);
            }
            if step < 3 {
                let gradients = optimizer.gradients(&gradients).unwrap();
                let (norm, _) = optimizer.step(gradients, self.setting("lr").unwrap(), &[]).unwrap();
                let expected = self.facts["grad_norm"][step].as_f64().unwrap();
                assert!(
                    (norm - expected).abs() <= 1e-3 * expected,
                    "norm before step {}: {norm}, expected {expected}",
                    step + 1
                );
                self.check_variables(&optimizer.trainables, step + 1);
            }
        }
    }

    fn run_low_rank(&self, gates: Option<GateStart>, gate: GateRule) {
        let method = self.low_rank(gates);
        self.run(method.trainables(), gate, || {
            let weight = self.setting("sparse_lambda");
            let penalty = weight.map(|weight| (method.gate_penalty().unwrap().unwrap() * weight).unwrap());
            (self.loss(&method.head(), &method), penalty)
        });
    }

    fn run_replace(&self, subset: Subset) {
        let method = self.replace(subset);
        self.run(method.trainables(), GateRule::Paper, || (self.loss(&method.head(), &method), None));
    }
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let differences: Vec<f32> = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    // `max` passes over what is no number.
    differences.into_iter().max_by(f32::total_cmp).unwrap()
}

#[test]
fn lora_steps_as_pytorch() {
    Golden::open("lora").run_low_rank(None, GateRule::Paper);
}

#[test]
fn sora_by_the_paper_steps_as_pytorch() {
    Golden::open("sora_paper").run_low_rank(Some(GateStart::Normal), GateRule::Paper);
}

#[test]
fn sora_by_its_authors_steps_as_pytorch() {
    Golden::open("sora_authors").run_low_rank(Some(GateStart::Normal), GateRule::Authors);
}

#[test]
fn full_fine_tuning_steps_as_pytorch() {
    Golden::open("full").run_replace(Subset::Full);
}

#[test]
fn bitfit_steps_as_pytorch() {
    Golden::open("bitfit").run_replace(Subset::Biases);
}

#[test]
fn regression_has_the_gradients_of_pytorch() {
    let golden = Golden::open("regression");
    let method = golden.low_rank(None);
    let loss = golden.loss(&method.head(), &method);
    let found = f64::from(loss.to_scalar::<f32>().unwrap());
    assert!((found - golden.facts["loss"][0].as_f64().unwrap()).abs() <= 1e-4, "{found}");
    golden.check_gradients(&method.trainables(), &loss.backward().unwrap());
}

/// Made by `goldens/make_encoder_steps.py`.
#[test]
fn lora_steps_as_pytorch_on_every_architecture() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoder_steps");
    let all: Value = serde_json::from_slice(&std::fs::read(folder.join("batch.json")).unwrap()).unwrap();
    let setting = |name: &str| all["settings"][name].as_f64().unwrap();
    for name in ENCODERS {
        let facts = &all["bases"][name];
        let golden = Golden {
            engine: encoder(name),
            tensors: candle_core::safetensors::load(folder.join(format!("{name}.safetensors")), &Device::Cpu).unwrap(),
            batch: pack(&facts["texts"]),
            facts: serde_json::json!({"grad_norm": [facts["grad_norm"]], "settings": all["settings"]}),
            targets: all["labels"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| Target::Class(id.as_u64().unwrap() as usize))
                .collect(),
            problem: ProblemType::SingleLabelClassification,
        };
        let settings = LowRankSettings {
            rank: setting("rank") as usize,
            alpha: setting("alpha"),
            gates: None,
            modules: (0..golden.engine.layout().modules.len()).collect(),
            labels: 3,
            seed: 11,
        };
        let method = LowRank::new(golden.engine.layout(), &settings, &Device::Cpu).unwrap();
        for Trainable { name, var, .. } in method.trainables() {
            var.set(&golden.tensors[&format!("init.{name}")]).unwrap();
        }
        let loss = golden.loss(&method.head(), &method);
        let (found, expected) = (f64::from(loss.to_scalar::<f32>().unwrap()), facts["loss"].as_f64().unwrap());
        assert!((found - expected).abs() <= 1e-5, "{name}: loss {found}, expected {expected}");
        let gradients = loss.backward().unwrap();
        let mut optimizer = Optimizer::new(method.trainables(), golden.rule(GateRule::Paper));
        golden.check_gradients(&optimizer.trainables, &gradients);
        let gradients = optimizer.gradients(&gradients).unwrap();
        optimizer.step(gradients, setting("lr"), &[]).unwrap();
        golden.check_variables(&optimizer.trainables, 1);
    }
}
