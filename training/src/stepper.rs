//! One step of any method on one batch: forward and backward over micro-batches, and the optimiser's step.

use candle_core::{DType, Tensor};
use polyrank::adapter::ProblemType;
use polyrank::encoder::Packed;
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::{self, Workers};
use polyrank::ops::splitmix;
use polyrank::text::Encoded;

use crate::data::Target;
use crate::error::Error;
use crate::method::{self, Method, StepDropout, TrainingPass};
use crate::optim::Optimizer;
use crate::parts::balanced;

/// The rows of one step.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The texts.
    pub texts: &'a [&'a Encoded],
    /// The target of each text.
    pub targets: &'a [Target],
}

/// Trains a method on a base, step by step.
pub struct Stepper<'a> {
    /// The base.
    pub engine: &'a Engine,
    /// The method.
    pub method: Box<dyn Method>,
    /// The optimiser of the method's variables.
    pub optimizer: Optimizer,
    /// Classification or regression.
    pub problem: ProblemType,
    /// The cores that share the micro-batches of a step.
    pub workers: Workers,
}

impl Stepper<'_> {
    /// Makes one step at the learning rate `rate`. Every micro-batch has its own seed of dropout, which follows from `dropout`. Returns
    /// the mean loss before the step, a scalar on the device, for which the host does not wait.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn step(&mut self, batch: &Batch, dropout: StepDropout, rate: f64) -> Result<Tensor, Error> {
        // A GPU runs the batch as a whole.
        let least = if self.engine.backend().on_host() { micro_batches::TOKENS } else { usize::MAX };
        let lengths: Vec<usize> = batch.texts.iter().map(|text| text.ids.len()).collect();
        let parts = balanced(&lengths, least);
        let pass = self.method.pass()?;
        let run = |i: usize| {
            let texts: Vec<&Encoded> = parts[i].iter().map(|&row| batch.texts[row]).collect();
            let targets: Vec<Target> = parts[i].iter().map(|&row| batch.targets[row]).collect();
            let part = Batch { texts: &texts, targets: &targets };
            let dropout = StepDropout { seed: splitmix(dropout.seed) ^ i as u64, ..dropout };
            self.run(&part, batch.texts.len(), &TrainingPass { pass: &*pass, dropout })
        };
        let (mut loss, mut of_leaves) = (None, Vec::new());
        for result in self.workers.map(parts.len(), run) {
            let (part, parts) = result?;
            loss = add(loss, Some(part))?;
            of_leaves = added(of_leaves, parts)?;
        }
        let Some(loss) = loss else { return Err(Error::Settings("a step needs at least one row".to_owned())) };
        let mut gradients = pass.gradients(of_leaves)?;
        if let Some(penalty) = self.method.penalty()? {
            gradients = added(self.optimizer.gradients(&penalty.backward()?), gradients)?;
        }
        drop(pass);
        method::step(&mut *self.method, &mut self.optimizer, gradients, rate)?;
        Ok(loss)
    }

    /// Runs forward and backward on some rows of a batch of `of` rows. Returns their share of the mean loss, and the gradients of the
    /// leaves.
    fn run(&self, part: &Batch, of: usize, hooks: &TrainingPass) -> Result<(Tensor, Vec<Option<Tensor>>), Error> {
        let (encoder, batch) = (&**self.engine.encoder(), Packed::new(part.texts.iter().copied()));
        let logits = encoder.logits(&encoder.pooled(&batch, hooks)?, &self.method.head(), hooks)?;
        let loss = (task_loss(&logits, part.targets, self.problem)? * (part.texts.len() as f64 / of as f64))?;
        let store = loss.backward()?;
        // They are detached, because their graphs would keep the forward pass's activations in memory.
        let gradients = hooks.pass.leaves().iter().map(|leaf| store.get(leaf).map(Tensor::detach)).collect();
        Ok((loss.detach(), gradients))
    }
}

/// The sum of two gradients. An absent gradient is zero.
fn add(a: Option<Tensor>, b: Option<Tensor>) -> candle_core::Result<Option<Tensor>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a + b)?)),
        (a, b) => Ok(a.or(b)),
    }
}

/// The sums of the gradients of the same tensors. An empty list is zero.
fn added(sums: Vec<Option<Tensor>>, parts: Vec<Option<Tensor>>) -> candle_core::Result<Vec<Option<Tensor>>> {
    if sums.is_empty() {
        return Ok(parts);
    }
    sums.into_iter().zip(parts).map(|(sum, part)| add(sum, part)).collect()
}

/// The mean loss over the batch, f32: the cross-entropy of `logits [B, labels]`, or the squared error of the one output.
///
/// # Errors
/// A tensor operation fails.
pub fn task_loss(logits: &Tensor, targets: &[Target], problem: ProblemType) -> candle_core::Result<Tensor> {
    let (device, logits) = (logits.device(), &logits.to_dtype(DType::F32)?);
    let value = |target: &Target| match target {
        Target::Value(value) => *value as f32,
        Target::Class(class) => *class as f32,
    };
    let values: Vec<f32> = targets.iter().map(value).collect();
    if problem == ProblemType::Regression {
        return (logits.squeeze(1)? - Tensor::from_vec(values, targets.len(), device)?)?.sqr()?.mean_all();
    }
    let classes: Vec<u32> = values.into_iter().map(|class| class as u32).collect();
    candle_nn::loss::cross_entropy(logits, &Tensor::from_vec(classes, targets.len(), device)?)
}
