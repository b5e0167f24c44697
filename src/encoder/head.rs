//! From hidden states to logits: pooling, and an adapter's own head.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, bail};

use super::layers::{Loader, dropped, only, resolve};
use super::{DropPoint, Hooks};
use crate::base::ModelError;
use crate::base::architecture::{Activation, HeadSpec};
use crate::ops::{self, Added, HeadLinear, Ops};
use crate::params::{Frozen, HeadParameter, Layout, Param};

/// The tensors of a head by their names in checkpoints ([`Layout::head`]).
pub type Head = BTreeMap<String, Tensor>;

/// The texts of a batch that use one head ([`super::Encoder::heads`]).
#[derive(Debug, Clone, Copy)]
pub struct HeadJob<'a> {
    /// The rows of the pooled texts, ascending.
    pub rows: &'a [usize],
    /// The head.
    pub head: &'a Head,
}

impl HeadJob<'_> {
    /// The rows as operations read them.
    pub(super) fn rows(&self) -> Vec<u32> {
        self.rows.iter().map(|&row| row as u32).collect()
    }
}

/// The first token of each text, `[B, hidden]`, from `hidden [T, hidden]` with texts at `offsets [B + 1]`.
///
/// # Errors
/// Candle's own.
pub fn first_tokens(hidden: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    let starts: Vec<u32> = offsets.windows(2).map(|span| span[0] as u32).collect();
    let texts = starts.len();
    if starts.iter().map(|start| *start as usize).eq(0..hidden.dim(0)?) {
        return Ok(hidden.clone());
    }
    hidden.index_select(&Tensor::from_vec(starts, texts, hidden.device())?, 0)
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
                drop(base.insert(name.clone(), loader.take_f32(name, &vec![hidden; shape.len()])?))
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

    /// The input of the first linear. Heads are f32, whatever the type of the activations.
    fn input(&self, pooled: &Tensor, hooks: &dyn Hooks) -> Result<Tensor> {
        let x = pooled.to_dtype(DType::F32)?;
        if self.spec.drops_input { dropped(x, DropPoint::HeadInput, self.ops, hooks) } else { Ok(x) }
    }

    /// Logits `[B, labels]` from the pooled texts, `[B, hidden]`.
    pub(super) fn logits(&self, pooled: &Tensor, head: &Head, hooks: &dyn Hooks) -> Result<Tensor> {
        let HeadSpec { dense, dense_bias, activation, norm, output, .. } = self.spec;
        let mut x = self.input(pooled, hooks)?;
        x = activated(&self.linear(&x, head, (dense, dense_bias), hooks)?, activation, self.ops)?;
        if let Some(norm) = norm {
            let (weight, bias) = self.module(head, norm, hooks)?;
            x = self.ops.norm(&x, None, &ops::Norm { weight: &weight, bias: &bias, eps: self.eps })?;
        }
        self.linear(&dropped(x, DropPoint::Head, self.ops, hooks)?, head, (output, true), hooks)
    }

    /// [`Encoder::heads`]: each stage runs for all jobs at once.
    pub(super) fn heads(&self, pooled: &Tensor, jobs: &[HeadJob], hooks: &dyn Hooks) -> Result<Vec<Tensor>> {
        let HeadSpec { dense, dense_bias, activation, norm, output, .. } = self.spec;
        let rows: Vec<Vec<u32>> = jobs.iter().map(HeadJob::rows).collect();
        let linears = self.linears(&rows, jobs, (dense, dense_bias), hooks)?;
        let flat = self.ops.head_linears(&self.input(pooled, hooks)?, &linears)?;
        // From here on, the jobs' rows lie one after the other.
        let ends = rows.iter().scan(0, |end, rows| {
            *end += rows.len() as u32;
            Some(*end - rows.len() as u32..*end)
        });
        let rows: Vec<Vec<u32>> = ends.map(Iterator::collect).collect();
        let total: usize = rows.iter().map(Vec::len).sum();
        if total == 0 {
            return HeadLinear::split(&flat.narrow(0, 0, 0)?, &self.linears(&rows, jobs, (output, true), hooks)?);
        }
        let mut x = activated(&flat.reshape((total, ()))?, activation, self.ops)?;
        if let Some(norm) = norm {
            x = self.norms(&x, &rows, jobs, norm, hooks)?;
        }
        let linears = self.linears(&rows, jobs, (output, true), hooks)?;
        let flat = self.ops.head_linears(&dropped(x, DropPoint::Head, self.ops, hooks)?, &linears)?;
        HeadLinear::split(&flat, &linears)
    }

    /// The linear `module` of each job's head, over its rows.
    fn linears<'a>(
        &self,
        rows: &'a [Vec<u32>],
        jobs: &[HeadJob],
        module: (&str, bool),
        hooks: &dyn Hooks,
    ) -> Result<Vec<HeadLinear<'a>>> {
        let linear = |(rows, job): (&'a Vec<u32>, &HeadJob)| {
            let (weight, bias) = self.module(job.head, module, hooks)?;
            Ok(HeadLinear { rows, weight, bias })
        };
        rows.iter().zip(jobs).map(linear).collect()
    }

    /// The norm of each job's rows of `x`: in one operation, unless a head has a norm of its own.
    fn norms(
        &self,
        x: &Tensor,
        rows: &[Vec<u32>],
        jobs: &[HeadJob],
        module: (&str, bool),
        hooks: &dyn Hooks,
    ) -> Result<Tensor> {
        let normed = |x: &Tensor, head: &Head| {
            let (weight, bias) = self.module(head, module, hooks)?;
            self.ops.norm(x, None, &ops::Norm { weight: &weight, bias: &bias, eps: self.eps })
        };
        let names = ["weight", "bias"].map(|part| format!("{}.{part}", module.0));
        let own = |job: &HeadJob| names.iter().any(|name| job.head.contains_key(name));
        match jobs {
            [first, ..] if !jobs.iter().any(own) => normed(x, first.head),
            _ => {
                let parts = rows.iter().zip(jobs).filter_map(|(rows, job)| {
                    let first = *rows.first()?;
                    Some(x.narrow(0, first as usize, rows.len()).and_then(|part| normed(&part, job.head)))
                });
                Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
            }
        }
    }
}
