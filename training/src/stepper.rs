//! One step of any method on one batch: forward and backward over micro-batches, and the optimiser's step.

use candle_core::Tensor;
use polyrank::encoder::{Packed, head_logits};
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::{self, Workers};
use polyrank::ops::splitmix;
use polyrank::text::Encoded;

use crate::data::Target;
use crate::error::Error;
use crate::loss::TaskLoss;
use crate::method::{self, Method, StepDropout, TrainingPass};
use crate::optim::Optimizer;

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
    /// The loss of the task.
    pub loss: TaskLoss,
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
        let most = if self.engine.backend().on_host() { micro_batches::TOKENS } else { usize::MAX };
        let cuts = micro_batches::cut(batch.texts.iter().map(|text| text.ids.len()), most);
        let pass = self.method.pass()?;
        let divisor = self.loss.divisor(batch.targets);
        let run = |i: usize| {
            let rows = cuts[i].clone();
            let part = Batch { texts: &batch.texts[rows.clone()], targets: &batch.targets[rows] };
            let dropout = StepDropout { seed: splitmix(dropout.seed) ^ i as u64, ..dropout };
            self.run(&part, divisor, &TrainingPass { pass: &*pass, dropout })
        };
        let (mut loss, mut of_leaves) = (None, Vec::new());
        for result in self.workers.map(cuts.len(), run) {
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

    /// Runs forward and backward on some rows of a batch whose loss has the divisor `divisor`. Returns their share of the mean loss, and
    /// the gradients of the leaves.
    fn run(&self, part: &Batch, divisor: f64, hooks: &TrainingPass) -> Result<(Tensor, Vec<Option<Tensor>>), Error> {
        let (encoder, batch) = (&**self.engine.encoder(), Packed::new(part.texts.iter().copied()));
        let hidden = encoder.forward(&batch, hooks)?;
        let logits = head_logits(encoder, &hidden, &batch, &self.method.head(), hooks)?;
        let loss = self.loss.share(&logits, part.targets, divisor)?;
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
