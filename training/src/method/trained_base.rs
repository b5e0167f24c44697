//! Trained copies of the base's own parameters.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};
use polyrank::adapter::AdapterInfo;
use polyrank::encoder::{Encoder, Head, Hooks};

use super::{Export, Method, Model, Pass, PlainPass, Report, TrainedHead};
use crate::optim::{Group, Variable};

/// Trained copies, which replace parameters of the base, and a head.
pub struct TrainedBase {
    parameters: BTreeMap<String, Var>,
    head: TrainedHead,
}

impl TrainedBase {
    /// Copies of the base's parameters whose names are `chosen`, f32 whatever the base's type.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(encoder: &dyn Encoder, chosen: impl Fn(&str) -> bool, head: TrainedHead) -> Result<Self> {
        let chosen = encoder.parameters().iter().filter(|parameter| chosen(parameter.name()));
        let parameters = chosen.map(|parameter| {
            Ok((parameter.name().to_owned(), Var::from_tensor(&parameter.tensor()?.to_dtype(DType::F32)?)?))
        });
        Ok(Self { parameters: parameters.collect::<Result<_>>()?, head })
    }
}

impl Hooks for TrainedBase {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.parameters.get(name).map(|var| var.as_tensor().clone()))
    }
}

impl Method for TrainedBase {
    /// The parameters in order of their names, and then the head.
    fn variables(&self) -> Vec<Variable> {
        let of =
            |(name, var): (&String, &Var)| Variable { name: name.clone(), group: Group::of(var), var: var.clone() };
        self.parameters.iter().map(of).chain(self.head.variables()).collect()
    }

    fn head(&self) -> Head {
        self.head.tracked()
    }

    fn pass(&self) -> Result<Box<dyn Pass + '_>> {
        Ok(Box::new(PlainPass::new(self, self.variables())))
    }

    fn report(&self) -> Result<Report> {
        let parameters = self.parameters.values().map(|var| var.elem_count()).sum();
        Ok(Report { ranks: Vec::new(), parameters, kept: 1.0, xi: None })
    }

    fn export(&self, info: AdapterInfo) -> Result<Export> {
        let copy = |(name, var): (&String, &Var)| Ok((name.clone(), var.as_detached_tensor().copy()?));
        let parameters = self.parameters.iter().map(copy).collect::<Result<_>>()?;
        Ok(Export::Model(Model { info, parameters, head: self.head.copy()? }))
    }
}
