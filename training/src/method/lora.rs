//! LoRA (Hu et al. 2022): `y += s * Wu (Wd x)`, `s = alpha / rank`.

use candle_core::Result;
use polyrank::adapter::Adapter;
use polyrank::encoder::Head;
use polyrank::params::{Backend, Delta, Layout};

use super::{AdapterInfo, Export, LowRank, LowRankSettings, Method, Pass, Report};
use crate::optim::Variable;

/// LoRA's low-rank factors, and a head.
pub struct Lora(LowRank);

impl Lora {
    /// LoRA with new variables.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(layout: &Layout, settings: &LowRankSettings, backend: impl Into<Backend>) -> Result<Self> {
        Ok(Self(LowRank::new(layout, settings, backend)?.0))
    }

    /// LoRA that starts as `adapter`, whose ranks may differ from site to site.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn of(layout: &Layout, adapter: &Adapter, backend: impl Into<Backend>) -> Result<Self> {
        Ok(Self(LowRank::of(layout, adapter, backend)?))
    }
}

impl Method for Lora {
    fn variables(&self) -> Vec<Variable> {
        let factors = (0..self.0.factors.len()).flat_map(|position| self.0.variables(position));
        factors.chain(self.0.head.variables()).collect()
    }

    fn head(&self) -> Head {
        self.0.head.tracked()
    }

    fn pass(&self) -> Result<Box<dyn Pass + '_>> {
        self.0.pass(None)
    }

    fn report(&self) -> Result<Report> {
        let ranks: Vec<usize> = self.0.factors.iter().map(|factors| factors.a.dims()[0]).collect();
        let parameters = self.0.factors.iter().zip(&ranks).map(|(factors, rank)| factors.cost * rank).sum();
        Ok(Report { ranks, parameters, kept: 1.0, xi: None })
    }

    fn export(&self, info: AdapterInfo) -> Result<Export> {
        let scale = self.0.scale;
        let adapter = self.0.export(info, |_, a, b| Ok(Some(Delta { a: a.copy()?, b: b.copy()?, scale })))?;
        Ok(Export::Adapter(adapter))
    }
}
