//! LoRA (Hu et al. 2022): `y += s * Wu (Wd x)`, `s = alpha / rank`.

use candle_core::{Device, Result};
use polyrank::adapter::{Adapter, Delta};
use polyrank::encoder::{Head, Layout, Seam, Site};

use super::{AdapterInfo, LowRank, LowRankSettings, Method, Report};
use crate::optim::Variable;

/// Low-rank factors and a head.
pub struct Lora(LowRank);

impl Lora {
    /// Fresh variables.
    ///
    /// # Errors
    /// Candle's own.
    pub fn new(layout: &Layout, settings: &LowRankSettings, device: &Device) -> Result<Self> {
        Ok(Self(LowRank::new(layout, settings, device)?.0))
    }
}

impl Seam for Lora {
    fn delta(&self, site: Site) -> Result<Option<Delta>> {
        let delta = |position: usize| {
            let factors = &self.0.factors[position];
            let (a, b) = (factors.a.as_tensor().clone(), factors.b.as_tensor().clone());
            Delta { a, b, scale: self.0.scale }
        };
        Ok(self.0.position(site).map(delta))
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

    fn report(&self) -> Result<Report> {
        let ranks: Vec<usize> = self.0.factors.iter().map(|factors| factors.a.dims()[0]).collect();
        let parameters = self.0.factors.iter().zip(&ranks).map(|(factors, rank)| factors.cost * rank).sum();
        Ok(Report { ranks, parameters, kept: 1.0 })
    }

    fn export(&self, info: AdapterInfo) -> Result<Adapter> {
        let scale = self.0.scale;
        self.0.export(info, |_, a, b| Ok(Some(Delta { a: a.copy()?, b: b.copy()?, scale })))
    }
}
