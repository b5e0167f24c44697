//! Distillation (Hinton et al. 2015): trains the extracted factors and the head on the logits of the fine-tuned model. It needs texts,
//! but no labels.

use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter};

use candle_core::{D, DType, Result as TensorResult, Tensor};
use candle_nn::ops::{log_softmax, softmax};
use polyrank::adapter::{Adapter, ProblemType};
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::Workers;
use polyrank::text::Encoded;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use super::effect::Effect;
use crate::error::Error;
use crate::evaluate;
use crate::loss::TaskLoss;
use crate::method::{Export, Lora, Method, StepDropout};
use crate::optim::{Optimizer, Rule, linear_rate};
use crate::stepper::Stepper;

/// The settings of a distillation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistillSettings {
    /// Passes over the training texts.
    pub epochs: usize,
    /// The number of texts in a step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// What logits are divided by before the softmax of a single-label classification.
    pub temperature: f64,
    /// The random seed of the order of texts.
    pub seed: u64,
}

/// Texts with the logits that the fine-tuned model has for them.
#[derive(Debug, Clone, Copy)]
pub struct Taught<'a> {
    /// The texts.
    pub texts: &'a [Encoded],
    /// The logits `[texts][outputs]`.
    pub logits: &'a [Vec<f32>],
}

/// An epoch of a distillation; epoch 0 is the adapter before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Epoch {
    /// The number of the epoch.
    pub epoch: usize,
    /// The mean loss over the training texts; `None` for epoch 0.
    pub loss: Option<f64>,
    /// The difference from the fine-tuned model on the validation texts.
    pub effect: Effect,
}

impl Epoch {
    /// Compares by agreement and, if that is equal, by the difference of the logits. Better is greater.
    fn compare(&self, other: &Self) -> Ordering {
        let agreement = |epoch: &Self| epoch.effect.agreement.unwrap_or_default();
        let by_agreement = agreement(self).total_cmp(&agreement(other));
        by_agreement.then(other.effect.difference.total_cmp(&self.effect.difference))
    }
}

impl Display for Epoch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let loss = self.loss.map_or_else(String::new, |loss| format!("loss {loss:.5}, "));
        let agreement = self.effect.agreement.map(|share| format!(", agreement {:.2} %", 100.0 * share));
        write!(f, "distillation, epoch {}: {loss}", self.epoch)?;
        write!(f, "logit difference {:.4}{}", self.effect.difference, agreement.unwrap_or_default())
    }
}

/// The best adapter of a distillation.
pub struct Distilled {
    /// The adapter.
    pub adapter: Adapter,
    /// Its epoch.
    pub best: Epoch,
}

