//! Trained copies of the base's own parameters, for full fine-tuning and BitFit (Zaken et al. 2022).

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};
use polyrank::encoder::{Encoder, Head, Hooks};

use super::TrainedHead;
use crate::optim::{Group, Variable};

/// Which parameters of the base are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    /// All.
    Full,
    /// Biases, those of norms included.
    Biases,
}

/// Trained copies, which replace frozen parameters, and a head.
pub struct TrainedBase {
    parameters: BTreeMap<String, Var>,
    head: TrainedHead,
}

impl TrainedBase {
    /// Copies of the base's parameters in `subset`, f32 whatever the base's type, and of `head`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(encoder: &dyn Encoder, subset: Subset, head: &Head) -> Result<Self> {
        let chosen = encoder.parameters().iter().filter(|parameter| match subset {
            Subset::Full => true,
            Subset::Biases => parameter.name().ends_with(".bias"),
        });
        let parameters = chosen.map(|parameter| {
            Ok((parameter.name().to_owned(), Var::from_tensor(&parameter.tensor()?.to_dtype(DType::F32)?)?))
        });
        Ok(Self { parameters: parameters.collect::<Result<_>>()?, head: TrainedHead::of(head)? })
    }

    /// Every variable in order of their names; those of the head come last.
    #[must_use]
    pub fn variables(&self) -> Vec<Variable> {
        let of = |(name, var): (&String, &Var)| Variable { name: name.clone(), group: Group::PLAIN, var: var.clone() };
        self.parameters.iter().map(of).chain(self.head.variables()).collect()
    }

    /// The current head, through which gradients flow.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.tracked()
    }
}

impl Hooks for TrainedBase {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.parameters.get(name).map(|var| var.as_tensor().clone()))
    }
}
