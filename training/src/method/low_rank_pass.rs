//! One step's view of low-rank factors. With gates, the encoder reads `diag(g) Wd` in place of `Wd`. The products of all sites are made
//! at once, and so are the gradients of `Wd` and `g`, so that the number of launches does not depend on the number of sites. Factors and
//! gradients are f32, also on a base in another type.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Shape, Tensor, Var};
use polyrank::encoder::Hooks;
use polyrank::ops::{self, Added};
use polyrank::params::{Delta, Site};

use super::{LowRank, Pass};

/// The sites whose `Wd` have the same width, with all of their `Wd` and gates.
struct Gated {
    /// The sites, by position.
    positions: Vec<usize>,
    /// `Wd [sites * rank, in]`.
    a: Tensor,
    /// `g [sites * rank, 1]`.
    gates: Tensor,
}

/// The hooks of one step.
pub struct LowRankPass<'a> {
    low_rank: &'a LowRank,
    /// `Wd [rank, in]` of each site, or `diag(g) Wd` with gates.
    a: Vec<Tensor>,
    /// `Wu [out, rank]` of each site.
    b: Vec<Tensor>,
    /// All sites if there are gates, else empty.
    gated: Vec<Gated>,
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
        let (ops, factors) = (ops::of(&low_rank.backend), &low_rank.factors);
        let b = factors.iter().map(|factors| factors.b.as_tensor().clone()).collect();
        let mut pass = Self { low_rank, a: Vec::new(), b, gated: Vec::new() };
        let Some(gates) = gates else {
            pass.a = factors.iter().map(|factors| factors.a.as_tensor().clone()).collect();
            return Ok(pass);
        };
        let mut widths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (position, factors) in factors.iter().enumerate() {
            widths.entry(factors.a.dims()[1]).or_default().push(position);
        }
        let mut scaled = vec![None; factors.len()];
        for (width, positions) in widths {
            let a: Vec<&Tensor> = positions.iter().map(|&position| factors[position].a.as_tensor()).collect();
            let gates: Vec<&Tensor> = positions.iter().map(|&position| gates[position].as_tensor()).collect();
            let (a, gates) = (ops.join(&a)?.reshape(((), width))?, ops.join(&gates)?.reshape(((), 1))?);
            let product = a.broadcast_mul(&gates)?.flatten_all()?;
            let shapes: Vec<Shape> = positions.iter().map(|&at| factors[at].a.shape().clone()).collect();
            for (&position, product) in positions.iter().zip(ops.split(&product, &shapes, DType::F32)?) {
                scaled[position] = Some(product.into_inner());
            }
            pass.gated.push(Gated { positions, a, gates });
        }
        pass.a = scaled.into_iter().flatten().collect();
        Ok(pass)
    }

    /// The gradients of `Wd` and of the gates, from those of `diag(g) Wd`.
    fn through_gates(&self, of_a: &[Option<Tensor>]) -> Result<[Vec<Option<Tensor>>; 2]> {
        let ops = ops::of(&self.low_rank.backend);
        let mut all = [vec![None; of_a.len()], vec![None; of_a.len()]];
        for Gated { positions, a, gates } in &self.gated {
            if positions.iter().all(|&position| of_a[position].is_none()) {
                continue;
            }
            let product = positions.iter().map(|&position| match &of_a[position] {
                Some(gradient) => Ok(gradient.clone()),
                None => self.a[position].zeros_like(),
            });
            let product = product.collect::<Result<Vec<_>>>()?;
            let product = ops.join(&product.iter().collect::<Vec<_>>())?.reshape(a.shape())?;
            let of_gates = (&product * a)?.sum(1)?;
            let of_factors = product.broadcast_mul(gates)?.flatten_all()?;
            let factors = positions.iter().map(|&position| self.a[position].shape());
            let ranks: Vec<Shape> = positions.iter().map(|&at| Shape::from(self.a[at].dims()[0])).collect();
            let views = [views(&of_factors, factors)?, views(&of_gates, ranks.iter())?];
            for (all, views) in all.iter_mut().zip(views) {
                positions.iter().zip(views).for_each(|(&position, view)| all[position] = view);
            }
        }
        Ok(all)
    }
}

impl Hooks for LowRankPass<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        let Some(position) = self.low_rank.position(site) else { return Ok(Added::Nothing) };
        let (a, b) = (self.a[position].clone(), self.b[position].clone());
        Ok(Added::Whole(Delta { a, b, scale: self.low_rank.scale }))
    }
}

impl Pass for LowRankPass<'_> {
    fn leaves(&self) -> Vec<Tensor> {
        let head = self.low_rank.head.variables().map(|variable| variable.var.into_inner());
        self.a.iter().chain(&self.b).cloned().chain(head).collect()
    }

    fn gradients(&self, of_leaves: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let (of_a, rest) = of_leaves.split_at(self.a.len());
        let (of_b, of_head) = rest.split_at(self.b.len());
        let mut all = Vec::with_capacity(of_leaves.len() + self.a.len());
        if self.gated.is_empty() {
            of_a.iter().zip(of_b).for_each(|(a, b)| all.extend([a.clone(), b.clone()]));
        } else {
            let [of_a, of_gates] = self.through_gates(of_a)?;
            of_a.into_iter().zip(of_b).zip(of_gates).for_each(|((a, b), gate)| all.extend([a, b.clone(), gate]));
        }
        all.extend_from_slice(of_head);
        Ok(all)
    }
}
