//! Compares steps with plain code on slices in host memory. On the CPU, both give the same bits.

use candle_core::{Device, Tensor};
use polyrank::params::Backend;
use polyrank_training::method::sora::{Controller, GateRule, SoraSettings, Threshold};
use polyrank_training::method::{self, Lora, LowRankSettings, Method, Sora};
use polyrank_training::optim::{Optimizer, Rule};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::engine;

const RANK: usize = 4;
const TOTAL: usize = 30;
const DECAY: f64 = 0.1;
const CLIP: f64 = 2.0;

/// A variable with Adam's moments, and the saliency of a gate.
#[derive(Default)]
struct Plain {
    gate: bool,
    matrix: bool,
    values: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
    saliency: Vec<f32>,
}

impl Plain {
    fn adam(&mut self, gradient: &[f32], rate: f64, decay: f64) {
        self.steps += 1;
        let (correct1, correct2) = (1.0 - 0.9f64.powi(self.steps), (1.0 - 0.999f64.powi(self.steps)).sqrt());
        for (i, g) in gradient.iter().map(|g| f64::from(*g)).enumerate() {
            let first = 0.9 * f64::from(self.first[i]) + (1.0 - 0.9) * g;
            let second = 0.999 * f64::from(self.second[i]) + (1.0 - 0.999) * g * g;
            (self.first[i], self.second[i]) = (first as f32, second as f32);
            let kept = f64::from(self.values[i]) * (1.0 - rate * decay);
            self.values[i] = (kept - rate / correct1 * first / (second.sqrt() / correct2 + 1e-8)) as f32;
        }
    }
}

/// A complete step of all variables, as a method and the optimiser make it, but without tensors.
fn step(all: &mut [Plain], mut gradients: Vec<Vec<f32>>, number: usize, rate: f64, sora: &SoraSettings, cost: usize) {
    let adaptive = sora.gate == GateRule::Adaptive;
    let controller = match sora.threshold {
        Threshold::Ratio(target) => Some(Controller { target, total: TOTAL }),
        _ => None,
    };
    let folded = |step| !adaptive && controller.is_some_and(|controller| controller.settled(step));
    let gone: Vec<Vec<bool>> = all.iter().map(|v| v.values.iter().map(|g| v.gate && *g == 0.0).collect()).collect();
    for i in (0..all.len()).filter(|&i| all[i].gate).collect::<Vec<_>>() {
        // A gate follows its `Wu`, of which each row has a value for each rank.
        let (before, rest) = gradients.split_at_mut(i);
        let (variable, wu, gradient) = (&mut all[i], &before[i - 1], &mut rest[0]);
        if folded(number - 1) {
            gradient.fill(0.0);
        } else if adaptive {
            for (rank, s) in variable.saliency.iter_mut().enumerate() {
                let norm = wu.iter().skip(rank).step_by(RANK).map(|d| d * d).sum::<f32>().sqrt();
                *s += 0.02 * ((variable.values[rank] * gradient[rank]).abs() * norm - *s);
            }
            gradient.iter_mut().zip(&gone[i]).filter(|(_, gone)| **gone).for_each(|(d, _)| *d = 0.0);
        }
    }
    let norm = gradients.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
    let scale = CLIP / (norm + 1e-6);
    if scale < 1.0 {
        gradients.iter_mut().flatten().for_each(|g| *g *= scale as f32);
    }
    let gate_rate = rate * sora.gate_rate;
    for ((variable, gradient), gone) in all.iter_mut().zip(&gradients).zip(&gone) {
        match (variable.gate, sora.gate) {
            (false, _) => variable.adam(gradient, rate, if variable.matrix { DECAY } else { 0.0 }),
            (true, _) if folded(number - 1) => (),
            (true, GateRule::Paper) => {
                variable.values.iter_mut().zip(gradient).for_each(|(g, d)| *g -= gate_rate as f32 * d);
            }
            (true, _) => {
                variable.adam(gradient, gate_rate, 0.0);
                if adaptive {
                    variable.values.iter_mut().zip(gone).filter(|(_, gone)| **gone).for_each(|(g, _)| *g = 0.0);
                }
            }
        }
    }
    if folded(number - 1) {
        return;
    }
    let mut gates: Vec<(f32, f32, usize, &mut f32)> = Vec::new();
    for Plain { values, saliency, .. } in all.iter_mut().filter(|variable| variable.gate) {
        gates.extend(values.iter_mut().zip(saliency).enumerate().map(|(rank, (g, s))| (g.abs(), *s, rank, g)));
    }
    let budget = |controller: Controller, gates: usize| controller.share(number) * (gates * cost) as f64;
    if let (true, Some(controller)) = (adaptive, controller) {
        let budget = budget(controller, gates.len());
        gates.retain(|(size, ..)| *size != 0.0);
        gates.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.2.cmp(&a.2)));
        let alive = gates.len();
        for (i, (.., gate)) in gates.into_iter().enumerate() {
            if ((alive - i) * cost) as f64 > budget {
                *gate = 0.0;
            }
        }
    } else {
        let xi = match (sora.threshold, controller) {
            (Threshold::Xi(xi), _) => xi as f32,
            (Threshold::Lambda(lambda), _) => (gate_rate * lambda) as f32,
            (_, None) => 0.0,
            (_, Some(controller)) => {
                let mut sizes: Vec<f32> = gates.iter().map(|gate| gate.0).filter(|size| *size != 0.0).collect();
                sizes.sort_by(f32::total_cmp);
                let budget = budget(controller, gates.len());
                let leave = (0..=sizes.len()).find(|leave| ((sizes.len() - leave) * cost) as f64 <= budget).unwrap();
                if leave == 0 { 0.0 } else { sizes[leave - 1] }
            }
        };
        for (.., gate) in gates {
            *gate = if *gate > xi {
                *gate - xi
            } else if *gate < -xi {
                *gate + xi
            } else {
                0.0
            };
        }
    }
    if folded(number) {
        for i in 1..all.len() {
            let (before, rest) = all.split_at_mut(i);
            let (wu, gate) = (&mut before[i - 1], &mut rest[0]);
            if gate.gate {
                for row in wu.values.chunks_exact_mut(RANK) {
                    row.iter_mut().zip(&gate.values).filter(|(_, g)| **g != 0.0).for_each(|(w, g)| *w *= g);
                }
                gate.values.iter_mut().filter(|g| **g != 0.0).for_each(|g| *g = 1.0);
                (wu.first, wu.second, wu.steps) = (vec![0.0; wu.first.len()], vec![0.0; wu.first.len()], 0);
            }
        }
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    // The sign of a zero does not matter.
    values.iter().map(|x| (x + 0.0).to_bits()).collect()
}

