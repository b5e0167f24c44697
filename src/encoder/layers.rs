//! The layers that encoders are made of, each asking the seam where its parameters come from and what its site adds.

use candle_core::{Result, Tensor};

use super::{DropPoint, Seam, Site};
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
}

/// `x W^T + b`, with what the site adds if it is one.
pub(crate) struct Linear {
    weight: Frozen,
    bias: Frozen,
    site: Option<Site>,
}

impl Linear {
    /// `{name}.weight [out, width]` and `{name}.bias [out]`.
    pub(crate) fn load(
        loader: &mut Loader,
        name: &str,
        (out, width): (usize, usize),
        site: Option<Site>,
    ) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            weight: loader.take(&format!("{name}.weight"), &[out, width])?,
            bias: loader.take(&format!("{name}.bias"), &[out])?,
            site,
        })
    }

    /// `x [T, in]` to `[T, out]`.
    pub(crate) fn forward(&self, x: &Tensor, seam: &dyn Seam) -> Result<Tensor> {
        let (weight, bias) = (resolve(&self.weight, seam)?, resolve(&self.bias, seam)?);
        let Some(site) = self.site else { return kernel::linear(x, &weight, &bias) };
        let y = match seam.delta(site)? {
            Some(delta) => kernel::adapted_linear(x, &weight, &bias, &delta)?,
            None => kernel::linear(x, &weight, &bias)?,
        };
        seam.after(site, seam.project(site, x, y)?)
    }
}

/// LayerNorm over the hidden size, of a sum with a residual.
pub(crate) struct Norm {
    weight: Frozen,
    bias: Frozen,
    eps: f64,
}

impl Norm {
    /// `{name}.weight` and `{name}.bias`, `[hidden]`.
    pub(crate) fn load(
        loader: &mut Loader,
        name: &str,
        hidden: usize,
        eps: f64,
    ) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            weight: loader.take(&format!("{name}.weight"), &[hidden])?,
            bias: loader.take(&format!("{name}.bias"), &[hidden])?,
            eps,
        })
    }

    /// The norm of `h + residual`, both `[T, hidden]`.
    pub(crate) fn forward(&self, h: &Tensor, residual: &Tensor, seam: &dyn Seam) -> Result<Tensor> {
        kernel::residual_norm(h, residual, &resolve(&self.weight, seam)?, &resolve(&self.bias, seam)?, self.eps)
    }
}
