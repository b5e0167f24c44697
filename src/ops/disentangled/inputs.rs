//! What all kernels of the GPU's form read, and the sizes of their launches.

use std::cmp::Reverse;

use candle_core::{DType, Device, Result, bail};

use super::{Dims, Disentangled};
use crate::cuda::{Matrix, Table};
use crate::ops::Dropout;

/// `TILE`, `THREADS`, `SPAN`, `PAD`, `BIAS_ROW` and `NONE` in `tiles.cuh`, which the gradient uses.
pub(super) const TILE: usize = 64;
pub(super) const THREADS: usize = 128;
pub(super) const SPAN: usize = 2 * TILE;
pub(super) const PAD: usize = 8;
const BIAS_ROW: usize = TILE + 4;
const NONE: u32 = u32::MAX;

/// `Inputs` in `tiles.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Inputs {
    qkv: [u64; 3],
    strides: [u64; 3],
    positions: u64,
    positions_stride: u64,
    tiles: u64,
    distances: u64,
    seed: u64,
    tokens: u32,
    heads: u32,
    size: u32,
    middle: u32,
    aligned: u32,
    bound: u32,
    kept: f32,
    scale: f32,
}

/// The attention of one batch, without its tensors.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    pub(super) how: Disentangled,
    pub(super) dims: Dims,
    pub(super) dropout: Option<Dropout>,
}

/// A batch's tables in the device's memory.
pub(super) struct Tables {
    tiles: Table,
    distances: Table,
}

impl Attention {
    /// The texts' tiles of `rows` queries, those of the longest text first because they take the most time, as `QueryTile` in `tiles.cuh`.
    fn tiles(&self, rows: usize) -> Vec<[u32; 7]> {
        let mut tiles = Vec::new();
        let mut pairs = 0;
        for (text, (span, sets)) in self.how.offsets.windows(2).zip(&self.how.texts).enumerate() {
            let len = span[1] - span[0];
            let [keys, queries] = [sets.keys, sets.queries].map(|set| set.map_or(NONE, |set| set as u32));
            let tile = |start: usize| [span[0] as u32, len as u32, start as u32, text as u32, keys, queries, pairs];
            tiles.extend((0..len).step_by(rows).map(tile));
            pairs += len.div_ceil(TILE).pow(2) as u32;
        }
        tiles.sort_by_key(|tile| Reverse(tile[1]));
        tiles
    }

    /// The tables for kernels whose blocks have `rows` rows.
    pub(super) fn tables(&self, rows: usize, device: &Device) -> Result<Tables> {
        let distances: Vec<u32> = self.how.distances.iter().map(|&row| row as u32).collect();
        Ok(Tables { tiles: Table::new(&self.tiles(rows), device)?, distances: Table::new(&distances, device)? })
    }

    /// The number of pairs of tiles of all texts.
    pub(super) fn pairs(&self) -> usize {
        self.how.offsets.windows(2).map(|span| (span[1] - span[0]).div_ceil(TILE).pow(2)).sum()
    }

    /// The number of tiles of `rows` rows of all texts.
    pub(super) fn tiles_count(&self, rows: usize) -> usize {
        self.how.offsets.windows(2).map(|span| (span[1] - span[0]).div_ceil(rows)).sum()
    }

    /// The width of a head in shared memory: kernels exist for two.
    pub(super) fn width(&self) -> Result<usize> {
        match self.dims.size {
            size @ 0..=128 => Ok(if size <= 64 { 64 } else { 128 }),
            size => bail!("disentangled: heads of {size}, the kernels' largest is 128"),
        }
    }

    /// The name of the kernel for this head size.
    pub(super) fn kernel(&self, name: &str) -> Result<String> {
        Ok(format!("{name}_{}", self.width()?))
    }

    /// The parameters that all kernels share. `others` are more matrices whose rows the kernels read.
    pub(super) fn inputs(
        &self,
        qkv: [Matrix; 3],
        positions: Matrix,
        others: &[Matrix],
        tables: &Tables,
    ) -> Result<Inputs> {
        let each = 16 / positions.dtype.size_in_bytes();
        let aligned = |x: &Matrix| x.address.is_multiple_of(16) && x.stride.is_multiple_of(each);
        let all = qkv.iter().chain([&positions]).chain(others);
        let aligned = self.dims.size.is_multiple_of(each) && all.clone().all(aligned);
        if let Some(x) = all.clone().find(|x| x.dtype != positions.dtype) {
            bail!("disentangled: inputs of {:?} and {:?}", x.dtype, positions.dtype);
        }
        let (bound, kept) = self.dropout.map_or((0, 0.0), Dropout::bound_and_factor);
        Ok(Inputs {
            qkv: qkv.map(|x| x.address),
            strides: qkv.map(|x| x.stride as u64),
            positions: positions.address,
            positions_stride: positions.stride as u64,
            tiles: tables.tiles.address()?,
            distances: tables.distances.address()?,
            seed: self.dropout.map_or(0, |dropout| dropout.seed),
            tokens: qkv[0].rows as u32,
            heads: self.how.heads as u32,
            size: self.dims.size as u32,
            middle: self.dims.middle as u32,
            aligned: u32::from(aligned),
            bound,
            kept,
            scale: self.how.scale as f32,
        })
    }

    /// Bytes of shared memory of the kernel that computes the scores' gradients.
    pub(super) fn scores_memory(&self, dtype: DType) -> Result<usize> {
        let elements = (4 * TILE + SPAN) * (self.width()? + PAD);
        Ok(elements * dtype.size_in_bytes() + TILE * BIAS_ROW * size_of::<f32>())
    }
}
