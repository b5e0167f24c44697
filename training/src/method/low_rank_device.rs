//! One step's view of low-rank factors on a GPU. The encoder reads copies in the type of the activations, made of all sites at once; its
//! backward pass adds the gradients of all sites to one vector. So the number of launches here does not depend on the number of sites.

use candle_core::{DType, Result, Tensor, Var, bail};
use polyrank::encoder::Hooks;
use polyrank::ops::{self, Added, TrainedDelta};
use polyrank::params::{Backend, Delta, Site};

use super::low_rank_rows::Stack;
use super::{LowRank, Pass};

/// One of the stacks of [`super::low_rank_rows::Remaining`], with what the encoder reads of it.
struct Read<'a> {
    stack: &'a Stack,
    /// What the encoder reads, `[rows, width]`: `Wd`, `diag(g) Wd`, or `Wu` transposed, of the remaining ranks.
    matrices: Tensor,
    /// The gradients of these.
    gradients: Tensor,
}

/// `Wd` and the gates of the remaining ranks of a stack.
struct Gated {
    /// `Wd [rows, in]`.
    a: Tensor,
    /// `g [rows, 1]`.
    gates: Tensor,
}

/// The hooks of one step.
pub struct LowRankDevice<'a> {
    low_rank: &'a LowRank,
    /// Whether there are gates.
    gated: bool,
    /// The `Wd`, by width, with their gates, if there are gates.
    down: Vec<(Read<'a>, Option<Gated>)>,
    /// The transposed `Wu`, by width.
    up: Vec<Read<'a>>,
    /// What the encoder reads of each site; `None` for a site without remaining ranks.
    deltas: Vec<Option<TrainedDelta>>,
}

impl<'a> LowRankDevice<'a> {
    /// The hooks for the current factors, and for a gate `g [rank]` of each site, if there are gates.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(low_rank: &'a LowRank, gates: Option<&[Var]>) -> Result<Self> {
        let (ops, factors, backend) = (ops::of(&low_rank.backend), &low_rank.factors, &low_rank.backend);
        let remaining = low_rank.remaining();
        let (gated, deltas) = (gates.is_some(), Vec::new());
        let mut pass = Self { low_rank, gated, down: Vec::new(), up: Vec::new(), deltas };
        let mut sums = Sums::new(remaining.down.iter().chain(&remaining.up), backend)?;
        for stack in &remaining.down {
            let a: Vec<&Tensor> = stack.positions.iter().map(|&at| factors[at].a.as_tensor()).collect();
            let a = stack.gather(ops.join(&a)?.reshape(((), stack.width))?)?;
            let of_stack = |gates: &[Var]| -> Result<Gated> {
                let gates: Vec<&Tensor> = stack.positions.iter().map(|&at| gates[at].as_tensor()).collect();
                Ok(Gated { a: a.clone(), gates: stack.gather(ops.join(&gates)?.reshape(((), 1))?)? })
            };
            let gated = gates.map(of_stack).transpose()?;
            let matrices = match &gated {
                Some(Gated { a, gates }) => a.broadcast_mul(gates)?,
                None => a.clone(),
            };
            let matrices = matrices.to_dtype(backend.dtype())?;
            pass.down.push((Read { stack, matrices, gradients: sums.take(stack)? }, gated));
        }
        for stack in &remaining.up {
            let transposed =
                stack.positions.iter().map(|&at| factors[at].b.as_tensor().t()).collect::<Result<Vec<_>>>()?;
            let joined = ops.join(&transposed.iter().collect::<Vec<_>>())?.reshape(((), stack.width))?;
            let matrices = stack.gather(joined)?.to_dtype(backend.dtype())?;
            pass.up.push(Read { stack, matrices, gradients: sums.take(stack)? });
        }
        pass.deltas = pass.trained()?;
        Ok(pass)
    }

    /// What the encoder reads of each site.
    fn trained(&self) -> Result<Vec<Option<TrainedDelta>>> {
        let anchor = Var::zeros(1, DType::F32, self.low_rank.backend.device())?.into_inner();
        let sites = self.low_rank.factors.len();
        let down = parts(sites, self.down.iter().map(|(read, _)| read))?;
        let mut deltas = Vec::with_capacity(sites);
        for (down, up) in down.into_iter().zip(parts(sites, self.up.iter())?) {
            deltas.push(match (down, up) {
                (Some((a, of_a)), Some((b, of_b))) => {
                    let delta = Delta { a, b: b.t()?, scale: self.low_rank.scale };
                    Some(TrainedDelta { delta, gradients: [of_a, of_b], anchor: anchor.clone() })
                }
                _ => None,
            });
        }
        Ok(deltas)
    }
}

