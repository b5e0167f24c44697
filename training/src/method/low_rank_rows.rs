//! Which ranks of low-rank factors a step reads. A rank that is gone for good is left out of every product, so that it costs nothing.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};

use super::factors::Factors;

/// Matrices of several sites with one row for each rank: `Wd [rank, in]`, or `Wu [out, rank]` transposed. All of them have the same width
/// and are stacked, `[sites * rank, width]`. Sites without a remaining rank are left out.
pub struct Stack {
    /// The sites, by position.
    pub positions: Vec<usize>,
    /// The number of remaining ranks of each of these sites.
    pub ranks: Vec<usize>,
    /// The width of the matrices.
    pub width: usize,
    /// The number of rows with all ranks.
    all: usize,
    /// The rows of the remaining ranks; `None` if no rank of these sites is gone.
    kept: Option<Tensor>,
}

impl Stack {
    /// The rows of the remaining ranks of `x [sites * rank, width]`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn gather(&self, x: Tensor) -> Result<Tensor> {
        match &self.kept {
            Some(rows) => x.index_select(rows, 0),
            None => Ok(x),
        }
    }

    /// The inverse of [`Self::gather`], with zeros in the rows of other ranks.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn scatter(&self, x: Tensor) -> Result<Tensor> {
        match &self.kept {
            Some(rows) => {
                Tensor::zeros((self.all, x.dims()[1]), x.dtype(), x.device())?.index_add(rows, &x.contiguous()?, 0)
            }
            None => Ok(x),
        }
    }

    /// The number of rows that remain.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ranks.iter().sum()
    }
}

/// The ranks that remain at each adapted site.
pub struct Remaining {
    /// The remaining ranks of each site, by position, in ascending order.
    ranks: Vec<Vec<u32>>,
    /// The columns of `Wu` of the remaining ranks of each site; `None` if all or no ranks remain.
    columns: Vec<Option<Tensor>>,
    /// The `Wd`, by width.
    pub down: Vec<Stack>,
    /// The transposed `Wu`, by width.
    pub up: Vec<Stack>,
}

impl Remaining {
    /// All ranks.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn all(factors: &[Factors]) -> Result<Self> {
        Self::new(factors, factors.iter().map(|factors| (0..factors.rank() as u32).collect()).collect())
    }

    /// The `ranks` of each site, in ascending order.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(factors: &[Factors], ranks: Vec<Vec<u32>>) -> Result<Self> {
        let column = |(factors, ranks): (&Factors, &Vec<u32>)| {
            let part = !ranks.is_empty() && ranks.len() < factors.rank();
            part.then(|| Tensor::new(&**ranks, factors.b.device())).transpose()
        };
        let columns = factors.iter().zip(&ranks).map(column).collect::<Result<_>>()?;
        let stacks = |width: fn(&Factors) -> usize| -> Result<Vec<Stack>> {
            let mut widths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (position, factors) in factors.iter().enumerate().filter(|(position, _)| !ranks[*position].is_empty()) {
                widths.entry(width(factors)).or_default().push(position);
            }
            widths.into_iter().map(|(width, positions)| stack(factors, &ranks, width, positions)).collect()
        };
        let down = stacks(|factors| factors.a.dims()[1])?;
        let up = stacks(|factors| factors.b.dims()[0])?;
        Ok(Self { ranks, columns, down, up })
    }

    /// Whether the site at `position` has no rank left.
    #[must_use]
    pub fn none_at(&self, position: usize) -> bool {
        self.ranks[position].is_empty()
    }

    /// The columns of `Wu` of the remaining ranks of the site at `position`; `None` if all or no ranks remain.
    #[must_use]
    pub fn columns(&self, position: usize) -> Option<&Tensor> {
        self.columns[position].as_ref()
    }
}

fn stack(factors: &[Factors], ranks: &[Vec<u32>], width: usize, positions: Vec<usize>) -> Result<Stack> {
    let (mut rows, mut all) = (Vec::new(), 0);
    for &position in &positions {
        rows.extend(ranks[position].iter().map(|rank| all as u32 + rank));
        all += factors[position].rank();
    }
    let device = positions.first().map_or(&Device::Cpu, |&position| factors[position].a.device());
    let kept = (rows.len() < all).then(|| Tensor::new(&*rows, device)).transpose()?;
    Ok(Stack { ranks: positions.iter().map(|&at| ranks[at].len()).collect(), positions, width, all, kept })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Var;
    use polyrank::params::Site;

    use super::*;

    fn factors(input: usize, output: usize) -> Factors {
        let var = |shape| Var::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        Factors { site: Site { layer: 0, module: 0 }, a: var((3, input)), b: var((output, 3)), cost: input + output }
    }

    #[test]
    fn scattering_puts_gathered_rows_back() {
        let all = [factors(4, 2), factors(4, 5), factors(4, 2), factors(6, 2)];
        let remaining = Remaining::new(&all, vec![vec![0, 2], vec![], vec![0, 1, 2], vec![0, 1, 2]]).unwrap();
        let of = |stacks: &[Stack]| {
            stacks.iter().map(|stack| (stack.width, stack.positions.clone(), stack.rows())).collect::<Vec<_>>()
        };
        assert_eq!(of(&remaining.down), [(4, vec![0, 2], 5), (6, vec![3], 3)]);
        assert_eq!(of(&remaining.up), [(2, vec![0, 2, 3], 8)]);
        assert!(remaining.none_at(1) && remaining.columns(1).is_none() && remaining.columns(2).is_none());
        assert_eq!(remaining.columns(0).unwrap().to_vec1::<u32>().unwrap(), [0, 2]);
        let x = Tensor::arange(1f32, 25.0, &Device::Cpu).unwrap().reshape((6, 4)).unwrap();
        let gathered = remaining.down[0].gather(x.clone()).unwrap();
        assert_eq!(gathered.dims(), [5, 4]);
        let back = remaining.down[0].scatter(gathered).unwrap().to_vec2::<f32>().unwrap();
        let mut expected = x.to_vec2::<f32>().unwrap();
        expected[1] = vec![0.0; 4];
        assert_eq!(back, expected);
        let whole = &remaining.down[1];
        assert_eq!(whole.gather(x.clone()).unwrap().id(), x.id(), "nothing is copied if all ranks remain");
    }
}
