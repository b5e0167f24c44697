//! One step's view of low-rank factors on a GPU. The encoder reads copies in the type of the activations, made of all sites at once; its
//! backward pass adds the gradients of all sites to one vector. So the number of launches here does not depend on the number of sites.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};
use polyrank::encoder::Hooks;
use polyrank::ops::{self, Added, TrainedDelta};
use polyrank::params::{Delta, Site};

use super::{LowRank, Pass};

/// The sites whose `Wd` have the same width.
struct Width {
    /// The sites, by position.
    positions: Vec<usize>,
    /// `Wd [sites * rank, in]` of all of them.
    a: Tensor,
    /// Their gates, `[sites * rank, 1]`, if there are gates.
    gates: Option<Tensor>,
    /// The gradients of what the encoder reads in place of `a`.
    gradients: Tensor,
}

/// The hooks of one step.
pub struct LowRankDevice<'a> {
    low_rank: &'a LowRank,
    widths: Vec<Width>,
    /// What the encoder reads of each site.
    deltas: Vec<TrainedDelta>,
}

impl<'a> LowRankDevice<'a> {
    /// The hooks for the current factors, and for a gate `g [rank]` of each site, if there are gates.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(low_rank: &'a LowRank, gates: Option<&[Var]>) -> Result<Self> {
        let (ops, factors, backend) = (ops::of(&low_rank.backend), &low_rank.factors, &low_rank.backend);
        let (dtype, device) = (backend.dtype(), backend.device());
        let anchor = Var::zeros(1, DType::F32, device)?.into_inner();
        let mut pass = Self { low_rank, widths: Vec::new(), deltas: Vec::with_capacity(factors.len()) };
        if factors.is_empty() {
            return Ok(pass);
        }
        let sizes = factors.iter().map(|factors| factors.a.elem_count() + factors.b.elem_count()).sum::<usize>();
        // The gradients of every `Wd`, width by width, and then of every `Wu`, transposed, in order.
        let sums = Tensor::zeros(sizes, DType::F32, device)?;
        let mut next = 0;
        let mut take = |size: usize| {
            next += size;
            sums.narrow(0, next - size, size)
        };
        let mut of_a = vec![None; factors.len()];
        for (width, positions) in by_width(low_rank) {
            let all: Vec<&Tensor> = positions.iter().map(|&at| factors[at].a.as_tensor()).collect();
            let a = ops.join(&all)?.reshape(((), width))?;
            let gates = gates.map(|gates| {
                let all: Vec<&Tensor> = positions.iter().map(|&at| gates[at].as_tensor()).collect();
                ops.join(&all)?.reshape(((), 1))
            });
            let gates = gates.transpose()?;
            let read = match &gates {
                Some(gates) => a.broadcast_mul(gates)?,
                None => a.clone(),
            };
            let read = read.to_dtype(dtype)?;
            let gradients = take(a.elem_count())?.reshape(a.shape())?;
            let mut row = 0;
            for &at in &positions {
                let rank = factors[at].a.dims()[0];
                of_a[at] = Some((read.narrow(0, row, rank)?, gradients.narrow(0, row, rank)?));
                row += rank;
            }
            pass.widths.push(Width { positions, a, gates, gradients });
        }
        let transposed = factors.iter().map(|factors| factors.b.as_tensor().t()).collect::<Result<Vec<_>>>()?;
        let all = ops.join(&transposed.iter().collect::<Vec<_>>())?.to_dtype(dtype)?;
        let mut start = 0;
        for (transposed, of_a) in transposed.iter().zip(of_a) {
            let Some((a, da)) = of_a else { continue };
            let (size, shape) = (transposed.elem_count(), transposed.shape());
            let b = all.narrow(0, start, size)?.reshape(shape)?.t()?;
            start += size;
            let gradients = [da, take(size)?.reshape(shape)?];
            let delta = Delta { a, b, scale: low_rank.scale };
            pass.deltas.push(TrainedDelta { delta, gradients, anchor: anchor.clone() });
        }
        Ok(pass)
    }
}

/// The positions of the sites by the width of their `Wd`.
fn by_width(low_rank: &LowRank) -> BTreeMap<usize, Vec<usize>> {
    let mut widths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (position, factors) in low_rank.factors.iter().enumerate() {
        widths.entry(factors.a.dims()[1]).or_default().push(position);
    }
    widths
}

impl Hooks for LowRankDevice<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        let position = self.low_rank.position(site);
        Ok(position.map_or(Added::Nothing, |position| Added::Trained(self.deltas[position].clone())))
    }
}

impl Pass for LowRankDevice<'_> {
    fn leaves(&self) -> Vec<Tensor> {
        self.low_rank.head.variables().map(|variable| variable.var.into_inner()).collect()
    }

    fn gradients(&self, of_leaves: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let mut of_sites = vec![Vec::with_capacity(3); self.deltas.len()];
        for Width { positions, a, gates, gradients } in &self.widths {
            let of_a = match gates {
                Some(gates) => &gradients.broadcast_mul(gates)?,
                None => gradients,
            };
            let of_gates = gates.as_ref().map(|_| (gradients * a)?.sum(1)).transpose()?;
            let mut row = 0;
            for &at in positions {
                let rank = self.deltas[at].delta.rank();
                let of_b = self.deltas[at].gradients[1].t()?;
                of_sites[at] = vec![Some(of_a.narrow(0, row, rank)?), Some(of_b)];
                if let Some(of_gates) = &of_gates {
                    of_sites[at].push(Some(of_gates.narrow(0, row, rank)?));
                }
                row += rank;
            }
        }
        Ok(of_sites.into_iter().flatten().chain(of_leaves).collect())
    }
}
