//! Compares with PEFT. `tests/goldens/make_adalora.py` made the numbers.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::Device;
use polyrank::params::{Form, Input, Module};
use serde_json::Value;

use super::*;

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/adalora").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap()
}

fn number(of: &Value, key: &str) -> usize {
    of[key].as_u64().unwrap() as usize
}

/// AdaLoRA on the golden's linears, at the phases of its run.
fn method(orth_reg_weight: f64) -> AdaLora {
    let module = |(name, in_features, out_features)| Module {
        name,
        label: name,
        in_features,
        out_features,
        input: Input::Attention,
    };
    let layout = Layout {
        prefix: "m",
        stack: "layer",
        layers: 2,
        modules: [("query", 6, 6), ("intermediate", 6, 10), ("output", 10, 6)].map(module).to_vec(),
        other_linears: Vec::new(),
        tables: Vec::new(),
        head: Vec::new(),
        hidden: 6,
    };
    let run = &json("facts.json")["settings"];
    let total = number(run, "total_step") as f64;
    let settings = AdaLoraSettings {
        target_rank: number(run, "target_r"),
        // Half a step more, because shares are rounded down.
        tinit: (number(run, "tinit") as f64 + 0.5) / total,
        tfinal: (number(run, "tfinal") as f64 + 0.5) / total,
        delta_t: Some(number(run, "deltaT")),
        orth_reg_weight,
    };
    let rank = number(run, "init_r");
    let shape = LowRankSettings { rank, alpha: 6.0, modules: vec![0, 1, 2], labels: 2, seed: 0 };
    AdaLora::new(&layout, &shape, settings, &Device::Cpu).unwrap()
}

/// A step of the golden's run with these gradients.
fn step(number: usize, gradients: Vec<Option<Tensor>>) -> Step {
    Step { number, total: super::tests::number(&json("facts.json")["settings"], "total_step"), rate: 0.0, gradients }
}

fn difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn budget_falls_as_in_peft() {
    for run in json("budget.json").as_array().unwrap() {
        let [init, target, tinit, tfinal, delta_t, total] =
            ["init", "target", "tinit", "tfinal", "deltaT", "total_step"].map(|key| number(run, key));
        let budget = RankBudget { init, target, tinit, tfinal, delta_t, total };
        let end = total - tfinal;
        for (step, expected) in (1..).zip(run["steps"].as_array().unwrap()) {
            assert_eq!(budget.ranks(step) as u64, expected[0].as_u64().unwrap(), "step {step} of {run}");
            // In the step `end`, PEFT's model chooses in any case; after it, the ranks are final.
            let chooses = step == end || step < end && expected[1].as_bool().unwrap();
            assert_eq!(budget.chooses(step), chooses, "step {step} of {run}");
            assert_eq!((budget.falls(step), budget.settled(step)), (step < end, step >= end));
        }
        assert_eq!(run["steps"].as_array().unwrap().len(), total);
    }
}

/// The run chooses ranks five times; ranks return in between, and are final after step 9. A checkpoint in the middle changes nothing.
#[test]
fn ranks_are_chosen_as_in_peft() {
    let golden = tensors("steps.safetensors");
    let (mut adalora, mut chosen) = (method(0.0), 0);
    for number in 1..=12 {
        let variables = adalora.variables();
        let all = |kind: &str| {
            let get = |variable: &Variable| golden[&format!("{kind}{number}.{}", variable.name)].clone();
            variables.iter().map(get).collect::<Vec<_>>()
        };
        variables.iter().zip(all("weights")).for_each(|(variable, value)| variable.var.set(&value).unwrap());
        let mut step = step(number, all("gradients").into_iter().map(Some).collect());
        adalora.before_step(&mut step).unwrap();
        for (gradient, expected) in step.gradients.iter().zip(all("gradients")) {
            assert_eq!(difference(gradient.as_ref().unwrap(), &expected), 0.0, "no penalty");
        }
        adalora.after_step(&step).unwrap();
        for variable in variables.iter().filter(|variable| variable.name.ends_with("lora_E")) {
            let expected = &golden[&format!("masked{number}.{}", variable.name)];
            assert_eq!(difference(&variable.var, expected), 0.0, "{} after step {number}", variable.name);
        }
        let report = adalora.report().unwrap();
        chosen += usize::from(report.ranks.iter().sum::<usize>() < 18);
        assert_eq!(adalora.eligible(number, 12), number >= 9);
        let mut resumed = method(0.0);
        resumed.restore(&adalora.state().unwrap().into_iter().collect()).unwrap();
        adalora = resumed;
    }
    assert_eq!(chosen, 7);
}

