//! Compares gradients through the whole encoder with finite differences, for SoRA's matrices, gates and head and for all parameters of
//! a base.

use candle_core::{Device, Tensor, Var};
use polyrank::adapter::ProblemType;
use polyrank::encoder::{Head, Hooks, Packed};
use polyrank::engine::Engine;
use polyrank::params::{Backend, Dim};
use polyrank::text::Encoded;
use polyrank_training::data::Target;
use polyrank_training::loss::TaskLoss;
use polyrank_training::method::sora::{GateRule, SoraSettings, Threshold};
use polyrank_training::method::{
    DropoutRates, LowRankSettings, Method, Sora, StepDropout, TrainedHead, TrainingPass, full,
};
use polyrank_training::optim::Variable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{ENCODERS, backends, base_dir, encoder_on, engine};

/// SoRA at a point where no variable is zero. At the start `Wu` is zero, so that no gate has a gradient.
fn anywhere(engine: &Engine) -> Sora {
    let modules = (0..engine.layout().modules.len()).collect();
    let shape = LowRankSettings { rank: 3, alpha: 6.0, modules, labels: 3, seed: 5 };
    let settings = SoraSettings {
        gate: GateRule::Paper,
        threshold: Threshold::Xi(0.0),
        gate_rate: 1.0,
        sparse_lambda: 1.0,
        depth_bias: 0.0,
    };
    let method = Sora::new(engine.layout(), &shape, settings, engine.backend()).unwrap();
    let mut rng = StdRng::seed_from_u64(17);
    for Variable { var, .. } in method.variables() {
        let noise: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(-0.2..0.2)).collect();
        let noise = Tensor::from_vec(noise, var.shape(), &Device::Cpu).unwrap();
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
    method
}

fn batch(engine: &Engine) -> (Packed, Vec<Target>) {
    let words = engine.config().vocab_size as u32;
    let mut rng = StdRng::seed_from_u64(23);
    let texts: Vec<Encoded> = [4, 9, 1, 6]
        .iter()
        .map(|&len| Encoded {
            ids: (0..len).map(|_| rng.random_range(0..words)).collect(),
            type_ids: (0..len).map(|i| u32::from(i > 4)).collect(),
            truncated: false,
        })
        .collect();
    (Packed::new(&texts), vec![Target::Class(1), Target::Class(0), Target::Class(2), Target::Class(1)])
}

fn loss_of(engine: &Engine, head: &Head, hooks: &dyn Hooks) -> Tensor {
    let ((batch, targets), encoder) = (batch(engine), &**engine.encoder());
    let logits = encoder.logits(&encoder.pooled(&batch, hooks).unwrap(), head, hooks).unwrap();
    TaskLoss::new(ProblemType::SingleLabelClassification, &[]).mean(&logits, &targets).unwrap()
}

/// The loss of SoRA with its penalty, and the gradients of its variables.
fn sora_loss(engine: &Engine, method: &Sora, dropout: StepDropout) -> (Tensor, Vec<Option<Tensor>>) {
    let pass = method.pass().unwrap();
    let penalty = method.penalty().unwrap().unwrap();
    let loss = (loss_of(engine, &method.head(), &TrainingPass { pass: &*pass, dropout }) + penalty).unwrap();
    let store = loss.backward().unwrap();
    let gradients = pass.gradients(pass.leaves().iter().map(|leaf| store.get(leaf).cloned()).collect()).unwrap();
    let of_penalty = method.variables().into_iter().map(|variable| store.get(&variable.var).cloned());
    // The head is a leaf, and not a variable of the penalty.
    let sum = |(gradient, (of_penalty, variable)): (Option<Tensor>, (Option<Tensor>, Variable))| match of_penalty {
        Some(of_penalty) if variable.name.ends_with(".gate") => {
            gradient.map(|gradient| (gradient + of_penalty).unwrap())
        }
        _ => gradient,
    };
    let gradients = gradients.into_iter().zip(of_penalty.zip(method.variables())).map(sum).collect();
    (loss, gradients)
}

/// Sets `var` to `var + size * direction`.
fn shift(var: &Var, direction: &Tensor, size: f64) {
    let moved = (var.as_detached_tensor() + (direction * size).unwrap()).unwrap();
    var.set(&moved).unwrap();
}

fn check(engine: &Engine, method: &Sora, dropout: StepDropout) {
    check_slopes(engine, method.variables(), || sora_loss(engine, method, dropout));
}

