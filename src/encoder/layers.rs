//! The layers that encoders consist of. Each asks the hooks for its parameters and for the deltas at its site.

use candle_core::{DType, Result, Tensor, bail};

use super::{DropPoint, Hooks, Packed};
use crate::base::{ModelError, Weights};
use crate::ops::{self, Added, Ops, Segment};
use crate::params::{Backend, Frozen, Layout, Param, Site};

/// The parameter to use: the hooks' if they replace it, else the base's.
pub(crate) fn resolve(frozen: &Frozen, hooks: &dyn Hooks) -> Result<Param> {
    Ok(match hooks.parameter(frozen.name())? {
        Some(tensor) => Param::Tensor(tensor),
        None => Param::Frozen(frozen.clone()),
    })
}

/// Whether the hooks leave the base's parameter as it is.
pub(crate) fn is_frozen(frozen: &Frozen, hooks: &dyn Hooks) -> Result<bool> {
    Ok(hooks.parameter(frozen.name())?.is_none())
}

/// `h` after the dropout that the hooks apply at `point`.
pub(crate) fn dropped(h: Tensor, point: DropPoint, ops: &dyn Ops, hooks: &dyn Hooks) -> Result<Tensor> {
    match hooks.dropout(point) {
        Some(dropout) => ops.dropout(&h, dropout),
        None => Ok(h),
    }
}

/// Loads parameters from a base and records them, so that an encoder can list the parameters for which it calls its hooks.
pub(crate) struct Loader<'a> {
    weights: &'a Weights,
    backend: &'a Backend,
    taken: Vec<Frozen>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(weights: &'a Weights, backend: &'a Backend) -> Self {
        Self { weights, backend, taken: Vec::new() }
    }

    /// The operations of the backend.
    pub(crate) fn ops(&self) -> &'static dyn Ops {
        ops::of(self.backend)
    }

    /// All parameters that were loaded.
    pub(crate) fn taken(self) -> Vec<Frozen> {
        self.taken
    }

    /// Whether the base has the tensor `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.contains(name)
    }

    /// Zeros, in place of a bias.
    pub(crate) fn zeros(&self, size: usize) -> std::result::Result<Frozen, ModelError> {
        Ok(Frozen::zeros(&[size], self.backend)?)
    }

    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> std::result::Result<Frozen, ModelError> {
        let frozen = self.weights.parameter(name, shape)?.placed(self.backend)?;
        self.taken.push(frozen.clone());
        Ok(frozen)
    }

    /// A tensor of a head: f32 on every backend.
    pub(crate) fn take_f32(&mut self, name: &str, shape: &[usize]) -> std::result::Result<Frozen, ModelError> {
        let backend = self.backend.clone().with_dtype(DType::F32);
        let frozen = self.weights.parameter(name, shape)?.placed(backend.as_ref().unwrap_or(self.backend))?;
        self.taken.push(frozen.clone());
        Ok(frozen)
    }

    /// A bias, or zeros if the architecture has none.
    fn bias(&mut self, name: &str, size: usize, biased: bool) -> std::result::Result<Bias, ModelError> {
        let frozen = if biased { self.take(name, &[size])? } else { self.zeros(size)? };
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

    /// The linears at the three `sites`, which read one input. On a GPU their weights lie one after another in memory, and so do their
    /// biases, so that one product computes all three.
    pub(crate) fn sites(
        &mut self,
        layout: &Layout,
        sites: [Site; 3],
        biased: bool,
    ) -> std::result::Result<[Linear; 3], ModelError> {
        let first = self.taken.len();
        let [a, b, c] = sites.map(|site| self.site(layout, site, biased));
        let mut linears = [a?, b?, c?];
        Frozen::join(linears.each_mut().map(|linear| &mut linear.weight), self.backend)?;
        Frozen::join(linears.each_mut().map(|linear| &mut linear.bias.frozen), self.backend)?;
        // The list of parameters must not keep the separate copies.
        self.taken.truncate(first);
        for linear in &linears {
            self.taken.push(linear.weight.clone());
            self.taken.extend(linear.bias.biased.then(|| linear.bias.frozen.clone()));
        }
        Ok(linears)
    }

    /// A linear that is not a site: `{name}.weight [out, in]` and, if `biased`, `{name}.bias [out]`.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        (out, width): (usize, usize),
        biased: bool,
    ) -> std::result::Result<Linear, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[out, width])?;
        Ok(Linear { ops: self.ops(), weight, bias: self.bias(&format!("{name}.bias"), out, biased)?, site: None })
    }

    /// A norm: `{name}.weight` and, if `biased`, `{name}.bias`, both `[width]`.
    pub(crate) fn norm(
        &mut self,
        name: &str,
        width: usize,
        eps: f64,
        biased: bool,
    ) -> std::result::Result<Norm, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[width])?;
        Ok(Norm { ops: self.ops(), weight, bias: self.bias(&format!("{name}.bias"), width, biased)?, eps })
    }
}

