//! LoRA (Hu et al. 2022): `y += s * Wu (Wd x)`, `s = alpha / rank`.

use candle_core::{Device, Result};
use polyrank::adapter::Adapter;
use polyrank::encoder::{Head, Hooks};
use polyrank::ops::Added;
use polyrank::params::{Delta, Layout, Site};

use super::{AdapterInfo, LowRank, LowRankSettings, Method, Report};
use crate::optim::Variable;

/// LoRA's low-rank factors, and a head.
pub struct Lora(LowRank);

impl Lora {
    /// LoRA with new variables.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(layout: &Layout, settings: &LowRankSettings, device: &Device) -> Result<Self> {
        Ok(Self(LowRank::new(layout, settings, device)?.0))
    }
}

impl Hooks for Lora {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        let Some(position) = self.0.position(site) else { return Ok(Added::Nothing) };
        let factors = &self.0.factors[position];
        let (a, b) = (factors.a.as_tensor().clone(), factors.b.as_tensor().clone());
        Ok(Added::Whole(Delta { a, b, scale: self.0.scale }))
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
