//! The convolution beside the first layer.

use candle_core::{Result, Tensor};

use super::super::Hooks;
use super::super::layers::{Loader, Norm, resolve};
use crate::base::architecture::deberta::{ConvActivation, Settings};
use crate::base::{BaseConfig, ModelError};
use crate::ops::Ops;
use crate::params::Frozen;

/// The convolution that deberta-v2-xlarge runs beside its first layer.
pub(super) struct Conv {
    ops: &'static dyn Ops,
    weight: Frozen,
    bias: Frozen,
    norm: Norm,
    size: usize,
    activation: ConvActivation,
}

impl Conv {
    pub(super) fn load(
        loader: &mut Loader,
        config: &BaseConfig,
        settings: &Settings,
    ) -> std::result::Result<Self, ModelError> {
        let (hidden, size) = (config.hidden_size, settings.conv_kernel_size);
        Ok(Self {
            ops: loader.ops(),
            weight: loader.take("deberta.encoder.conv.conv.weight", &[hidden, hidden, size])?,
            bias: loader.take("deberta.encoder.conv.conv.bias", &[hidden])?,
            norm: loader.norm("deberta.encoder.conv.LayerNorm", hidden, config.layer_norm_eps, true)?,
            size,
            activation: settings.conv_act,
        })
    }

    /// The norm of `residual` plus the convolution of `x`, both `[T, hidden]`. The convolution does not cross the bounds of a text.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        offsets: &[usize],
        hooks: &dyn Hooks,
    ) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        let half = self.size / 2;
        // A row of zeros stands in for rows outside the text.
        let padded = Tensor::cat(&[x, &Tensor::zeros((1, hidden), x.dtype(), x.device())?], 0)?;
        let mut rows = Vec::with_capacity(tokens * self.size);
        for span in offsets.windows(2) {
            for t in span[0]..span[1] {
                let near =
                    (0..self.size).map(|s| (t + s).checked_sub(half).filter(|at| (span[0]..span[1]).contains(at)));
                rows.extend(near.map(|at| at.unwrap_or(tokens) as u32));
            }
        }
        let rows = Tensor::from_vec(rows, tokens * self.size, x.device())?;
        let unfolded = padded.index_select(&rows, 0)?.reshape((tokens, self.size * hidden))?;
        let weight = resolve(&self.weight, hooks)?.tensor()?.to_dtype(x.dtype())?;
        let weight = weight.transpose(1, 2)?.reshape((hidden, self.size * hidden))?;
        let bias = resolve(&self.bias, hooks)?.tensor()?.to_dtype(x.dtype())?;
        let h = unfolded.matmul(&weight.t()?)?.broadcast_add(&bias)?;
        let h = match self.activation {
            ConvActivation::Tanh => h.tanh()?,
            ConvActivation::Gelu => self.ops.gelu(&h)?,
            ConvActivation::Relu => h.relu()?,
        };
        self.norm.forward(&h, residual, hooks)
    }
}