/// A bias, or zeros in its place. Hooks cannot replace the zeros.
struct Bias {
    frozen: Frozen,
    biased: bool,
}

impl Bias {
    fn is_frozen(&self, hooks: &dyn Hooks) -> Result<bool> {
        Ok(!self.biased || is_frozen(&self.frozen, hooks)?)
    }

    fn resolve(&self, hooks: &dyn Hooks) -> Result<Param> {
        if self.biased { resolve(&self.frozen, hooks) } else { Ok(Param::Frozen(self.frozen.clone())) }
    }
}

/// `x W^T + b`, plus the deltas at its site, if it is a site.
pub(crate) struct Linear {
    ops: &'static dyn Ops,
    weight: Frozen,
    bias: Bias,
    site: Option<Site>,
}

impl Linear {
    /// `x [T, in]` to `[T, out]`.
    pub(crate) fn forward(&self, x: &Tensor, hooks: &dyn Hooks) -> Result<Tensor> {
        self.run(x, false, hooks)
    }

    /// [`Self::forward`] with GELU after it.
    pub(crate) fn forward_gelu(&self, x: &Tensor, hooks: &dyn Hooks) -> Result<Tensor> {
        self.run(x, true, hooks)
    }

    fn run(&self, x: &Tensor, gelu: bool, hooks: &dyn Hooks) -> Result<Tensor> {
        let added = self.site.map_or(Ok(Added::Nothing), |site| hooks.added(site))?;
        let y = only(self.ops.linears(x, &[self.with(added, gelu, hooks)?])?)?;
        self.after(y, hooks)
    }

    /// This linear as an argument of [`Ops::linears`].
    fn with<'a>(&self, added: Added<'a>, gelu: bool, hooks: &dyn Hooks) -> Result<ops::Linear<'a>> {
        Ok(ops::Linear { weight: resolve(&self.weight, hooks)?, bias: self.bias.resolve(hooks)?, added, gelu })
    }

    fn after(&self, y: Tensor, hooks: &dyn Hooks) -> Result<Tensor> {
        match self.site {
            Some(site) => hooks.after(site, y),
            None => Ok(y),
        }
    }

    /// Whether the weight and the bias are the base's own.
    pub(crate) fn is_frozen(&self, hooks: &dyn Hooks) -> Result<bool> {
        Ok(is_frozen(&self.weight, hooks)? && self.bias.is_frozen(hooks)?)
    }

    /// The base's own `x W^T + b`, for a linear that [`Self::is_frozen`].
    pub(crate) fn bare(&self, x: &Tensor, hooks: &dyn Hooks) -> Result<Tensor> {
        only(self.ops.linears(x, &[self.with(Added::Nothing, false, hooks)?])?)
    }

    /// The result for `x` without deltas of segments. `known` is the result of [`Self::bare`] for `x`, if it has been computed.
    fn base(&self, x: &Tensor, known: Option<&Tensor>, hooks: &dyn Hooks) -> Result<Tensor> {
        let added = self.site.map_or(Ok(Added::Nothing), |site| hooks.added(site))?;
        let added = match (added, known) {
            (added @ (Added::Whole(_) | Added::Trained(_)), _) => added,
            (_, Some(known)) => return Ok(known.clone()),
            (_, None) => Added::Nothing,
        };
        only(self.ops.linears(x, &[self.with(added, false, hooks)?])?)
    }
}

