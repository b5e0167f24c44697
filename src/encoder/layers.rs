//! The layers that encoders are made of, each asking the seam where its parameters come from and what its site adds.

use candle_core::{Device, Result, Tensor, bail};

use super::{DropPoint, Layout, Packed, Seam, Site};
use crate::kernel::{self, Param};
use crate::model::{Frozen, ModelError, Weights};

/// The parameter in use: the seam's, or else the base's own.
pub(crate) fn resolve(frozen: &Frozen, seam: &dyn Seam) -> Result<Param> {
    Ok(match seam.parameter(frozen.name())? {
        Some(tensor) => Param::Tensor(tensor),
        None => Param::Frozen(frozen.clone()),
    })
}

/// `h` with what the seam drops at `point`.
pub(crate) fn dropped(h: Tensor, point: DropPoint, seam: &dyn Seam) -> Result<Tensor> {
    match seam.dropout(point) {
        Some(dropout) => kernel::dropout(&h, dropout),
        None => Ok(h),
    }
}

/// Takes parameters from a base and remembers them, so that an encoder can list what it asks the seam for.
pub(crate) struct Loader<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) taken: Vec<Frozen>,
}

impl Loader<'_> {
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> std::result::Result<Frozen, ModelError> {
        let frozen = self.weights.parameter(name, shape)?;
        self.taken.push(frozen.clone());
        Ok(frozen)
    }

    /// A bias, or zeros where the architecture has none.
    fn bias(&mut self, name: &str, size: usize, biased: bool) -> std::result::Result<Bias, ModelError> {
        let frozen = match biased {
            true => self.take(name, &[size])?,
            false => Frozen::zeros(&[size], self.weights.device())?,
        };
        Ok(Bias { frozen, biased })
    }

    /// The linear at `site`, with or without a bias.
    pub(crate) fn site(
        &mut self,
        layout: &Layout,
        site: Site,
        biased: bool,
    ) -> std::result::Result<Linear, ModelError> {
        let module = layout.module(site);
        let shape = (module.out_features, module.in_features);
        Ok(Linear { site: Some(site), ..self.linear(&layout.name(site), shape, biased)? })
    }

    /// `{name}.weight [out, in]` and perhaps `{name}.bias [out]`, which is no site.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        (out, width): (usize, usize),
        biased: bool,
    ) -> std::result::Result<Linear, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[out, width])?;
        Ok(Linear { weight, bias: self.bias(&format!("{name}.bias"), out, biased)?, site: None })
    }

    /// `{name}.weight` and perhaps `{name}.bias`, `[width]`.
    pub(crate) fn norm(
        &mut self,
        name: &str,
        width: usize,
        eps: f64,
        biased: bool,
    ) -> std::result::Result<Norm, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[width])?;
        Ok(Norm { weight, bias: self.bias(&format!("{name}.bias"), width, biased)?, eps })
    }
}

/// A bias, or the zeros in its place, which nothing replaces.
struct Bias {
    frozen: Frozen,
    biased: bool,
}

impl Bias {
    fn resolve(&self, seam: &dyn Seam) -> Result<Param> {
        if self.biased { resolve(&self.frozen, seam) } else { Ok(Param::Frozen(self.frozen.clone())) }
    }
}

/// `x W^T + b`, with what the site adds if it is one.
pub(crate) struct Linear {
    weight: Frozen,
    bias: Bias,
    site: Option<Site>,
}

impl Linear {
    /// `x [T, in]` to `[T, out]`.
    pub(crate) fn forward(&self, x: &Tensor, seam: &dyn Seam) -> Result<Tensor> {
        let y = self.with_delta(x, seam)?;
        match self.site {
            Some(site) => seam.after(site, seam.project(site, x, y)?),
            None => Ok(y),
        }
    }

    /// The base's own `x W^T + b`, where the seam replaces neither.
    pub(crate) fn bare(&self, x: &Tensor, seam: &dyn Seam) -> Result<Option<Tensor>> {
        match (resolve(&self.weight, seam)?, self.bias.resolve(seam)?) {
            (weight @ Param::Frozen(_), bias @ Param::Frozen(_)) => kernel::linear(x, &weight, &bias).map(Some),
            _ => Ok(None),
        }
    }

