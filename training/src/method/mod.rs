//! Methods: which variables are trained on a frozen base, how they step, and the adapter that results.
//!
//! A method is one file or folder, and no other code knows its parts. The trainer uses only the trait [`Method`].
//!
//! | file | idea |
//! | --- | --- |
//! | [`sora`] | SoRA: low-rank factors with a gate on each rank, pruned exactly |
//! | `lora` | LoRA: low-rank factors alone |
//! | [`adalora`] | AdaLoRA: low-rank factors as a singular value decomposition, whose singular values share a falling budget |
//! | `dylora` | DyLoRA: low-rank factors that work at every rank up to their own |
//! | `bitfit` | BitFit: the base's biases |
//! | `adapter` | Houlsby's adapters: two bottlenecks in each layer |
//! | `full` | full fine-tuning: all parameters of the base |
//! | `export` | what a method leaves: an adapter, a model, or bottlenecks |
//! | `factors` | the low-rank factors of one site |
//! | `low_rank` | what low-rank methods share: the factors of each site and their initial values |
//! | `folded` | the delta of a site whose ranks have factors of their own, such as gates |
//! | `low_rank_pass` | what a step reads of these factors, and their gradients |
//! | `low_rank_rows` | which ranks of these factors a step reads |
//! | `low_rank_device` | both on a GPU, where candle's graph has neither the factors nor their gradients |
//! | `pass` | what a step reads of any method |
//! | `head` | the trained head, which every method has |
//! | `trained_base` | trained copies of the base's own parameters (full fine-tuning and BitFit) |
//! | `bottleneck` | one bottleneck, and the bottlenecks of all layers as a value |
//! | `dropout` | the hooks of a method with the dropout of one micro-batch |

pub mod adalora;
mod adapter;
mod bitfit;
mod bottleneck;
mod dropout;
mod dylora;
mod export;
mod factors;
mod folded;
mod full;
mod head;
mod lora;
mod low_rank;
mod low_rank_device;
mod low_rank_pass;
mod low_rank_rows;
mod pass;
pub mod sora;
mod trained_base;

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use polyrank::adapter::AdapterInfo;
use polyrank::encoder::Head;

pub use adapter::BottleneckAdapter;
pub use bitfit::bitfit;
pub use bottleneck::{Bottleneck, Bottlenecks, sites};
pub use dropout::{DropoutRates, StepDropout, TrainingPass};
pub use dylora::{DyLora, first_ranks};
pub use export::{Export, Model};
pub use full::full;
pub use head::TrainedHead;
pub use lora::Lora;
pub use low_rank::{LowRank, LowRankSettings};
pub use low_rank_device::LowRankDevice;
pub use low_rank_pass::LowRankPass;
pub use low_rank_rows::{Remaining, Stack};
pub use pass::{Pass, PlainPass};
pub use sora::Sora;
pub use trained_base::TrainedBase;

use crate::optim::{Optimizer, Step, Variable};

/// A way to adapt a frozen base to a task.
///
/// A step makes a [`Self::pass`], computes the gradients of the loss and of [`Self::penalty`], calls [`Self::before_step`], clips, steps
/// each variable by its [`crate::optim::Group`], and calls [`Self::after_step`]. [`step`] does all of it.
pub trait Method: Send + Sync {
    /// Every trained tensor with its group, always in the same order, which is also that of [`Step::gradients`] and of the moments.
    fn variables(&self) -> Vec<Variable>;

    /// The current head, through which gradients flow.
    fn head(&self) -> Head;

    /// The hooks of a step, made from the current variables. The encoder gets tensors with gradients through them: a delta (LoRA and its
    /// variants), a parameter in place of a frozen one (full fine-tuning, BitFit), or what follows a linear (bottleneck adapters).
    ///
    /// # Errors
    /// A tensor operation fails.
    fn pass(&self) -> Result<Box<dyn Pass + '_>>;

    /// A regulariser that each step adds to the loss: a scalar.
    ///
    /// # Errors
    /// A tensor operation fails.
    fn penalty(&self) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Runs before the gradients of `step` are clipped and applied. It may read and change them, or remove one to keep its variable
    /// unchanged.
    ///
    /// # Errors
    /// A tensor operation fails.
    fn before_step(&mut self, _step: &mut Step) -> Result<()> {
        Ok(())
    }

    /// Runs after the variables have made `step`. Returns the variables, by index, for which Adam starts anew.
    ///
    /// # Errors
    /// A tensor operation fails.
    fn after_step(&mut self, _step: &Step) -> Result<Vec<usize>> {
        Ok(Vec::new())
    }

    /// Whether the state after `done` of `total` steps may be chosen as the run's best. A method that is still removing parameters has
    /// more of them than it should keep.
    fn eligible(&self, _done: usize, _total: usize) -> bool {
        true
    }

    /// The tensors by name that a checkpoint needs besides the variables and their moments.
    ///
    /// # Errors
    /// A tensor operation fails.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Restores [`Self::state`] from a checkpoint. A tensor that is missing there keeps its value.
    ///
    /// # Errors
    /// A tensor has another shape.
    fn restore(&mut self, _state: &HashMap<String, Tensor>) -> Result<()> {
        Ok(())
    }

    /// A report on the current state, for the user.
    ///
    /// # Errors
    /// A tensor operation fails.
    fn report(&self) -> Result<Report>;

    /// What the method has trained so far, as a value. Its tensors are copies.
    ///
    /// # Errors
    /// A tensor operation fails.
    fn export(&self, info: AdapterInfo) -> Result<Export>;
}

/// How many of a method's parameters are left.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The rank of each adapted site; empty for a method without ranks.
    pub ranks: Vec<usize>,
    /// The number of parameters without the head and without those that pruning removes.
    pub parameters: usize,
    /// Their share of the parameters at the start of training.
    pub kept: f64,
    /// The threshold xi of the last step's proximal map, if all gates had the same; `None` for other methods.
    pub xi: Option<f64>,
}

impl Report {
    /// The mean rank over adapted sites; 0 for a method without ranks.
    #[must_use]
    pub fn mean_rank(&self) -> f64 {
        self.ranks.iter().sum::<usize>() as f64 / self.ranks.len().max(1) as f64
    }
}

/// Makes a step of `method` at the learning rate `rate`, with gradients from [`Pass::gradients`]. Returns the gradients' norm before
/// clipping, a scalar on the device of the variables.
///
/// # Errors
/// A tensor operation fails.
pub fn step(
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    gradients: Vec<Option<Tensor>>,
    rate: f64,
) -> Result<Tensor> {
    let mut step = optimizer.next(gradients, rate)?;
    method.before_step(&mut step)?;
    let norm = optimizer.apply(&mut step)?;
    let restarts = method.after_step(&step)?;
    optimizer.restart(&restarts)?;
    Ok(norm)
}
