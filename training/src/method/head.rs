//! The trained head.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Var};
use polyrank::encoder::Head;
use polyrank::params::{Dim, HeadParameter, Layout};
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

use crate::optim::{Group, Variable};

/// The head's trained tensors by name.
pub struct TrainedHead(BTreeMap<String, Var>);

impl TrainedHead {
    /// A new head for `labels` outputs, with the parameters that the base lacks. Weights are drawn from N(0, 0.02), norms are 1, and biases
    /// are 0.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(layout: &Layout, labels: usize, rng: &mut StdRng, device: &Device) -> Result<Self> {
        let mut head = BTreeMap::new();
        for HeadParameter { name, shape, .. } in layout.head.iter().filter(|parameter| parameter.required) {
            let size = |dim: &Dim| match dim {
                Dim::Labels => labels,
                Dim::Fixed(size) => *size,
            };
            let sizes: Vec<usize> = shape.iter().map(size).collect();
            let var = match (sizes.len(), name.ends_with(".weight")) {
                (1, true) => Var::ones(sizes, DType::F32, device)?,
                (1, false) => Var::zeros(sizes, DType::F32, device)?,
                _ => {
                    let normal = StandardNormal.sample_iter(&mut *rng).map(|x: f32| 0.02 * x);
                    Var::from_vec(normal.take(sizes.iter().product()).collect(), sizes, device)?
                }
            };
            head.insert(name.clone(), var);
        }
        Ok(Self(head))
    }

    /// A trained head that starts with the values of `head`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn of(head: &Head) -> Result<Self> {
        let vars = head.iter().map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(tensor)?)));
        Ok(Self(vars.collect::<Result<_>>()?))
    }

    /// Every tensor, in order of their names.
    pub fn variables(&self) -> impl Iterator<Item = Variable> + '_ {
        self.0.iter().map(|(name, var)| Variable { name: name.clone(), group: Group::of(var), var: var.clone() })
    }

    /// The current head, through which gradients flow.
    #[must_use]
    pub fn tracked(&self) -> Head {
        self.0.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// A copy of the current head.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn copy(&self) -> Result<Head> {
        self.0.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?))).collect()
    }
}