/// An input that is not the batch's tokens but is shared by the texts of all groups ([`Hooks::groups`]).
pub(crate) struct SharedInput<'a> {
    /// `[R, in]`.
    pub(crate) x: &'a Tensor,
    /// Returns this number of copies of `x`, one after another.
    pub(crate) copies: &'a dyn Fn(usize) -> Result<Tensor>,
    /// The number of groups.
    pub(crate) groups: usize,
}

/// The results of `linears` for a shared input. Each linear comes with the result of [`Linear::bare`] for the input, if it has been
/// computed. Returns the different results one after another, `[sets * R, out]`, and for each linear the number of the set of each group:
/// groups without a delta share one.
pub(crate) fn forward_shared(
    linears: &[(&Linear, Option<Tensor>)],
    input: &SharedInput,
    hooks: &dyn Hooks,
) -> Result<(Tensor, Vec<Vec<usize>>)> {
    let rows = input.x.dim(0)?;
    let (mut bases, mut numbers) = (Vec::with_capacity(linears.len()), Vec::with_capacity(linears.len()));
    // For each set, the linear; and the sets that deltas change.
    let (mut sets, mut segments) = (Vec::new(), Vec::new());
    for (at, (linear, known)) in linears.iter().enumerate() {
        bases.push(linear.base(input.x, known.as_ref(), hooks)?);
        let delta = |group| linear.site.and_then(|site| hooks.group_delta(site, group));
        let deltas: Vec<_> = (0..input.groups).map(delta).collect();
        let first = sets.len();
        // The base's own set is there only if a group uses it.
        if deltas.iter().any(Option::is_none) {
            sets.push(at);
        }
        let number = |delta: Option<_>| match delta {
            Some(delta) => {
                segments.push(Segment { rows: sets.len() * rows..(sets.len() + 1) * rows, delta });
                sets.push(at);
                sets.len() - 1
            }
            None => first,
        };
        numbers.push(deltas.into_iter().map(number).collect());
    }
    let (Some((first, _)), bases) = (linears.first(), Tensor::cat(&bases, 0)?) else {
        bail!("no linears for a shared input");
    };
    let all = if segments.is_empty() {
        bases
    } else {
        let copied = sets.iter().flat_map(|at| (at * rows) as u32..((at + 1) * rows) as u32).collect::<Vec<_>>();
        first.ops.add_segments(&(input.copies)(sets.len())?, &first.ops.gather(&bases, &copied)?, &segments)?
    };
    Ok((after_each(linears, &sets, rows, all, hooks)?, numbers))
}

/// `all [sets * rows, out]` after the hooks that run after each of the linears. `sets` has the linear of each set.
fn after_each(
    linears: &[(&Linear, Option<Tensor>)],
    sets: &[usize],
    rows: usize,
    all: Tensor,
    hooks: &dyn Hooks,
) -> Result<Tensor> {
    let (mut parts, mut same, mut start) = (Vec::with_capacity(linears.len()), true, 0);
    for (at, (linear, _)) in linears.iter().enumerate() {
        let count = rows * sets.iter().filter(|set| **set == at).count();
        let part = all.narrow(0, start, count)?;
        let id = part.id();
        let part = linear.after(part, hooks)?;
        same &= part.id() == id;
        parts.push(part);
        start += count;
    }
    // Nearly always: to put the parts together again would copy them.
    if same { Ok(all) } else { Tensor::cat(&parts, 0) }
}