#[test]
fn penalty_has_the_gradient_of_peft() {
    let golden = tensors("penalty.safetensors");
    let facts = json("facts.json");
    let weight = facts["orth_reg_weight"].as_f64().unwrap();
    let mut adalora = method(weight);
    let variables = adalora.variables();
    let zeros = variables.iter().map(|variable| Some(variable.var.zeros_like().unwrap())).collect();
    let (mut step, mut norms) = (step(1, zeros), 0.0);
    for variable in &variables {
        if let Some(value) = golden.get(&format!("weight.{}", variable.name)) {
            variable.var.set(value).unwrap();
            let side = if variable.name.ends_with("lora_A") { Side::Rows } else { Side::Columns };
            norms += orthogonality(&value.unsqueeze(0).unwrap(), side).unwrap().0.to_vec1::<f32>().unwrap()[0];
        }
    }
    let penalty = weight * f64::from(norms) / 12.0;
    assert!((penalty - facts["penalty"].as_f64().unwrap()).abs() < 1e-5, "{penalty}");
    adalora.before_step(&mut step).unwrap();
    let mut checked = 0;
    for (variable, gradient) in variables.iter().zip(&step.gradients) {
        let gradient = gradient.as_ref().unwrap();
        if let Some(expected) = golden.get(&format!("gradient.{}", variable.name)) {
            let off = difference(gradient, expected);
            assert!(off < 1e-6, "{}: off by {off}", variable.name);
            checked += 1;
        } else {
            assert_eq!(difference(gradient, &gradient.zeros_like().unwrap()), 0.0, "{}", variable.name);
        }
    }
    assert_eq!(checked, 12);
}

#[test]
fn orthonormal_vectors_have_no_gradient() {
    let identity = Tensor::eye(3, DType::F32, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    for side in [Side::Rows, Side::Columns] {
        let (norms, gradient) = orthogonality(&identity, side).unwrap();
        assert_eq!(norms.to_vec1::<f32>().unwrap(), [0.0]);
        assert_eq!(difference(&gradient, &gradient.zeros_like().unwrap()), 0.0);
    }
}

#[test]
fn a_budget_for_all_ranks_keeps_them() {
    assert_eq!(survivors(&[0.1, 0.1, 0.2], 3), [true; 3]);
    assert_eq!(survivors(&[0.1, 0.3, 0.2], 2), [false, true, true]);
    // As in PEFT, equal importance goes together.
    assert_eq!(survivors(&[0.1, 0.1, 0.2], 2), [false, false, true]);
}

#[test]
fn both_forms_observe_alike() {
    let vector = |shift: usize| {
        let values: Vec<f32> = (0..50).map(|i| ((7 * i + shift) % 13) as f32 / 13.0 - 0.4).collect();
        Tensor::from_vec(values, 50, &Device::Cpu).unwrap()
    };
    let [host, device] = [Form::Cpu, Form::Reference].map(|form| {
        let mut importance = Importance::new(50, &Device::Cpu).unwrap();
        (0..5).for_each(|step| importance.observe(&vector(step), &vector(2 * step + 1), form).unwrap());
        importance.elements().unwrap()
    });
    assert!(difference(&host, &device) < 1e-8);
    assert!(host.max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-3);
}

#[test]
fn a_checkpoint_with_other_shapes_is_refused() {
    let wrong = Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap();
    for (name, expected) in [("adalora.mask", "[6, 3]"), ("adalora.uncertainty", "[282]")] {
        let error = method(0.0).restore(&HashMap::from([(name.to_owned(), wrong.clone())])).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected) && error.contains("found [5]"), "{error}");
    }
}
