//! From hidden states to logits: pooling, and an adapter's own head.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, bail};

use super::layers::{Loader, dropped, only, resolve};
use super::{DropPoint, Encoder, Hooks, Packed};
use crate::base::ModelError;
use crate::base::architecture::{Activation, HeadSpec};
use crate::ops::{self, Added, Ops};
use crate::params::{Frozen, HeadParameter, Layout, Param};

/// The tensors of a head by their names in checkpoints ([`Layout::head`]).
pub type Head = BTreeMap<String, Tensor>;

/// The first token of each text, `[B, hidden]`, from `hidden [T, hidden]` with texts at `offsets [B + 1]`.
///
/// # Errors
/// Candle's own.
pub fn first_tokens(hidden: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    let starts: Vec<u32> = offsets.windows(2).map(|span| span[0] as u32).collect();
    let texts = starts.len();
    hidden.index_select(&Tensor::from_vec(starts, texts, hidden.device())?, 0)
}

/// Logits `[B, labels]` of a batch whose texts all use the same head.
///
/// # Errors
/// If the head lacks a tensor that the architecture needs, or candle fails.
pub fn head_logits(
    encoder: &dyn Encoder,
    hidden: &Tensor,
    batch: &Packed,
    head: &Head,
    hooks: &dyn Hooks,
) -> Result<Tensor> {
    encoder.logits(&encoder.pool(hidden, &batch.offsets)?, head, hooks)
}

fn activated(x: &Tensor, activation: Activation, ops: &dyn Ops) -> Result<Tensor> {
    match activation {
        Activation::Tanh => x.tanh(),
        Activation::Gelu => ops.gelu(x),
        Activation::Relu => x.relu(),
    }
}

/// The classifier of an architecture, with the base's own head tensors, if the base has any.
pub(super) struct Classifier {
    ops: &'static dyn Ops,
    spec: HeadSpec,
    eps: f64,
    base: BTreeMap<String, Frozen>,
    no_bias: Frozen,
}

impl Classifier {
    /// Loads the head tensors that the base has. Marks those that it lacks as required of adapters in `layout`.
    pub(super) fn open(
        spec: HeadSpec,
        loader: &mut Loader,
        layout: &mut Layout,
        eps: f64,
    ) -> std::result::Result<Self, ModelError> {
        let hidden = layout.hidden;
        let mut base = BTreeMap::new();
        for HeadParameter { name, shape, required } in layout.head.iter_mut().filter(|parameter| !parameter.required) {
            if loader.has(name) {
                drop(base.insert(name.clone(), loader.take(name, &vec![hidden; shape.len()])?))
            } else {
                *required = true
            }
        }
        Ok(Self { ops: loader.ops(), spec, eps, base, no_bias: loader.zeros(hidden)? })
    }

    /// A tensor of the head: the adapter's if it has one, else the base's.
    fn param(&self, head: &Head, name: &str, hooks: &dyn Hooks) -> Result<Param> {
        match (head.get(name), self.base.get(name)) {
            (Some(tensor), _) => Ok(Param::Tensor(tensor.clone())),
            (None, Some(frozen)) => resolve(frozen, hooks),
            (None, None) => bail!("neither the adapter nor the base has {name}"),
        }
    }

    /// Applies the linear `module`, with or without a bias, to `x`.
    fn linear(&self, x: &Tensor, head: &Head, (module, bias): (&str, bool), hooks: &dyn Hooks) -> Result<Tensor> {
        let (weight, bias) = self.module(head, (module, bias), hooks)?;
        let linear = ops::Linear { weight, bias, added: Added::Nothing, gelu: false };
        only(self.ops.linears(x, &[linear])?)
    }

    /// Weight and bias of a module.
    fn module(&self, head: &Head, (module, bias): (&str, bool), hooks: &dyn Hooks) -> Result<(Param, Param)> {
        let weight = self.param(head, &format!("{module}.weight"), hooks)?;
        let bias = if bias {
            self.param(head, &format!("{module}.bias"), hooks)?
        } else {
            Param::Frozen(self.no_bias.clone())
        };
        Ok((weight, bias))
    }

    /// Logits `[B, labels]` from the pooled texts, `[B, hidden]`.
    pub(super) fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor> {
        let HeadSpec { dense, dense_bias, activation, norm, output, drops_input } = self.spec;
        let mut x = pooled.clone();
        if drops_input {
            x = dropped(x, DropPoint::HeadInput, self.ops, hooks)?;
        }
        x = activated(&self.linear(&x, head, (dense, dense_bias), hooks)?, activation, self.ops)?;
        if let Some(norm) = norm {
            let (weight, bias) = self.module(head, norm, hooks)?;
            x = self.ops.norm(&x, None, &ops::Norm { weight: &weight, bias: &bias, eps: self.eps })?;
        }
        self.linear(&dropped(x, DropPoint::Head, self.ops, hooks)?, head, (output, true), hooks)
    }
}
