//! All parameters of the sites as one vector, in which matrices of the same shape are neighbours, so that one operation works on all of
//! them.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::super::factors::Factors;
use super::{PARTS, Side, orthogonality};

/// Matrices of the same shape, one after another.
struct Block {
    side: Side,
    /// The sites, by position.
    positions: Vec<usize>,
    /// The width of `Q`, or the height of `P`.
    width: usize,
    /// The first element.
    start: usize,
}

/// The order of the elements: all `Q`, all `P`, and then all `lambda`.
pub(super) struct Flat {
    blocks: Vec<Block>,
    /// The variables in the order of their elements, as indices of [`crate::method::Method::variables`].
    order: Vec<usize>,
    /// The first element of `lambda`.
    values: usize,
    sites: usize,
    rank: usize,
}

impl Flat {
    /// The order for these factors, all of rank `rank`.
    pub(super) fn new(factors: &[Factors], rank: usize) -> Self {
        let (mut blocks, mut order, mut start) = (Vec::new(), Vec::new(), 0);
        for side in [Side::Rows, Side::Columns] {
            let mut widths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (position, factors) in factors.iter().enumerate() {
                let width = match side {
                    Side::Rows => factors.a.dims()[1],
                    Side::Columns => factors.b.dims()[0],
                };
                widths.entry(width).or_default().push(position);
            }
            for (width, positions) in widths {
                order.extend(positions.iter().map(|position| PARTS * position + usize::from(side == Side::Columns)));
                let size = positions.len() * width * rank;
                blocks.push(Block { side, positions, width, start });
                start += size;
            }
        }
        order.extend((0..factors.len()).map(|position| PARTS * position + 2));
        Self { blocks, order, values: start, sites: factors.len(), rank }
    }

    /// The rank of every site.
    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.values + self.sites * self.rank
    }

    /// The variables in the order of their elements.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    /// The matrices of a block, `[sites, rank, width]` or `[sites, width, rank]`.
    fn block(&self, all: &Tensor, block: &Block) -> Result<Tensor> {
        let count = block.positions.len();
        let shape = match block.side {
            Side::Rows => (count, self.rank, block.width),
            Side::Columns => (count, block.width, self.rank),
        };
        all.narrow(0, block.start, count * self.rank * block.width)?.reshape(shape)
    }

    /// The gradient of `weight` times the mean norm of all matrices, with respect to all elements.
    pub(super) fn penalty_gradient(&self, all: &Tensor, weight: f64) -> Result<Tensor> {
        let of = |block: &Block| orthogonality(&self.block(all, block)?, block.side)?.1.flatten_all();
        let mut parts = self.blocks.iter().map(of).collect::<Result<Vec<_>>>()?;
        parts.push(all.narrow(0, self.values, self.sites * self.rank)?.zeros_like()?);
        Tensor::cat(&parts, 0)? * (weight / (2 * self.sites) as f64)
    }

    /// The importance of each rank, site by site, from that of the elements: that of `lambda`, and the means over `Q` and `P`.
    pub(super) fn scores(&self, elements: &Tensor) -> Result<Vec<f32>> {
        let mean = |block: &Block| {
            let along = if block.side == Side::Rows { 2 } else { 1 };
            self.block(elements, block)?.mean(along)?.flatten_all()
        };
        let mut parts = self.blocks.iter().map(mean).collect::<Result<Vec<_>>>()?;
        parts.push(elements.narrow(0, self.values, self.sites * self.rank)?);
        // The host waits for the device only once.
        let all = Tensor::cat(&parts, 0)?.to_vec1::<f32>()?;
        let (of_vectors, of_values) = all.split_at(2 * self.sites * self.rank);
        let mut scores = of_values.to_vec();
        let positions = self.blocks.iter().flat_map(|block| &block.positions);
        for (position, means) in positions.zip(of_vectors.chunks(self.rank)) {
            let site = &mut scores[position * self.rank..][..self.rank];
            site.iter_mut().zip(means).for_each(|(score, mean)| *score += mean);
        }
        Ok(scores)
    }
}