/// Checks each variable along a random direction. The slope of the loss must equal the gradient's component in that direction.
fn check_slopes(engine: &Engine, variables: Vec<Variable>, loss: impl Fn() -> (Tensor, Vec<Option<Tensor>>)) {
    let gradients = loss().1;
    let value = || f64::from(loss().0.to_scalar::<f32>().unwrap());
    let mut rng = StdRng::seed_from_u64(29);
    for (Variable { name, var, .. }, gradient) in variables.into_iter().zip(&gradients) {
        let gradient = gradient.as_ref().unwrap();
        let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt().max(1e-6);
        // The direction is half along the gradient, so that the slope is larger than f32's noise, and half random.
        let noise: Vec<f32> = (0..gradient.elem_count()).map(|_| rng.random_range(-1.0..1.0)).collect();
        let length = noise.iter().map(|x| x * x).sum::<f32>().sqrt();
        let noise = Tensor::from_vec(noise, gradient.shape(), &Device::Cpu).unwrap();
        let direction = ((gradient / f64::from(norm)).unwrap() + (noise / f64::from(length)).unwrap()).unwrap();
        let expected = f64::from((gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
        let start = var.as_detached_tensor().copy().unwrap();
        // DistilBERT's head has a ReLU, and a smaller step crosses fewer of its kinks.
        let step = if engine.config().model_type == "distilbert" { 5e-4 } else { 4e-3 };
        shift(&var, &direction, step);
        let above = value();
        var.set(&start).unwrap();
        shift(&var, &direction, -step);
        let slope = (above - value()) / (2.0 * step);
        var.set(&start).unwrap();
        let allowed = 0.02 * expected.abs() + 3e-4;
        assert!(
            (slope - expected).abs() <= allowed,
            "{name} of {}: slope {slope}, gradient {expected}",
            engine.config().model_type
        );
    }
}

#[test]
fn gradients_equal_slopes() {
    for engine in [engine(), Engine::open(&base_dir(), Backend::reference(Device::Cpu)).unwrap()] {
        check(&engine, &anywhere(&engine), StepDropout::default());
    }
}

/// All passes of a step have the same masks, so that the loss is a fixed function. The backward pass uses the same masks.
#[test]
fn gradients_equal_slopes_under_dropout() {
    let rates = DropoutRates { hidden: 0.2, attention: 0.2, head: 0.2, head_input: 0.2 };
    for engine in [engine(), Engine::open(&base_dir(), Backend::reference(Device::Cpu)).unwrap()] {
        check(&engine, &anywhere(&engine), StepDropout { rates, seed: 41 });
    }
}

#[test]
fn gradients_of_every_architecture_equal_slopes() {
    let rates = DropoutRates { hidden: 0.1, attention: 0.1, head: 0.1, head_input: 0.1 };
    for backend in &backends()[..2] {
        for name in ENCODERS {
            let engine = encoder_on(name, backend);
            check(&engine, &anywhere(&engine), StepDropout::default());
            check(&engine, &anywhere(&engine), StepDropout { rates, seed: 43 });
        }
    }
}

/// The kernels are too slow on the CPU for slopes.
#[test]
fn gradients_of_every_architecture_on_a_gpu_equal_the_reference() {
    let rates = DropoutRates { hidden: 0.1, attention: 0.1, head: 0.1, head_input: 0.1 };
    let [_, reference, gpu] = backends();
    for name in ENCODERS {
        let [expected, found] = [&reference, &gpu].map(|backend| {
            let engine = encoder_on(name, backend);
            let method = anywhere(&engine);
            let gradients = sora_loss(&engine, &method, StepDropout { rates, seed: 43 }).1;
            method
                .variables()
                .into_iter()
                .zip(gradients)
                .map(|(Variable { name, .. }, gradient)| {
                    (name, gradient.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
                })
                .collect::<Vec<_>>()
        });
        for ((variable, expected), (_, found)) in expected.iter().zip(&found) {
            let largest = expected.iter().fold(1e-2f32, |most, x| most.max(x.abs()));
            let off = expected.iter().zip(found).map(|(expected, found)| (expected - found).abs());
            let worst = off.max_by(f32::total_cmp).unwrap();
            assert!(worst <= 2e-4 * largest, "{variable} of {name}: off by {worst} of {largest}");
        }
    }
}

/// A rank that is gone is left out of the products, which changes nothing for the others. Sites of the first layer, and others, have no
/// rank left.
#[test]
fn gradients_of_remaining_ranks_do_not_depend_on_those_that_are_gone() {
    let rates = DropoutRates { hidden: 0.1, attention: 0.1, head: 0.1, head_input: 0.1 };
    for backend in backends() {
        let engine = Engine::open(&base_dir(), &backend).unwrap();
        let whole = anywhere(&engine);
        let modules = engine.layout().modules.len();
        let shape = LowRankSettings { rank: 3, alpha: 6.0, modules: (0..modules).collect(), labels: 3, seed: 5 };
        let settings = SoraSettings {
            gate: GateRule::Adaptive,
            threshold: Threshold::Ratio(0.5),
            gate_rate: 1.0,
            sparse_lambda: 1.0,
            depth_bias: 0.0,
        };
        let mut pruned = Sora::new(engine.layout(), &shape, settings, engine.backend()).unwrap();
        let is_gone = |site: usize, rank: usize| {
            site < modules || site % 4 == 1 || (site.is_multiple_of(2) && (site + rank).is_multiple_of(3))
        };
        for (i, (of_whole, of_pruned)) in whole.variables().iter().zip(pruned.variables()).enumerate() {
            if of_whole.name.ends_with(".gate") {
                let gates: Vec<f32> = of_whole.var.to_vec1().unwrap();
                let left = |(rank, gate): (usize, &f32)| if is_gone(i / 3, rank) { 0.0 } else { *gate };
                let gates: Vec<f32> = gates.iter().enumerate().map(left).collect();
                of_whole.var.set(&Tensor::from_vec(gates, 3, engine.device()).unwrap()).unwrap();
            }
            of_pruned.var.set(&of_whole.var.as_detached_tensor().copy().unwrap()).unwrap();
        }
        // As when a checkpoint is loaded.
        pruned.restore(&std::collections::HashMap::new()).unwrap();
        let dropout = StepDropout { rates, seed: 43 };
        let (expected_loss, expected) = sora_loss(&engine, &whole, dropout);
        let (found_loss, found) = sora_loss(&engine, &pruned, dropout);
        let loss = |loss: Tensor| loss.to_scalar::<f32>().unwrap();
        assert!((loss(found_loss) - loss(expected_loss)).abs() < 2e-6, "{backend:?}");
        for (i, (Variable { name, .. }, (found, expected))) in
            pruned.variables().iter().zip(found.iter().zip(&expected)).enumerate()
        {
            let (site, part) = (i / 3, i % 3);
            let values =
                |tensor: &Tensor| tensor.contiguous().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = values(expected.as_ref().unwrap());
            let is_head = site >= engine.layout().len();
            if !is_head && (0..3).all(|rank| is_gone(site, rank)) {
                assert!(
                    found.as_ref().is_none_or(|found| part == 2 || values(found).iter().all(|g| *g == 0.0)),
                    "{name}"
                );
                continue;
            }
            let found = values(found.as_ref().unwrap());
            let largest = expected.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
            let rank_of = |at: usize| match part {
                0 => at / (expected.len() / 3),
                1 => at % 3,
                _ => at,
            };
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                if !is_head && is_gone(site, rank_of(at)) {
                    // The other run computes the gradient of a gate that is 0, which is not used.
                    assert!(part == 2 || (*found == 0.0 && expected.abs() == 0.0), "{name} {at}: {found}, {expected}");
                } else {
                    let off = (found - expected).abs();
                    assert!(off <= 1e-5 * largest, "{name} on {backend:?}: off by {off} of {largest}");
                }
            }
        }
    }
}

/// MPNet's relative bias is a parameter, too.
#[test]
fn gradients_of_all_parameters_of_mpnet_equal_slopes() {
    backends()[..2].iter().for_each(|backend| all_parameters_are_slopes(&encoder_on("mpnet", backend)));
}

fn all_parameters_are_slopes(engine: &Engine) {
    let mut rng = StdRng::seed_from_u64(31);
    let head = engine.layout().head.iter().map(|parameter| {
        let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { 3 };
        let shape: Vec<usize> = parameter.shape.iter().map(size).collect();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-0.5..0.5)).collect();
        (parameter.name.clone(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    });
    let method = full(&**engine.encoder(), TrainedHead::of(&head.collect()).unwrap()).unwrap();
    let variables = method.variables();
    assert!(variables.iter().any(|variable| variable.name == "mpnet.encoder.relative_attention_bias.weight"));
    check_slopes(engine, variables, || {
        let loss = loss_of(engine, &method.head(), &method);
        let store = loss.backward().unwrap();
        let gradients = method.variables().iter().map(|variable| store.get(&variable.var).cloned()).collect();
        (loss, gradients)
    });
}