/// The only result of a call with one linear.
pub(crate) fn only(mut results: Vec<Tensor>) -> Result<Tensor> {
    match (results.pop(), results.len()) {
        (Some(only), 0) => Ok(only),
        (_, more) => bail!("one linear gave {more} results besides its own"),
    }
}

/// [`Linear::forward`] for query, key and value, which read the same `x`. Work that their deltas share is done once.
pub(crate) fn forward_qkv(linears: [&Linear; 3], x: &Tensor, hooks: &dyn Hooks) -> Result<[Tensor; 3]> {
    let mut asked = Vec::with_capacity(3);
    for linear in linears {
        let added = linear.site.map_or(Ok(Added::Nothing), |site| hooks.added(site))?;
        asked.push(linear.with(added, false, hooks)?);
    }
    let projected = linears[0].ops.linears(x, &asked)?;
    let after = linears.into_iter().zip(projected).map(|(linear, y)| linear.after(y, hooks));
    match <[Tensor; 3]>::try_from(after.collect::<Result<Vec<_>>>()?) {
        Ok(projected) => Ok(projected),
        Err(found) => bail!("three linears gave {} results", found.len()),
    }
}

/// LayerNorm over the hidden size.
pub(crate) struct Norm {
    ops: &'static dyn Ops,
    weight: Frozen,
    bias: Bias,
    eps: f64,
}

impl Norm {
    /// The norm of `h + residual`, both `[T, hidden]`.
    pub(crate) fn forward(&self, h: &Tensor, residual: &Tensor, hooks: &dyn Hooks) -> Result<Tensor> {
        self.of(h, Some(residual), hooks)
    }

    /// Whether the weight and the bias are the base's own.
    pub(crate) fn is_frozen(&self, hooks: &dyn Hooks) -> Result<bool> {
        Ok(is_frozen(&self.weight, hooks)? && self.bias.is_frozen(hooks)?)
    }

    /// The norm of `x [T, hidden]`.
    pub(crate) fn without_residual(&self, x: &Tensor, hooks: &dyn Hooks) -> Result<Tensor> {
        self.of(x, None, hooks)
    }

    fn of(&self, h: &Tensor, residual: Option<&Tensor>, hooks: &dyn Hooks) -> Result<Tensor> {
        let (weight, bias) = (resolve(&self.weight, hooks)?, self.bias.resolve(hooks)?);
        self.ops.norm(h, residual, &ops::Norm { weight: &weight, bias: &bias, eps: self.eps })
    }
}

/// Embedding tables whose rows are added: words, and optionally positions and segments.
pub(crate) struct Tables {
    pub(crate) words: Frozen,
    pub(crate) positions: Option<Frozen>,
    pub(crate) types: Option<Frozen>,
    pub(crate) backend: Backend,
}

impl Tables {
    /// The sum of each token's rows, `[T, width]`.
    pub(crate) fn sum(&self, batch: &Packed, positions: &[u32], hooks: &dyn Hooks) -> Result<Tensor> {
        // A table with one row has only the first segment, whatever ids the tokenizer gives (RoBERTa).
        let single = self.types.as_ref().is_some_and(|types| types.shape().first() == Some(&1));
        let zeros = if single { vec![0; batch.tokens()] } else { Vec::new() };
        let mut tables = vec![(resolve(&self.words, hooks)?, &batch.ids[..])];
        if let Some(table) = &self.positions {
            tables.push((resolve(table, hooks)?, positions));
        }
        if let Some(table) = &self.types {
            tables.push((resolve(table, hooks)?, if single { &zeros[..] } else { &batch.type_ids[..] }));
        }
        let lookups: Vec<_> = tables.iter().map(|(table, ids)| (table, *ids)).collect();
        // The sum of trained tables is f32.
        ops::of(&self.backend).embed(&lookups, self.backend.device())?.to_dtype(self.backend.dtype())
    }
}
