//! Methods that train parameters of the base itself: full fine-tuning and BitFit (Zaken et al. 2022).

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};
use polyrank::encoder::{Encoder, Head, Hooks};

use super::{Group, Trainable};

/// Which parameters of the base are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    /// All.
    Full,
    /// Biases, those of norms included.
    Biases,
}

/// Trainable copies in place of frozen parameters.
pub struct Replace {
    replaced: BTreeMap<String, Var>,
    head: BTreeMap<String, Var>,
}

impl Replace {
    /// Copies of the base's parameters in `subset`, and of `head`.
    ///
    /// # Errors
    /// Candle's own.
    pub fn new(encoder: &dyn Encoder, subset: Subset, head: &Head) -> Result<Self> {
        let chosen = encoder.parameters().iter().filter(|parameter| match subset {
            Subset::Full => true,
            Subset::Biases => parameter.name().ends_with(".bias"),
        });
        let replaced =
            chosen.map(|parameter| Ok((parameter.name().to_owned(), Var::from_tensor(&parameter.tensor()?)?)));
        let head = head.iter().map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(tensor)?)));
        Ok(Self { replaced: replaced.collect::<Result<_>>()?, head: head.collect::<Result<_>>()? })
    }

    /// Every variable, in order of name, the head's last.
    #[must_use]
    pub fn trainables(&self) -> Vec<Trainable> {
        let of = |group, vars: &BTreeMap<String, Var>| -> Vec<Trainable> {
            vars.iter().map(|(name, var)| Trainable { name: name.clone(), group, var: var.clone() }).collect()
        };
        [of(Group::Weight, &self.replaced), of(Group::Head, &self.head)].concat()
    }

    /// The head as it stands, tracked.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }
}

impl Hooks for Replace {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.replaced.get(name).map(|var| var.as_tensor().clone()))
    }
}
