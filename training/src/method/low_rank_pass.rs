//! One step's view of low-rank factors. With gates, the encoder reads `diag(g) Wd` in place of `Wd`. The products of all sites are made
//! at once, and so are the gradients of `Wd` and `g`, so that the number of launches does not depend on the number of sites. Factors and
//! gradients are f32, also on a base in another type.

use candle_core::{DType, Result, Shape, Tensor, Var};
use polyrank::encoder::Hooks;
use polyrank::ops::{self, Added};
use polyrank::params::{Delta, Site};

use super::low_rank_rows::Stack;
use super::{LowRank, Pass};

/// One of [`super::low_rank_rows::Remaining::down`], with its `Wd` and gates.
struct Gated<'a> {
    stack: &'a Stack,
    /// `Wd [rows, in]` of the remaining ranks.
    a: Tensor,
    /// `g [rows, 1]` of the remaining ranks.
    gates: Tensor,
}

/// The hooks of one step.
pub struct LowRankPass<'a> {
    low_rank: &'a LowRank,
    /// `Wd [rank, in]` of each site, or `diag(g) Wd` with gates; `None` for a site without remaining ranks.
    a: Vec<Option<Tensor>>,
    /// `Wu [out, rank]` of each site; `None` as above.
    b: Vec<Option<Tensor>>,
    /// All sites with remaining ranks if there are gates; `None` without gates.
    gated: Option<Vec<Gated<'a>>>,
}

/// The vector's elements in these shapes. Nothing is copied.
fn views<'a>(vector: &Tensor, shapes: impl Iterator<Item = &'a Shape>) -> Result<Vec<Option<Tensor>>> {
    let mut next = 0;
    let view = |shape: &Shape| {
        next += shape.elem_count();
        vector.narrow(0, next - shape.elem_count(), shape.elem_count())?.reshape(shape).map(Some)
    };
    shapes.map(view).collect()
}

impl<'a> LowRankPass<'a> {
    /// The hooks for the current factors, and for a gate `g [rank]` of each site, if there are gates.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(low_rank: &'a LowRank, gates: Option<&[Var]>) -> Result<Self> {
        let factors = &low_rank.factors;
        let b = (0..factors.len()).map(|position| columns(low_rank, position)).collect::<Result<_>>()?;
        let mut pass = Self { low_rank, a: vec![None; factors.len()], b, gated: None };
        match gates {
            Some(gates) => pass.gated = Some(pass.scale(gates)?),
            None => pass.a = factors.iter().map(|factors| Some(factors.a.as_tensor().clone())).collect(),
        }
        Ok(pass)
    }

    /// Sets `diag(g) Wd` of all sites.
    fn scale(&mut self, gates: &[Var]) -> Result<Vec<Gated<'a>>> {
        let (ops, factors) = (ops::of(&self.low_rank.backend), &self.low_rank.factors);
        let mut gated = Vec::new();
        for stack in &self.low_rank.remaining().down {
            let a: Vec<&Tensor> = stack.positions.iter().map(|&at| factors[at].a.as_tensor()).collect();
            let gates: Vec<&Tensor> = stack.positions.iter().map(|&at| gates[at].as_tensor()).collect();
            let a = stack.gather(ops.join(&a)?.reshape(((), stack.width))?)?;
            let gates = stack.gather(ops.join(&gates)?.reshape(((), 1))?)?;
            let product = a.broadcast_mul(&gates)?.flatten_all()?;
            let shapes: Vec<Shape> = stack.ranks.iter().map(|&rank| (rank, stack.width).into()).collect();
            for (&position, product) in stack.positions.iter().zip(ops.split(&product, &shapes, DType::F32)?) {
                self.a[position] = Some(product.into_inner());
            }
            gated.push(Gated { stack, a, gates });
        }
        Ok(gated)
    }

    /// The gradients of `Wd` and of the gates, from those of `diag(g) Wd`.
    fn through_gates(&self, gated: &[Gated], of_a: &[Option<Tensor>]) -> Result<[Vec<Option<Tensor>>; 2]> {
        let (ops, factors) = (ops::of(&self.low_rank.backend), &self.low_rank.factors);
        let mut all = [vec![None; of_a.len()], vec![None; of_a.len()]];
        for Gated { stack, a, gates } in gated {
            let positions = &stack.positions;
            // Without a gradient, the loss does not depend on any of these sites.
            if positions.iter().all(|&position| of_a[position].is_none()) {
                continue;
            }
            let product = positions.iter().zip(&stack.ranks).map(|(&position, &rank)| match &of_a[position] {
                Some(gradient) => Ok(gradient.clone()),
                None => Tensor::zeros((rank, stack.width), DType::F32, a.device()),
            });
            let product = product.collect::<Result<Vec<_>>>()?;
            let product = ops.join(&product.iter().collect::<Vec<_>>())?.reshape(a.shape())?;
            let of_gates = stack.scatter((&product * a)?.sum_keepdim(1)?)?.flatten_all()?;
            let of_factors = stack.scatter(product.broadcast_mul(gates)?)?.flatten_all()?;
            let shapes = positions.iter().map(|&position| factors[position].a.shape());
            let ranks: Vec<Shape> = positions.iter().map(|&position| Shape::from(factors[position].rank())).collect();
            let views = [views(&of_factors, shapes)?, views(&of_gates, ranks.iter())?];
            for (all, views) in all.iter_mut().zip(views) {
                positions.iter().zip(views).for_each(|(&position, view)| all[position] = view);
            }
        }
        Ok(all)
    }

    /// The gradient of `Wu` of the site at `position`, from that of its remaining columns.
    fn of_b(&self, position: usize, gradient: &Option<Tensor>) -> Result<Option<Tensor>> {
        match (self.low_rank.remaining().columns(position), gradient) {
            (Some(columns), Some(gradient)) => {
                let zeros = self.low_rank.factors[position].b.zeros_like()?;
                zeros.index_add(columns, &gradient.contiguous()?, 1).map(Some)
            }
            (_, gradient) => Ok(gradient.clone()),
        }
    }
}