fn shape() -> LowRankSettings {
    LowRankSettings { rank: RANK, alpha: 8.0, modules: vec![0], labels: 3, seed: 7 }
}

/// Makes a complete run with both, and compares all variables and moments after each step. Returns whether some gates became 0 and
/// some did not.
fn compare(mut method: impl Method, settings: &SoraSettings) -> bool {
    let rule = Rule { weight_decay: DECAY, eps: 1e-8, clip: Some(CLIP), total: TOTAL };
    let mut optimizer = Optimizer::new(method.variables(), rule, &Backend::cpu()).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    for variable in &optimizer.variables {
        if !variable.name.ends_with(".gate") {
            let values: Vec<f32> = (0..variable.var.elem_count()).map(|_| rng.random_range(-0.5..0.5)).collect();
            variable.var.set(&Tensor::from_vec(values, variable.var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
    }
    let plain = |variable: &polyrank_training::optim::Variable| {
        let zeros = vec![0.0; variable.var.elem_count()];
        Plain {
            gate: variable.name.ends_with(".gate"),
            matrix: variable.var.rank() > 1,
            values: flat(&variable.var),
            first: zeros.clone(),
            second: zeros.clone(),
            steps: 0,
            saliency: zeros,
        }
    };
    let mut all: Vec<Plain> = optimizer.variables.iter().map(plain).collect();
    let module = engine().layout().modules[0].clone();
    let cost = module.in_features + module.out_features;
    for number in 1..=TOTAL {
        // The gradients' sizes vary, so that some steps are clipped and others are not.
        let size = [0.01, 0.1, 1.0][number % 3];
        let gradients: Vec<Vec<f32>> = all
            .iter()
            .map(|variable| variable.values.iter().map(|_| size * rng.random_range(-1.0f32..1.0)).collect())
            .collect();
        let tensors = all.iter().zip(&gradients).zip(&optimizer.variables).map(|((_, gradient), variable)| {
            // As in backward passes, matrices may be transposed in memory.
            let tensor = Tensor::from_slice(gradient, variable.var.shape(), &Device::Cpu).unwrap();
            Some(if tensor.rank() == 2 { tensor.t().unwrap().contiguous().unwrap().t().unwrap() } else { tensor })
        });
        let tensors = tensors.collect();
        let rate = 0.02 * (1.0 - number as f64 / 40.0);
        method::step(&mut method, &mut optimizer, tensors, rate).unwrap();
        step(&mut all, gradients, number, rate, settings, cost);
        for (i, (variable, plain)) in optimizer.variables.iter().zip(&all).enumerate() {
            let moments = optimizer.moments(i).unwrap();
            let name = format!("{} after step {number}", variable.name);
            assert_eq!(bits(&flat(&variable.var)), bits(&plain.values), "{name}");
            assert_eq!(bits(&flat(&moments.first)), bits(&plain.first), "first moment of {name}");
            assert_eq!(bits(&flat(&moments.second)), bits(&plain.second), "second moment of {name}");
            assert_eq!(moments.steps, plain.steps as usize, "{name}");
        }
    }
    let gates: Vec<f32> = all.iter().filter(|variable| variable.gate).flat_map(|gate| gate.values.clone()).collect();
    gates.contains(&0.0) && gates.iter().any(|gate| *gate != 0.0)
}

#[test]
fn lora_steps_like_plain_code() {
    let settings = SoraSettings {
        gate: GateRule::Authors,
        threshold: Threshold::Xi(0.0),
        gate_rate: 1.0,
        sparse_lambda: 0.0,
        depth_bias: 0.0,
    };
    compare(Lora::new(engine().layout(), &shape(), &Device::Cpu).unwrap(), &settings);
}

#[test]
fn sora_steps_like_plain_code() {
    for (gate, threshold) in [
        (GateRule::Adaptive, Threshold::Ratio(0.5)),
        (GateRule::Paper, Threshold::Ratio(0.5)),
        (GateRule::Paper, Threshold::Lambda(1.0)),
        (GateRule::Authors, Threshold::Ratio(0.5)),
        (GateRule::Authors, Threshold::Xi(0.01)),
    ] {
        let settings = SoraSettings { gate, threshold, gate_rate: 0.5, sparse_lambda: 0.0, depth_bias: 0.0 };
        let method = Sora::new(engine().layout(), &shape(), settings, &Device::Cpu).unwrap();
        assert!(compare(method, &settings), "{settings:?}: some gates go and some stay");
    }
}
