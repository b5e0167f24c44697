//! The importance of each rank: PEFT's `RankAllocator.update_ipt` and `mask_to_budget`.
//!
//! The sensitivity of a parameter is `|w dL/dw|`. Its importance is `I U`: `I` is the moving average of the sensitivity, and `U` that of
//! the sensitivity's distance from `I`, its uncertainty. The importance of a rank is that of `lambda`, plus the means over its row of `Q`
//! and over its column of `P`.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, bail};
use polyrank::params::Form;

use crate::optim::elements;

/// The weights of the past in the moving averages of the sensitivity and of the uncertainty, as in PEFT.
const BETA1: f64 = 0.85;
const BETA2: f64 = 0.85;

/// The names in checkpoints.
const NAMES: [&str; 2] = ["adalora.sensitivity", "adalora.uncertainty"];

/// The moving averages of all parameters.
#[derive(Debug, Clone)]
pub struct Importance {
    /// `I [n]`.
    sensitivity: Tensor,
    /// `U [n]`.
    uncertainty: Tensor,
}

impl Importance {
    /// The averages of `n` parameters before the first step.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(n: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros(n, DType::F32, device);
        Ok(Self { sensitivity: zeros()?, uncertainty: zeros()? })
    }

    /// Updates the averages with one step's parameters and gradients, `[n]`. Only this function chooses the form.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn observe(&mut self, weights: &Tensor, gradients: &Tensor, form: Form) -> Result<()> {
        *self = match form {
            Form::Cpu => self.on_host(weights, gradients)?,
            Form::Reference | Form::Cuda => self.on_device(weights, gradients)?,
        };
        Ok(())
    }

    /// The averages after one more step, with candle's own operations, on any device.
    fn on_device(&self, weights: &Tensor, gradients: &Tensor) -> Result<Self> {
        let now = (weights * gradients)?.abs()?;
        let sensitivity = ((&self.sensitivity * BETA1)? + (&now * (1.0 - BETA1))?)?;
        let distance = (now - &sensitivity)?.abs()?;
        let uncertainty = ((&self.uncertainty * BETA2)? + (distance * (1.0 - BETA2))?)?;
        Ok(Self { sensitivity, uncertainty })
    }

    /// The same in a single loop over host memory.
    fn on_host(&self, weights: &Tensor, gradients: &Tensor) -> Result<Self> {
        let tensors = [weights, gradients, &self.sensitivity, &self.uncertainty].map(Tensor::storage_and_layout);
        let [w, g, i, u] = tensors.each_ref().map(|(storage, layout)| elements(storage, layout));
        let (w, g, i, u) = (w?, g?, i?, u?);
        let (past1, past2) = (BETA1 as f32, BETA2 as f32);
        let (mut sensitivity, mut uncertainty) = (Vec::with_capacity(w.len()), Vec::with_capacity(w.len()));
        for (((w, g), i), u) in w.iter().zip(g).zip(i).zip(u) {
            let now = (w * g).abs();
            let smoothed = past1 * i + (1.0 - past1) * now;
            sensitivity.push(smoothed);
            uncertainty.push(past2 * u + (1.0 - past2) * (now - smoothed).abs());
        }
        let tensor = |values| Tensor::from_vec(values, weights.shape(), &Device::Cpu);
        Ok(Self { sensitivity: tensor(sensitivity)?, uncertainty: tensor(uncertainty)? })
    }

    /// The importance of each parameter, `[n]`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn elements(&self) -> Result<Tensor> {
        &self.sensitivity * &self.uncertainty
    }

    /// The averages for a checkpoint.
    pub(super) fn state(&self) -> [(String, Tensor); 2] {
        let [sensitivity, uncertainty] = NAMES.map(str::to_owned);
        [(sensitivity, self.sensitivity.clone()), (uncertainty, self.uncertainty.clone())]
    }

    /// The averages of `n` parameters in a checkpoint; zeros if there are none.
    pub(super) fn restored(state: &HashMap<String, Tensor>, n: usize, device: &Device) -> Result<Self> {
        let get = |name: &str| match state.get(name) {
            Some(found) if found.dims() != [n] => {
                bail!("tensor {name}: expected shape {:?}, found {:?}", [n], found.dims())
            }
            Some(found) => found.to_device(device),
            None => Tensor::zeros(n, DType::F32, device),
        };
        Ok(Self { sensitivity: get(NAMES[0])?, uncertainty: get(NAMES[1])? })
    }
}

/// Which ranks survive when `budget` of them are left and nothing is known about their importance: as many of each site, the first ones.
/// This is so in a run of a step or two, because `lambda` starts at 0. PEFT removes all of them there.
#[must_use]
pub(super) fn first(sites: usize, rank: usize, budget: usize) -> Vec<bool> {
    let of_site = |site: usize| budget / sites + usize::from(site < budget % sites);
    (0..sites * rank).map(|i| i % rank < of_site(i / rank)).collect()
}

/// Which ranks survive when `budget` of them are left, by their importance. As in PEFT, ranks that are as important as the most important
/// of those that go, go too.
#[must_use]
pub fn survivors(scores: &[f32], budget: usize) -> Vec<bool> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    match scores.len().checked_sub(budget + 1).and_then(|last| sorted.get(last)) {
        Some(threshold) => scores.iter().map(|score| score > threshold).collect(),
        None => vec![true; scores.len()],
    }
}