/// Trains `start` on the logits for `train`. Returns the adapter of the epoch that agrees most with the fine-tuned model on `validation`,
/// which is `start` itself if no epoch is better. Calls `report` after each epoch.
///
/// # Errors
/// The loss is not finite, or a tensor operation fails.
pub fn distill(
    engine: &Engine,
    start: Adapter,
    [train, validation]: [Taught<'_>; 2],
    settings: &DistillSettings,
    report: &mut dyn FnMut(&Epoch),
) -> Result<Distilled, Error> {
    let problem = problem(&start);
    let measure = |export: &Export, epoch, loss| -> Result<Epoch, Error> {
        let logits = evaluate::logits(engine, export, validation.texts)?;
        Ok(Epoch { epoch, loss, effect: Effect::new(validation.logits, &logits, problem) })
    };
    let steps = train.texts.len().div_ceil(settings.batch_size);
    let rule = Rule { weight_decay: 0.0, eps: 1e-8, clip: Some(1.0), total: steps * settings.epochs };
    let method: Box<dyn Method> = Box::new(Lora::of(engine.layout(), &start, engine.backend())?);
    let optimizer = Optimizer::new(method.variables(), rule, engine.backend())?;
    let tokens = train.texts.iter().map(|text| text.ids.len()).sum::<usize>() / steps.max(1);
    let loss = TaskLoss::new(problem, &[]);
    let mut stepper = Stepper { engine, method, optimizer, loss, workers: Workers::new(tokens)? };
    let info = start.info.clone();
    let mut best = Export::Adapter(start);
    let mut best_epoch = measure(&best, 0, None)?;
    report(&best_epoch);
    for epoch in 1..=settings.epochs {
        let loss = run_epoch(&mut stepper, train, settings, epoch)?;
        let export = stepper.method.export(info.clone())?;
        let done = measure(&export, epoch, Some(loss))?;
        report(&done);
        if done.compare(&best_epoch) == Ordering::Greater {
            (best, best_epoch) = (export, done);
        }
    }
    let Export::Adapter(adapter) = best else {
        return Err(Error::Settings("distillation trains low-rank factors".to_owned()));
    };
    Ok(Distilled { adapter, best: best_epoch })
}

/// What the outputs of an adapter mean; by default those of one output are a regression.
fn problem(adapter: &Adapter) -> ProblemType {
    adapter.info.problem_type.unwrap_or(match adapter.info.labels.len() {
        1 => ProblemType::Regression,
        _ => ProblemType::SingleLabelClassification,
    })
}

/// Makes the steps of one epoch, and returns the mean loss over its texts.
fn run_epoch(
    stepper: &mut Stepper<'_>,
    train: Taught<'_>,
    settings: &DistillSettings,
    epoch: usize,
) -> Result<f64, Error> {
    const WARMUP: f64 = 0.06;
    let mut order: Vec<usize> = (0..train.texts.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(settings.seed.wrapping_mul(0x9e37_79b9).wrapping_add(epoch as u64)));
    let (problem, device, mut sum) = (stepper.loss.problem(), stepper.engine.device().clone(), 0.0);
    for rows in order.chunks(settings.batch_size) {
        let texts: Vec<&Encoded> = rows.iter().map(|&row| &train.texts[row]).collect();
        let loss = |logits: &Tensor, _: usize, part: &[usize]| {
            let share = part.len() as f64 / rows.len() as f64;
            let teacher: Vec<f32> = part.iter().flat_map(|&i| train.logits[rows[i]].clone()).collect();
            let teacher = Tensor::from_vec(teacher, logits.shape(), &device)?;
            teacher_loss(logits, &teacher, problem, settings.temperature)? * share
        };
        let done = stepper.optimizer.done;
        let rate = settings.lr * linear_rate(done, settings.epochs * order.len().div_ceil(settings.batch_size), WARMUP);
        let loss = stepper.step_on(&[&texts], &loss, StepDropout::default(), rate)?.to_scalar::<f32>()?;
        if !loss.is_finite() {
            return Err(Error::Diverged { step: done + 1, loss });
        }
        sum += f64::from(loss) * rows.len() as f64;
    }
    Ok(sum / order.len().max(1) as f64)
}

/// The mean loss of `logits [B, outputs]` against those of the teacher, f32: the Kullback-Leibler divergence at `temperature`, times its
/// square, for one label of several; the cross-entropy of each output's sigmoid for several labels; the squared error for a regression.
///
/// # Errors
/// A tensor operation fails.
pub fn teacher_loss(logits: &Tensor, teacher: &Tensor, problem: ProblemType, temperature: f64) -> TensorResult<Tensor> {
    let logits = logits.to_dtype(DType::F32)?;
    match problem {
        ProblemType::Regression => (logits - teacher)?.sqr()?.mean_all(),
        ProblemType::SingleLabelClassification => {
            let (logits, teacher) = ((logits / temperature)?, (teacher / temperature)?);
            let difference = (log_softmax(&teacher, D::Minus1)? - log_softmax(&logits, D::Minus1)?)?;
            let divergence = (softmax(&teacher, D::Minus1)? * difference)?.sum(D::Minus1)?;
            divergence.mean_all()? * (temperature * temperature)
        }
        ProblemType::MultiLabelClassification => {
            // -p log sigmoid(x) - (1 - p) log(1 - sigmoid(x)) = max(x, 0) - p x + log(1 + exp(-|x|)).
            let share = candle_nn::ops::sigmoid(teacher)?;
            let log = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
            ((logits.relu()? - (share * &logits)?)? + log)?.mean_all()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;

    use super::*;

    /// `torch.nn.functional`: `kl_div(log_softmax(x / 2), softmax(t / 2), reduction="batchmean") * 4`,
    /// `binary_cross_entropy_with_logits(x, sigmoid(t))` and `mse_loss(x, t)`.
    #[test]
    fn losses_match_pytorch() {
        let tensor = |data: &[f32]| Tensor::from_slice(data, (2, 3), &Device::Cpu).unwrap();
        let (x, t) = (tensor(&[0.5, -1.0, 2.0, 0.0, 3.0, -0.5]), tensor(&[1.0, 0.0, -1.0, 0.2, 2.0, -2.0]));
        for (problem, expected) in EXPECTED {
            let loss = teacher_loss(&x, &t, problem, 2.0).unwrap().to_scalar::<f32>().unwrap();
            assert!((loss - expected).abs() < 1e-4, "{problem:?}: {loss}");
            let own = teacher_loss(&t, &t, problem, 2.0).unwrap().to_scalar::<f32>().unwrap();
            assert!(own < loss && (own.abs() < 1e-6 || problem == ProblemType::MultiLabelClassification));
        }
    }

    const EXPECTED: [(ProblemType, f32); 3] = [
        (ProblemType::SingleLabelClassification, 0.7719),
        (ProblemType::MultiLabelClassification, 0.7740),
        (ProblemType::Regression, 2.2567),
    ];
}