/// The matrices and the gradients of each site: views.
fn parts<'a>(sites: usize, reads: impl Iterator<Item = &'a Read<'a>>) -> Result<Vec<Option<(Tensor, Tensor)>>> {
    let mut all = vec![None; sites];
    for Read { stack, matrices, gradients } in reads {
        let mut row = 0;
        for (&position, &rank) in stack.positions.iter().zip(&stack.ranks) {
            all[position] = Some((matrices.narrow(0, row, rank)?, gradients.narrow(0, row, rank)?));
            row += rank;
        }
    }
    Ok(all)
}

/// The gradients of all stacks, in one vector, so that one launch sets them to 0.
struct Sums {
    vector: Option<Tensor>,
    next: usize,
}

impl Sums {
    fn new<'a>(stacks: impl Iterator<Item = &'a Stack>, backend: &Backend) -> Result<Self> {
        let size = stacks.map(|stack| stack.rows() * stack.width).sum::<usize>();
        let vector = (size > 0).then(|| Tensor::zeros(size, DType::F32, backend.device())).transpose()?;
        Ok(Self { vector, next: 0 })
    }

    /// The gradients `[rows, width]` of the next stack.
    fn take(&mut self, stack: &Stack) -> Result<Tensor> {
        let Some(vector) = &self.vector else { bail!("low-rank factors: no gradients for {} rows", stack.rows()) };
        let size = stack.rows() * stack.width;
        self.next += size;
        vector.narrow(0, self.next - size, size)?.reshape((stack.rows(), stack.width))
    }
}

impl Hooks for LowRankDevice<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        let delta = self.low_rank.position(site).and_then(|position| self.deltas[position].clone());
        Ok(delta.map_or(Added::Nothing, Added::Trained))
    }
}

impl Pass for LowRankDevice<'_> {
    fn leaves(&self) -> Vec<Tensor> {
        self.low_rank.head.variables().map(|variable| variable.var.into_inner()).collect()
    }

    fn gradients(&self, of_leaves: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let factors = &self.low_rank.factors;
        // A site without remaining ranks has no gradients.
        let mut of_sites = vec![[None, None, None]; factors.len()];
        let mut set = |part: usize, stack: &Stack, rows: Tensor| -> Result<()> {
            let rows = stack.scatter(rows)?;
            let mut row = 0;
            for &at in &stack.positions {
                of_sites[at][part] = Some(rows.narrow(0, row, factors[at].rank())?);
                row += factors[at].rank();
            }
            Ok(())
        };
        for (Read { stack, gradients, .. }, gated) in &self.down {
            match gated {
                Some(Gated { a, gates }) => {
                    set(0, stack, gradients.broadcast_mul(gates)?)?;
                    set(2, stack, (gradients * a)?.sum_keepdim(1)?)?;
                }
                None => set(0, stack, gradients.clone())?,
            }
        }
        for Read { stack, gradients, .. } in &self.up {
            set(1, stack, gradients.clone())?;
        }
        let parts = if self.gated { 3 } else { 2 };
        let mut all = Vec::with_capacity(parts * factors.len() + of_leaves.len());
        for [a, b, gate] in of_sites {
            let b = b.map(|b: Tensor| b.t()).transpose()?;
            let gate = gate.map(|gate: Tensor| gate.flatten_all()).transpose()?;
            all.extend([a, b, gate].into_iter().take(parts));
        }
        all.extend(of_leaves);
        Ok(all)
    }
}
