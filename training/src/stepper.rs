//! One step of any method on one batch: forward and backward over micro-batches, and the optimiser's step.

use candle_core::{DType, Tensor};
use polyrank::encoder::Packed;
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::{self, Workers};
use polyrank::ops::splitmix;
use polyrank::text::Encoded;

use crate::data::Target;
use crate::error::Error;
use crate::loss::TaskLoss;
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

/// Computes the share of some rows in a step's mean loss, from their logits `[rows, outputs]`, the number of their batch, and their
/// places in it.
pub type Loss<'a> = dyn Fn(&Tensor, usize, &[usize]) -> candle_core::Result<Tensor> + Sync + 'a;

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
    /// Makes one step on one batch, as [`Self::step_over`].
    ///
    /// # Errors
    /// As [`Self::step_over`].
    pub fn step(&mut self, batch: &Batch, dropout: StepDropout, rate: f64) -> Result<Tensor, Error> {
        self.step_over(&[*batch], dropout, rate)
    }

    /// Makes one step on the task's loss over several batches, as [`Self::step_on`] (gradient accumulation). Up to rounding, this is a step
    /// on one batch with the rows of all.
    ///
    /// # Errors
    /// As [`Self::step_on`].
    pub fn step_over(&mut self, batches: &[Batch], dropout: StepDropout, rate: f64) -> Result<Tensor, Error> {
        let task = self.loss.clone();
        let divisor = batches.iter().map(|batch| task.divisor(batch.targets)).sum();
        let loss = |logits: &Tensor, batch: usize, rows: &[usize]| {
            let targets: Vec<Target> = rows.iter().map(|&row| batches[batch].targets[row].clone()).collect();
            task.share(logits, &targets, divisor)
        };
        let texts: Vec<&[&Encoded]> = batches.iter().map(|batch| batch.texts).collect();
        self.step_on(&texts, &loss, dropout, rate)
    }

    /// Makes one step on `loss` over several batches of texts at the learning rate `rate`. The step only needs the memory of one batch,
    /// because the batches run one after the other. Every micro-batch has its own seed of dropout, which follows from `dropout`. Returns
    /// the mean loss before the step, a scalar on the device, for which the host does not wait.
    ///
    /// # Errors
    /// A tensor operation fails; or, in host memory, the loss or a gradient is not finite. On a device, the host would have to wait for
    /// these values in each step.
    pub fn step_on(
        &mut self,
        batches: &[&[&Encoded]],
        loss: &Loss,
        dropout: StepDropout,
        rate: f64,
    ) -> Result<Tensor, Error> {
        let on_host = self.engine.backend().on_host();
        // A GPU runs each batch as a whole.
        let least = if on_host { micro_batches::TOKENS } else { usize::MAX };
        let pass = self.method.pass()?;
        let (mut mean, mut of_leaves, mut first) = (None, Vec::new(), 0);
        for (batch, texts) in batches.iter().enumerate() {
            let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
            let parts = balanced(&lengths, least);
            let run = |i: usize| {
                let texts: Vec<&Encoded> = parts[i].iter().map(|&row| texts[row]).collect();
                let seed = splitmix(dropout.seed) ^ (first + i) as u64;
                let hooks = TrainingPass { pass: &*pass, dropout: StepDropout { seed, ..dropout } };
                self.run(&texts, |logits| loss(logits, batch, &parts[i]), &hooks)
            };
            for result in self.workers.map(parts.len(), run) {
                let (part, parts) = result?;
                mean = add(mean, Some(part))?;
                of_leaves = added(of_leaves, parts)?;
            }
            first += parts.len();
        }
        let Some(mean) = mean else { return Err(Error::Settings("a step needs at least one row".to_owned())) };
        let mut gradients = pass.gradients(of_leaves)?;
        if let Some(penalty) = self.method.penalty()? {
            gradients = added(self.optimizer.gradients(&penalty.backward()?), gradients)?;
        }
        drop(pass);
        let before = if on_host { gradients.clone() } else { Vec::new() };
        let norm = method::step(&mut *self.method, &mut self.optimizer, gradients, rate)?;
        if on_host {
            self.check_finite(&mean, &before, &norm)?;
        }
        Ok(mean)
    }

    /// Checks the loss and the norm of the gradients of the last step. Only if the norm is not finite, the gradients, which are those
    /// before the step, are searched for the first that is not.
    fn check_finite(&self, loss: &Tensor, gradients: &[Option<Tensor>], norm: &Tensor) -> Result<(), Error> {
        let (step, loss) = (self.optimizer.done, loss.to_scalar::<f32>()?);
        if !loss.is_finite() {
            return Err(Error::Diverged { step, loss });
        }
        if norm.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite() {
            return Ok(());
        }
        for (variable, gradient) in self.optimizer.variables.iter().zip(gradients) {
            if let Some(gradient) = gradient
                && !is_finite(gradient)?
            {
                return Err(Error::NotFiniteTensor { step, tensor: format!("the gradient of {}", variable.name) });
            }
        }
        Err(Error::NotFiniteTensor { step, tensor: "the norm of the gradients".to_owned() })
    }

    /// Runs forward and backward on some texts of a step. Returns their part of the mean loss, and the gradients of the leaves.
    fn run(
        &self,
        texts: &[&Encoded],
        loss: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        hooks: &TrainingPass,
    ) -> Result<(Tensor, Vec<Option<Tensor>>), Error> {
        let (encoder, batch) = (&**self.engine.encoder(), Packed::new(texts.iter().copied()));
        let logits = encoder.logits(&encoder.pooled(&batch, hooks)?, &self.method.head(), hooks)?;
        let loss = loss(&logits)?;
        let store = loss.backward()?;
        // They are detached, because their graphs would keep the forward pass's activations in memory.
        let gradients = hooks.pass.leaves().iter().map(|leaf| store.get(leaf).map(Tensor::detach)).collect();
        Ok((loss.detach(), gradients))
    }
}

/// Whether all elements of `tensor` are finite.
///
/// # Errors
/// A tensor operation fails.
pub fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().all(f32::is_finite))
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
