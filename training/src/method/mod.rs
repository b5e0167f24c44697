//! Methods: what is trained over a frozen base, how it steps, and the adapter that results.
//!
//! A method is one file (or folder) and the only place that knows its own parts. The trainer sees the trait [`Method`] alone.
//!
//! | file | idea |
//! | --- | --- |
//! | [`sora`] | SoRA: low-rank factors with a gate on each rank, pruned exactly |
//! | `lora` | LoRA: low-rank factors alone |
//! | `low_rank` | what both share: the factors of each site and their start |
//! | `head` | the trained classifier, which every method has |
//! | `trained_base` | trained copies of the base's own parameters (full fine-tuning and BitFit); it has no export yet |
//! | `dropout` | a method with what one pass of a step drops |

mod dropout;
mod head;
mod lora;
mod low_rank;
pub mod sora;
mod trained_base;

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use polyrank::adapter::{Adapter, AdapterInfo};
use polyrank::encoder::{Head, Hooks};

pub use dropout::{Rates, StepDropout, TrainingPass};
pub use head::TrainedHead;
pub use lora::Lora;
pub use low_rank::{LowRank, LowRankSettings};
pub use sora::Sora;
pub use trained_base::{Subset, TrainedBase};

use crate::optim::{Moments, Optimizer, Step, Variable};

/// A way to adapt a frozen base to a task.
///
/// As a [`Hooks`] it answers the encoder during a forward pass, with tensors that gradients flow through: a delta (LoRA and its kin), a
/// parameter in place of a frozen one (full fine-tuning, BitFit), or what follows a linear (bottleneck adapters).
///
/// A step is: gradients of the loss and of [`Self::penalty`], [`Self::before_step`], clipping, each variable's own step by its
/// [`crate::optim::Group`], [`Self::after_step`]. [`step`] does all of it.
pub trait Method: Hooks + Send + Sync {
    /// Every trained tensor with its group, always in the same order: [`Step::gradients`] and moments stand in it too.
    fn variables(&self) -> Vec<Variable>;

    /// The classifier as it stands, tracked.
    fn head(&self) -> Head;

    /// A regulariser that each step adds to the loss: a scalar.
    ///
    /// # Errors
    /// Candle's own.
    fn penalty(&self) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// What happens before the gradients of `step` are clipped and applied: it may look at them, change them, or take one out to
    /// hold its variable still.
    ///
    /// # Errors
    /// Candle's own.
    fn before_step(&mut self, _step: &mut Step) -> Result<()> {
        Ok(())
    }

    /// What happens after the variables have stepped. `step` holds the gradients as they were applied; `moments` are those of
    /// [`Self::variables`], in order.
    ///
    /// # Errors
    /// Candle's own.
    fn after_step(&mut self, _step: &Step, _moments: &mut [Moments]) -> Result<()> {
        Ok(())
    }

    /// Whether a run of `total` steps may keep its state after `done` of them as its best: a method that still removes parameters
    /// then has more of them than it was asked to keep.
    fn eligible(&self, _done: usize, _total: usize) -> bool {
        true
    }

    /// Tensors besides the variables and their moments that a checkpoint must hold, by name.
    ///
    /// # Errors
    /// Candle's own.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Takes [`Self::state`] from a checkpoint. A tensor that is not there keeps its value.
    ///
    /// # Errors
    /// A tensor of another shape.
    fn restore(&mut self, _state: &HashMap<String, Tensor>) -> Result<()> {
        Ok(())
    }

    /// What there is to tell people.
    ///
    /// # Errors
    /// Candle's own.
    fn report(&self) -> Result<Report>;

    /// The method as it stands as an adapter for serving; its tensors are copies.
    ///
    /// # Errors
    /// Candle's own.
    fn export(&self, info: AdapterInfo) -> Result<Adapter>;
}

/// How much of a method is left.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The rank of each adapted site; empty for a method without ranks.
    pub ranks: Vec<usize>,
    /// Parameters besides the head, without those that pruning drops.
    pub parameters: usize,
    /// Their share of the parameters that training began with.
    pub kept: f64,
}

impl Report {
    /// The mean over adapted sites; 0 for a method without ranks.
    #[must_use]
    pub fn mean_rank(&self) -> f64 {
        self.ranks.iter().sum::<usize>() as f64 / self.ranks.len().max(1) as f64
    }
}

/// One whole step of `method` at the learning rate `rate`, with [`Optimizer::gradients`]. Returns the gradients' norm before
/// clipping.
///
/// # Errors
/// Candle's own.
pub fn step(
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    gradients: Vec<Option<Tensor>>,
    rate: f64,
) -> Result<f64> {
    let mut step = optimizer.next(gradients, rate)?;
    method.before_step(&mut step)?;
    let norm = optimizer.apply(&mut step)?;
    method.after_step(&step, &mut optimizer.moments)?;
    Ok(norm)
}
