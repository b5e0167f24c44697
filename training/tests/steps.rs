//! Compares optimiser steps with PyTorch. `goldens/make_step.py` made the variables, gradients and losses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use polyrank::adapter::ProblemType;
use polyrank::encoder::Packed;
use polyrank::engine::Engine;
use polyrank_training::data::Target;
use polyrank_training::loss::TaskLoss;
use polyrank_training::method::sora::{GateRule, SoraSettings, Threshold};
use polyrank_training::method::{
    self, BottleneckAdapter, Lora, LowRankSettings, Method, Pass, Sora, StepDropout, TrainedHead, TrainingPass, bitfit,
    full,
};
use polyrank_training::optim::{Optimizer, Rule, Variable};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::{ENCODERS, backends, base_dir, encoder_on, engine, pack};

/// The tolerance of variables. Gradients are compared relative to their global norm.
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
        let target = |value: &Value| {
            if regression {
                Target::Value(value.as_f64().unwrap())
            } else {
                Target::Class(value.as_u64().unwrap() as usize)
            }
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

    fn shape(&self, labels: usize) -> LowRankSettings {
        LowRankSettings {
            rank: self.setting("rank").unwrap() as usize,
            alpha: self.setting("alpha").unwrap(),
            modules: (0..self.engine.layout().modules.len()).collect(),
            labels,
            seed: 11,
        }
    }

    /// Starts the method with the golden's values.
    fn begin(&self, method: impl Method) -> impl Method {
        for Variable { name, var, .. } in method.variables() {
            var.set(&self.tensors[&format!("init.{name}")]).unwrap();
        }
        method
    }

    fn lora(&self) -> impl Method {
        let labels = self.tensors["init.classifier.bias"].elem_count();
        self.begin(Lora::new(self.engine.layout(), &self.shape(labels), &Device::Cpu).unwrap())
    }

    fn sora(&self, gate: GateRule) -> impl Method {
        let threshold = match self.setting("lambda") {
            Some(lambda) => Threshold::Lambda(lambda),
            None => Threshold::Xi(self.setting("xi").unwrap()),
        };
        let sparse_lambda = self.setting("sparse_lambda").unwrap_or(0.0);
        let settings = SoraSettings { gate, threshold, gate_rate: 1.0, sparse_lambda, depth_bias: 0.0 };
        self.begin(Sora::new(self.engine.layout(), &self.shape(3), settings, &Device::Cpu).unwrap())
    }

    /// A method that starts with the golden's head, and else with what the base has.
    fn with_head(&self, method: impl Method) -> impl Method {
        for Variable { name, var, .. } in method.variables() {
            if let Some(start) = self.tensors.get(&format!("init.{name}")) {
                var.set(start).unwrap();
            }
        }
        method
    }

    fn head(&self) -> TrainedHead {
        let mut rng = StdRng::seed_from_u64(1);
        TrainedHead::new(self.engine.layout(), 3, &mut rng, self.engine.device()).unwrap()
    }

    fn loss(&self, method: &dyn Method, pass: &dyn Pass) -> Tensor {
        let encoder = &**self.engine.encoder();
        let pass = TrainingPass { pass, dropout: StepDropout::default() };
        let pooled = encoder.pooled(&self.batch, &pass).unwrap();
        let logits = encoder.logits(&pooled, &method.head(), &pass).unwrap();
        TaskLoss::new(self.problem, &[]).mean(&logits, &self.targets).unwrap()
    }

    fn optimizer(&self, method: &dyn Method) -> Optimizer {
        let rule = Rule {
            weight_decay: self.setting("weight_decay").unwrap_or(0.0),
            eps: self.setting("eps").unwrap_or(1e-8),
            clip: self.setting("clip"),
            total: 3,
        };
        Optimizer::new(method.variables(), rule, self.engine.backend()).unwrap()
    }

    /// Checks the gradients before the first step, relative to their norm.
    fn check_gradients(&self, variables: &[Variable], gradients: &[Option<Tensor>]) {
        let norm = self.facts["grad_norm"][0].as_f64().unwrap() as f32;
        for (Variable { name, .. }, gradient) in variables.iter().zip(gradients) {
            let found = gradient.as_ref().unwrap_or_else(|| panic!("{name} has no gradient"));
            let worst = largest_difference(found, &self.tensors[&format!("grad.{name}")]);
            assert!(worst <= 1e-5 * norm, "gradient of {name}: off by {worst} of {norm}");
        }
    }

    /// Checks the variables after a step. Variables that the golden lacks are skipped (key biases, whose gradient is noise).
    fn check_variables(&self, variables: &[Variable], step: usize) {
        let mut checked = 0;
        for Variable { name, var, .. } in variables {
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

    /// Makes three steps. Checks the loss before each step and after the last, the gradients before the first step, and the variables
    /// that the golden has.
    fn run(&self, method: &mut dyn Method) {
        let mut optimizer = self.optimizer(method);
        for step in 0..=3 {
            let (gradients, loss) = {
                let pass = method.pass().unwrap();
                let loss = self.loss(method, &*pass);
                (gradients_of(&*pass, &loss), loss)
            };
            let penalty = method.penalty().unwrap();
            let found = f64::from(loss.to_scalar::<f32>().unwrap());
            let expected = self.facts["loss"][step].as_f64().unwrap();
            // The tolerance of the loss after three steps includes that of the variables.
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
            let mut gradients = gradients;
            if let Some(penalty) = penalty {
                let of_penalty = optimizer.gradients(&penalty.backward().unwrap());
                for (sum, part) in gradients.iter_mut().zip(of_penalty) {
                    *sum = part.map(|part| (part + sum.as_ref().unwrap()).unwrap()).or(sum.take());
                }
            }
            if step == 0 {
                self.check_gradients(&optimizer.variables, &gradients);
            }
            if step < 3 {
                let norm = method::step(method, &mut optimizer, gradients, self.setting("lr").unwrap()).unwrap();
                let norm = norm.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                let expected = self.facts["grad_norm"][step].as_f64().unwrap();
                assert!(
                    (norm - expected).abs() <= 1e-3 * expected,
                    "norm before step {}: {norm}, expected {expected}",
                    step + 1
                );
                self.check_variables(&optimizer.variables, step + 1);
            }
        }
    }
}

/// The gradients of a method's variables.
fn gradients_of(pass: &dyn Pass, loss: &Tensor) -> Vec<Option<Tensor>> {
    let store = loss.backward().unwrap();
    pass.gradients(pass.leaves().iter().map(|leaf| store.get(leaf).cloned()).collect()).unwrap()
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let differences: Vec<f32> = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    // `f32::max` ignores NaN.
    differences.into_iter().max_by(f32::total_cmp).unwrap()
}

#[test]
fn lora_steps_like_pytorch() {
    let golden = Golden::open("lora");
    golden.run(&mut golden.lora());
}

#[test]
fn sora_with_the_papers_gates_steps_like_pytorch() {
    let golden = Golden::open("sora_paper");
    golden.run(&mut golden.sora(GateRule::Paper));
}

#[test]
fn sora_with_the_authors_gates_steps_like_pytorch() {
    let golden = Golden::open("sora_authors");
    golden.run(&mut golden.sora(GateRule::Authors));
}

#[test]
fn full_fine_tuning_steps_like_pytorch() {
    let golden = Golden::open("full");
    golden.run(&mut golden.with_head(full(&**golden.engine.encoder(), golden.head()).unwrap()));
}

#[test]
fn bitfit_steps_like_pytorch() {
    let golden = Golden::open("bitfit");
    golden.run(&mut golden.with_head(bitfit(&**golden.engine.encoder(), golden.head()).unwrap()));
}

#[test]
fn bottlenecks_step_like_pytorch_on_every_backend() {
    for backend in backends() {
        let mut golden = Golden::open("adapter");
        golden.engine = Engine::open(&base_dir(), backend.clone()).unwrap();
        let size = golden.setting("bottleneck").unwrap() as usize;
        let adapter = BottleneckAdapter::new(golden.engine.layout(), size, 0, golden.head(), backend).unwrap();
        golden.run(&mut golden.begin(adapter));
    }
}

#[test]
fn regression_gradients_equal_pytorch() {
    let golden = Golden::open("regression");
    let method = golden.lora();
    let pass = method.pass().unwrap();
    let loss = golden.loss(&method, &*pass);
    let found = f64::from(loss.to_scalar::<f32>().unwrap());
    assert!((found - golden.facts["loss"][0].as_f64().unwrap()).abs() <= 1e-4, "{found}");
    golden.check_gradients(&method.variables(), &gradients_of(&*pass, &loss));
}

/// `goldens/make_encoder_steps.py` made the expected values.
#[test]
fn lora_steps_like_pytorch_on_every_architecture() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoder_steps");
    let all: Value = serde_json::from_slice(&std::fs::read(folder.join("batch.json")).unwrap()).unwrap();
    let setting = |name: &str| all["settings"][name].as_f64().unwrap();
    for (name, backend) in ENCODERS.into_iter().flat_map(|name| backends().map(|backend| (name, backend))) {
        let facts = &all["bases"][name];
        let golden = Golden {
            engine: encoder_on(name, &backend),
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
        let lora = Lora::new(golden.engine.layout(), &golden.shape(3), golden.engine.backend()).unwrap();
        let mut method = golden.begin(lora);
        let (loss, gradients) = {
            let pass = method.pass().unwrap();
            let loss = golden.loss(&method, &*pass);
            (loss.clone(), gradients_of(&*pass, &loss))
        };
        let (found, expected) = (f64::from(loss.to_scalar::<f32>().unwrap()), facts["loss"].as_f64().unwrap());
        assert!((found - expected).abs() <= 1e-5, "{name}: loss {found}, expected {expected}");
        let mut optimizer = golden.optimizer(&method);
        golden.check_gradients(&optimizer.variables, &gradients);
        method::step(&mut method, &mut optimizer, gradients, setting("lr")).unwrap();
        golden.check_variables(&optimizer.variables, 1);
    }
}
