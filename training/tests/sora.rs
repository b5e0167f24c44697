//! SoRA's gates over the steps of a run, with made-up gradients.

use candle_core::{Device, Tensor};
use polyrank::params::Backend;
use polyrank_training::method::sora::{Controller, GateRule, SoraSettings, Threshold};
use polyrank_training::method::{self, LowRankSettings, Method, Sora};
use polyrank_training::optim::{Optimizer, Rule};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::engine;

/// A run of ten steps on the query linears of the tiny base, with two ranks each and random values.
struct Run {
    method: Sora,
    optimizer: Optimizer,
}

impl Run {
    fn new(gate: GateRule, threshold: Threshold, gate_rate: f64) -> Self {
        Self::with_bias(gate, threshold, gate_rate, 0.0)
    }

    fn with_bias(gate: GateRule, threshold: Threshold, gate_rate: f64, depth_bias: f64) -> Self {
        Self::over(vec![0], SoraSettings { gate, threshold, gate_rate, sparse_lambda: 0.0, depth_bias })
    }

    /// A run on these modules.
    fn over(modules: Vec<usize>, settings: SoraSettings) -> Self {
        let shape = LowRankSettings { rank: 2, alpha: 4.0, modules, labels: 3, seed: 1 };
        let method = Sora::new(engine().layout(), &shape, settings, &Device::Cpu).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        for variable in method.variables() {
            let values: Vec<f32> = (0..variable.var.elem_count()).map(|_| rng.random_range(0.5..1.0)).collect();
            variable.var.set(&Tensor::from_vec(values, variable.var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        let rule = Rule { weight_decay: 0.1, eps: 1e-8, clip: None, total: 10 };
        let optimizer = Optimizer::new(method.variables(), rule, &Backend::cpu()).unwrap();
        Self { method, optimizer }
    }

    /// Gradients for all variables. Those of gates are `of_gates`, if given.
    fn gradients(&self, rng: &mut StdRng, of_gates: Option<[f32; 2]>) -> Vec<Vec<f32>> {
        let of = |i: usize| match of_gates {
            Some(gradient) if self.is_gate(i) => gradient.to_vec(),
            _ => (0..self.values(i).len()).map(|_| rng.random_range(-1.0..1.0)).collect(),
        };
        (0..self.optimizer.variables.len()).map(of).collect()
    }

    /// Makes one step at the rate 0.01, and returns the gradients' norm.
    fn step(&mut self, gradients: &[Vec<f32>]) -> f64 {
        let tensors = self.optimizer.variables.iter().zip(gradients);
        let tensors = tensors
            .map(|(variable, gradient)| Tensor::from_slice(gradient, variable.var.shape(), &Device::Cpu).ok())
            .collect();
        method::step(&mut self.method, &mut self.optimizer, tensors, 0.01).unwrap().to_scalar().unwrap()
    }

    fn is_gate(&self, i: usize) -> bool {
        self.optimizer.variables[i].name.ends_with(".gate")
    }

    fn values(&self, i: usize) -> Vec<f32> {
        self.optimizer.variables[i].var.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn all(&self) -> Vec<Vec<f32>> {
        (0..self.optimizer.variables.len()).map(|i| self.values(i)).collect()
    }
}

fn norm(gradients: &[Vec<f32>]) -> f64 {
    gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt()
}

/// A second run, which never settles, has the same product of gate and `Wu` at the time of folding. Afterwards, the first run is
/// trained without gates.
#[test]
fn settled_gates_are_folded_once() {
    let mut rng = StdRng::seed_from_u64(2);
    let controller = Controller { target: 1.0, total: 10 };
    let settles = (0..10).find(|&step| controller.settled(step)).unwrap();
    let mut ours = Run::new(GateRule::Authors, Threshold::Ratio(1.0), 1.0);
    let mut twin = Run::new(GateRule::Authors, Threshold::Xi(0.0), 1.0);
    for _ in 0..settles {
        let gradients = ours.gradients(&mut rng, None);
        ours.step(&gradients);
        twin.step(&gradients);
    }
    let (found, mut expected) = (ours.all(), twin.all());
    for i in (1..expected.len()).filter(|&i| ours.is_gate(i)) {
        let gate = std::mem::replace(&mut expected[i], vec![1.0; 2]);
        expected[i - 1].iter_mut().enumerate().for_each(|(at, w)| *w *= gate[at % 2]);
        assert_eq!(ours.optimizer.moments(i - 1).unwrap().steps, 0, "Adam starts anew for Wu");
    }
    assert_eq!(found, expected);
    for _ in settles..10 {
        let mut gradients = ours.gradients(&mut rng, None);
        let found = ours.step(&gradients);
        (0..gradients.len()).filter(|&i| ours.is_gate(i)).for_each(|i| gradients[i].clear());
        assert!((found - norm(&gradients)).abs() < 1e-9, "folded gates count in no norm");
    }
    for i in (1..expected.len()).filter(|&i| ours.is_gate(i)) {
        assert_eq!(ours.values(i), [1.0, 1.0]);
        assert_ne!(ours.values(i - 1), expected[i - 1]);
        let steps = [i - 2, i - 1, i].map(|i| ours.optimizer.moments(i).unwrap().steps);
        assert_eq!(steps, [10, 10 - settles, settles]);
    }
}

/// Ranks whose gates have no gradient are removed for good. The other gates are neither shrunk nor folded, and continue to learn.
#[test]
fn adaptive_gates_keep_the_ranks_that_matter() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut run = Run::new(GateRule::Adaptive, Threshold::Ratio(0.5), 0.5);
    let start = run.values(2);
    let mut kept: Vec<Vec<f32>> = Vec::new();
    for step in 0..10 {
        let (mut gradients, before) = (run.gradients(&mut rng, Some([1e-3, 1.0])), run.all());
        let found = run.step(&gradients);
        // A removed gate does not count in the norm.
        for i in (0..gradients.len()).filter(|&i| run.is_gate(i)) {
            gradients[i].iter_mut().zip(&before[i]).filter(|(_, gate)| **gate == 0.0).for_each(|(g, _)| *g = 0.0);
        }
        assert!((found - norm(&gradients)).abs() < 1e-9, "norm of step {step}");
        kept.push(run.values(2));
    }
    let gone = kept.iter().position(|gates| gates[0] == 0.0).unwrap();
    assert!(gone < 4 && kept[gone..].iter().all(|gates| gates[0] == 0.0), "{kept:?}");
    // With a constant gradient, the size of Adam's step is the learning rate, which is half of 0.01 here.
    for (step, gates) in kept.iter().enumerate() {
        assert!((gates[1] - (start[1] - 0.005 * (step + 1) as f32)).abs() < 1e-5, "{kept:?} from {start:?}");
    }
    assert_eq!(run.optimizer.moments(1).unwrap().steps, 10, "Wu was not folded");
    let report = run.method.report().unwrap();
    assert!(report.ranks.iter().all(|rank| *rank == 1) && report.kept == 0.5, "{report:?}");
}

/// The first rank of each site has the larger effect, but its column of `Wu` has nearly no gradient.
#[test]
fn adaptive_gates_keep_the_ranks_that_can_still_learn() {
    let mut rng = StdRng::seed_from_u64(8);
    let mut run = Run::new(GateRule::Adaptive, Threshold::Ratio(0.5), 0.5);
    for _ in 0..10 {
        let mut gradients = run.gradients(&mut rng, Some([4e-3, 1e-3]));
        for gate in (0..gradients.len()).filter(|&i| run.is_gate(i)) {
            // A gate follows its `Wu`, of which each row has a value for each rank.
            gradients[gate - 1].iter_mut().step_by(2).for_each(|of_first| *of_first *= 1e-2);
        }
        run.step(&gradients);
    }
    for gate in (0..run.optimizer.variables.len()).filter(|&i| run.is_gate(i)) {
        let gates = run.values(gate);
        assert!(gates[0] == 0.0 && gates[1] != 0.0, "{gates:?}");
    }
}

/// Ranks of the dearer module are a little more salient, but not by as much as they cost more.
#[test]
fn adaptive_gates_weigh_saliency_against_parameters() {
    let engine = engine();
    let (modules, layers) = (&engine.layout().modules, engine.layout().layers);
    let cost = |module: usize| modules[module].in_features + modules[module].out_features;
    let dear = (0..modules.len()).max_by_key(|&module| cost(module)).unwrap();
    let excess = (cost(dear) as f64 / cost(0) as f64).powf(0.25) as f32;
    assert!(excess > 1.05, "the base has modules of one size only");
    let kept = 2 * layers * cost(0);
    let (gate, threshold) = (GateRule::Adaptive, Threshold::Parameters(kept));
    let settings = SoraSettings { gate, threshold, gate_rate: 1.0, sparse_lambda: 0.0, depth_bias: 0.0 };
    let mut run = Run::over(vec![0, dear], settings);
    let gates: Vec<usize> = (0..run.optimizer.variables.len()).filter(|&i| run.is_gate(i)).collect();
    let start = Tensor::new(&[1f32, 1.0], &Device::Cpu).unwrap();
    gates.iter().for_each(|&gate| run.optimizer.variables[gate].var.set(&start).unwrap());
    for _ in 0..10 {
        let mut gradients = run.gradients(&mut StdRng::seed_from_u64(9), None);
        for (site, &gate) in gates.iter().enumerate() {
            let effect = if site % 2 == 0 { 1e-3 } else { 1e-3 * excess };
            gradients[gate] = vec![effect; 2];
            // All columns have the norm 1.
            gradients[gate - 1].iter_mut().enumerate().for_each(|(i, value)| *value = f32::from(u8::from(i < 2)));
        }
        run.step(&gradients);
    }
    let report = run.method.report().unwrap();
    assert_eq!(report.ranks, [2, 0].repeat(layers));
}

/// Otherwise Adam's first moment would move it, and the budget would have room for it.
#[test]
fn removed_adaptive_gate_never_returns() {
    let mut run = Run::new(GateRule::Adaptive, Threshold::Ratio(1.0), 1.0);
    let mut rng = StdRng::seed_from_u64(4);
    let gradients = run.gradients(&mut rng, Some([0.5, 0.5]));
    run.step(&gradients);
    let gates = run.values(2);
    run.optimizer.variables[2].var.set(&Tensor::new(&[0.0, gates[1]], &Device::Cpu).unwrap()).unwrap();
    run.step(&gradients);
    let found = run.values(2);
    assert!(found[0] == 0.0 && found[1] < gates[1], "{found:?} after {gates:?}");
}

/// The saliency is restored from a checkpoint. The error for another shape names the tensor.
#[test]
fn saliency_is_part_of_the_state() {
    let mut run = Run::new(GateRule::Adaptive, Threshold::Ratio(1.0), 1.0);
    let gradients = run.gradients(&mut StdRng::seed_from_u64(5), None);
    run.step(&gradients);
    let mut state: std::collections::HashMap<String, Tensor> = run.method.state().unwrap().into_iter().collect();
    let mut fresh = Run::new(GateRule::Adaptive, Threshold::Ratio(1.0), 1.0);
    fresh.method.restore(&state).unwrap();
    for (name, tensor) in fresh.method.state().unwrap() {
        let values = tensor.to_vec1::<f32>().unwrap();
        assert!(values == state[&name].to_vec1::<f32>().unwrap() && values.iter().any(|s| *s > 0.0), "{name}");
    }
    let name = fresh.method.state().unwrap().remove(0).0;
    state.insert(name.clone(), Tensor::new(&[1f32; 3], &Device::Cpu).unwrap());
    let error = fresh.method.restore(&state).unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("expected shape [2], found [3]"), "{error}");
}

/// The gates of the first layer have the largest gradients, and those of the last layer the smallest.
#[test]
fn depth_bias_removes_ranks_of_shallow_layers_first() {
    for (bias, expected) in [(0.0, [2, 1, 0]), (1000.0, [0, 1, 2])] {
        let mut run = Run::with_bias(GateRule::Adaptive, Threshold::Ratio(0.5), 1.0, bias);
        let mut rng = StdRng::seed_from_u64(6);
        for _ in 0..10 {
            let mut gradients = run.gradients(&mut rng, Some([1e-3, 1e-3]));
            gradients[2] = vec![1.0, 1.0];
            gradients[8] = vec![1e-6, 1e-6];
            run.step(&gradients);
        }
        let report = run.method.report().unwrap();
        assert_eq!((report.ranks, report.xi), (expected.to_vec(), None), "bias {bias}");
        // A site without remaining ranks makes no step.
        let empty = expected.iter().position(|rank| *rank == 0).unwrap();
        let steps = |i: usize| run.optimizer.moments(i).unwrap().steps;
        assert!(steps(3 * empty) < 10 && steps(3 * (2 - empty)) == 10);
    }
}

#[test]
fn keeps_at_most_the_given_number_of_parameters() {
    let cost = engine().layout().modules[0].in_features + engine().layout().modules[0].out_features;
    for (kept, expected) in [(cost, cost), (2 * cost, 2 * cost), (3 * cost - 1, 2 * cost), (4 * cost, 4 * cost)] {
        for gate in [GateRule::Adaptive, GateRule::Authors, GateRule::Paper] {
            let mut run = Run::new(gate, Threshold::Parameters(kept), 1.0);
            let mut rng = StdRng::seed_from_u64(7);
            for _ in 0..10 {
                let gradients = run.gradients(&mut rng, None);
                run.step(&gradients);
            }
            assert_eq!(run.method.report().unwrap().parameters, expected, "{gate:?}");
            assert!(run.method.eligible(10, 10) && !run.method.eligible(1, 10));
        }
    }
}

#[test]
fn every_epoch_can_be_chosen_where_no_rank_is_removed() {
    let cost = engine().layout().modules[0].in_features + engine().layout().modules[0].out_features;
    for threshold in [Threshold::Ratio(1.0), Threshold::Parameters(6 * cost), Threshold::Xi(1e-3)] {
        assert!(Run::new(GateRule::Adaptive, threshold, 1.0).method.eligible(1, 10), "{threshold:?}");
    }
    assert!(!Run::new(GateRule::Adaptive, Threshold::Ratio(0.9), 1.0).method.eligible(1, 10));
}

/// The report has the threshold of the last step, also where it follows from the learning rate or is steered.
#[test]
fn report_has_the_threshold_of_the_last_step() {
    let mut rng = StdRng::seed_from_u64(8);
    for (threshold, expected) in [(Threshold::Xi(1e-3), Some(1e-3)), (Threshold::Lambda(0.5), Some(0.01 * 2.0 * 0.5))] {
        let mut run = Run::new(GateRule::Paper, threshold, 2.0);
        assert_eq!(run.method.report().unwrap().xi, None);
        let gradients = run.gradients(&mut rng, None);
        run.step(&gradients);
        assert_eq!(run.method.report().unwrap().xi, expected);
    }
    let mut run = Run::new(GateRule::Authors, Threshold::Ratio(0.5), 1.0);
    let mut xi = Vec::new();
    for _ in 0..10 {
        let gradients = run.gradients(&mut rng, None);
        run.step(&gradients);
        xi.push(run.method.report().unwrap().xi);
    }
    assert!(xi[..3].iter().any(|xi| xi.is_some_and(|xi| xi > 0.0)), "{xi:?}");
    assert!(xi[4..].iter().all(Option::is_none), "folded gates have no threshold: {xi:?}");
}