    /// [`Self::forward`] for an input `x` that is not the batch's tokens but shared by the texts of `group` ([`Seam::groups`]);
    /// `known` is [`Self::bare`] of it, where that is at hand.
    pub(crate) fn shared(&self, x: &Tensor, known: Option<&Tensor>, group: usize, seam: &dyn Seam) -> Result<Tensor> {
        let delta = self.site.map(|site| seam.delta(site)).transpose()?.flatten();
        let y = match known {
            Some(known) if delta.is_none() => known.clone(),
            _ => self.with_delta(x, seam)?,
        };
        match self.site {
            Some(site) => seam.after(site, seam.project_shared(site, group, x, y)?),
            None => Ok(y),
        }
    }

    fn with_delta(&self, x: &Tensor, seam: &dyn Seam) -> Result<Tensor> {
        let (weight, bias) = (resolve(&self.weight, seam)?, self.bias.resolve(seam)?);
        match self.site.map(|site| seam.delta(site)).transpose()?.flatten() {
            Some(delta) => kernel::adapted_linear(x, &weight, &bias, &delta),
            None => kernel::linear(x, &weight, &bias),
        }
    }
}

/// [`Linear::forward`] of query, key and value, which read the same `x` and are asked for together.
pub(crate) fn forward_qkv(linears: [&Linear; 3], x: &Tensor, seam: &dyn Seam) -> Result<[Tensor; 3]> {
    let [Some(query), Some(key), Some(value)] = linears.map(|linear| linear.site) else {
        let [query, key, value] = linears.map(|linear| linear.forward(x, seam));
        return Ok([query?, key?, value?]);
    };
    let sites = [query, key, value];
    let projected = seam.project_all(&sites, x, &|i| linears[i].with_delta(x, seam))?;
    let after = sites.into_iter().zip(projected).map(|(site, y)| seam.after(site, y));
    match <[Tensor; 3]>::try_from(after.collect::<Result<Vec<_>>>()?) {
        Ok(projected) => Ok(projected),
        Err(found) => bail!("the seam gave {} projections of 3", found.len()),
    }
}

/// LayerNorm over the hidden size.
pub(crate) struct Norm {
    weight: Frozen,
    bias: Bias,
    eps: f64,
}

impl Norm {
    /// The norm of `h + residual`, both `[T, hidden]`.
    pub(crate) fn forward(&self, h: &Tensor, residual: &Tensor, seam: &dyn Seam) -> Result<Tensor> {
        self.of(h, Some(residual), seam)
    }

    /// The norm of `x [T, hidden]`.
    pub(crate) fn alone(&self, x: &Tensor, seam: &dyn Seam) -> Result<Tensor> {
        self.of(x, None, seam)
    }

    fn of(&self, h: &Tensor, residual: Option<&Tensor>, seam: &dyn Seam) -> Result<Tensor> {
        kernel::residual_norm(h, residual, &resolve(&self.weight, seam)?, &self.bias.resolve(seam)?, self.eps)
    }
}

/// Tables that are looked up and added: words, and perhaps positions and segments.
pub(crate) struct Tables {
    pub(crate) words: Frozen,
    pub(crate) positions: Option<Frozen>,
    pub(crate) types: Option<Frozen>,
    pub(crate) device: Device,
}

impl Tables {
    /// The sum of the rows of each token, `[T, width]`.
    pub(crate) fn sum(&self, batch: &Packed, positions: &[u32], seam: &dyn Seam) -> Result<Tensor> {
        // A table of one row has room for no segment but the first, whatever the tokenizer says (RoBERTa's).
        let single = self.types.as_ref().is_some_and(|types| types.shape().first() == Some(&1));
        let zeros = if single { vec![0; batch.tokens()] } else { Vec::new() };
        let mut tables = vec![(resolve(&self.words, seam)?, &batch.ids[..])];
        if let Some(table) = &self.positions {
            tables.push((resolve(table, seam)?, positions));
        }
        if let Some(table) = &self.types {
            tables.push((resolve(table, seam)?, if single { &zeros[..] } else { &batch.type_ids[..] }));
        }
        let lookups: Vec<_> = tables.iter().map(|(table, ids)| (table, *ids)).collect();
        kernel::embed(&lookups, &self.device)
    }
}