/// The columns of the remaining ranks of `Wu` at `position`; `None` if none remain. `Wu` itself is read if all remain.
fn columns(low_rank: &LowRank, position: usize) -> Result<Option<Tensor>> {
    let (remaining, b) = (low_rank.remaining(), &low_rank.factors[position].b);
    match remaining.columns(position) {
        _ if remaining.none_at(position) => Ok(None),
        Some(columns) => Ok(Some(Var::from_tensor(&b.as_detached_tensor().index_select(columns, 1)?)?.into_inner())),
        None => Ok(Some(b.as_tensor().clone())),
    }
}

impl Hooks for LowRankPass<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        let Some(position) = self.low_rank.position(site) else { return Ok(Added::Nothing) };
        Ok(match (&self.a[position], &self.b[position]) {
            (Some(a), Some(b)) => Added::Whole(Delta { a: a.clone(), b: b.clone(), scale: self.low_rank.scale }),
            _ => Added::Nothing,
        })
    }
}

impl Pass for LowRankPass<'_> {
    fn leaves(&self) -> Vec<Tensor> {
        let head = self.low_rank.head.variables().map(|variable| variable.var.into_inner());
        self.a.iter().chain(&self.b).flatten().cloned().chain(head).collect()
    }

    fn gradients(&self, of_leaves: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let sites = self.low_rank.factors.len();
        let mut of_leaves = of_leaves.into_iter();
        // A site without remaining ranks has no leaves.
        let mut of_sites = |read: &[Option<Tensor>]| -> Vec<Option<Tensor>> {
            read.iter().map(|read| read.as_ref().and_then(|_| of_leaves.next().flatten())).collect()
        };
        let (of_a, of_b) = (of_sites(&self.a), of_sites(&self.b));
        let of_b = of_b.iter().enumerate().map(|(position, gradient)| self.of_b(position, gradient));
        let of_b = of_b.collect::<Result<Vec<_>>>()?;
        let mut all = Vec::with_capacity(3 * sites + 2);
        match &self.gated {
            None => of_a.into_iter().zip(of_b).for_each(|(a, b)| all.extend([a, b])),
            Some(gated) => {
                let [of_a, of_gates] = self.through_gates(gated, &of_a)?;
                of_a.into_iter().zip(of_b).zip(of_gates).for_each(|((a, b), gate)| all.extend([a, b, gate]));
            }
        }
        all.extend(of_leaves);
        Ok(all)
    }
}
