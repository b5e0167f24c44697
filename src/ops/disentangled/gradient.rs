//! The backward pass of the GPU's form. It first computes the gradients of all scores, then multiplies them by the queries, keys and
//! positions. The gradients of a row of positions are summed by distance, over parts of the texts that use its set, and then over
//! distances and parts. So every sum has one order, and a training run can be repeated to the bit.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor};

use super::Disentangled;
use super::inputs::{Attention, Inputs, PAD, SPAN, THREADS, TILE};
use crate::cuda::{Grid, Matrix, Output, Params, Place, Table, address, launch};

/// `BAND_SPAN` in `tiles.cuh`.
const BAND_SPAN: usize = 80;

/// `BackwardParams` in `backward.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BackwardParams {
    inputs: Inputs,
    y: u64,
    dy: u64,
    y_stride: u64,
    dy_stride: u64,
    sums: u64,
    weights: u64,
    slopes: u64,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for BackwardParams {}

/// `ProductParams` in `products.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProductParams {
    inputs: Inputs,
    dy: u64,
    dy_stride: u64,
    weights: u64,
    slopes: u64,
    dqkv: u64,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for ProductParams {}

/// `DistanceParams` in `products.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DistanceParams {
    inputs: Inputs,
    slopes: u64,
    parts: u64,
    texts: u64,
    by_distance: u64,
    tiles: u32,
    unused: u32,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for DistanceParams {}

/// `PositionParams` in `products.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PositionParams {
    by_distance: u64,
    parts: u64,
    firsts: u64,
    inverse: u64,
    dpositions: u64,
    hidden: u32,
    count: u32,
    rows: u32,
    each: u32,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for PositionParams {}

/// The gradients of `qkv [T, 3 hidden]` and of `positions`, from the result `y`, its gradient, and `sums`, which the forward pass kept.
pub(super) fn backward(
    attention: &Attention,
    [qkv, positions, y, dy]: [&Tensor; 4],
    sums: &Tensor,
) -> Result<[Option<Tensor>; 2]> {
    let (device, dtype, hidden) = (qkv.device(), qkv.dtype(), attention.dims.hidden);
    let (place, heads) = (Place::of(device)?, attention.how.heads);
    let dy = dy.to_dtype(dtype)?.contiguous()?;
    let tables = attention.tables(TILE, device)?;
    let part = |at: usize| qkv.narrow(1, at * hidden, hidden);
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let matrix = |x| Matrix::of("disentangled", x);
    let (y, dy) = (matrix(y)?, matrix(&dy)?);
    let inputs = attention.inputs([matrix(&q)?, matrix(&k)?, matrix(&v)?], matrix(positions)?, &[y, dy], &tables)?;

    let pairs = (attention.pairs() * heads, TILE * TILE);
    let (weights, slopes) = (Output::new(pairs, dtype, device)?, Output::new(pairs, dtype, device)?);
    let params = BackwardParams {
        inputs,
        y: y.address,
        dy: dy.address,
        y_stride: y.stride as u64,
        dy_stride: dy.stride as u64,
        sums: address(sums)?,
        weights: weights.address(),
        slopes: slopes.address(),
    };
    let grid = |z, shared| Grid { blocks: [attention.tiles_count(TILE), heads, z], threads: THREADS, shared };
    let shared = attention.scores_memory(dtype)?;
    // SAFETY: the forward pass has checked the same inputs; `y`, `dy` and the outputs are contiguous; all are dropped only after the
    // launch was queued.
    unsafe { launch(&place, &attention.kernel("disentangled_scores_backward")?, dtype, grid(1, shared), &params)? };

    let dqkv = Output::new(qkv.shape(), dtype, device)?;
    let params = ProductParams {
        inputs,
        dy: dy.address,
        dy_stride: dy.stride as u64,
        weights: weights.address(),
        slopes: slopes.address(),
        dqkv: dqkv.address(),
    };
    let width = attention.width()?;
    let elements = TILE * (TILE + PAD + BAND_SPAN + PAD) + width * (TILE + PAD + SPAN + PAD);
    let shared = elements * dtype.size_in_bytes();
    // SAFETY: as above, and the launch before has written all tiles of weights and slopes.
    unsafe { launch(&place, &attention.kernel("disentangled_products")?, dtype, grid(3, shared), &params)? };

    let dpositions =
        positions.track_op().then(|| positions_backward(attention, positions, inputs, &slopes)).transpose()?;
    // SAFETY: the blocks cover the queries, keys and values of all tiles of all texts.
    Ok([Some(unsafe { dqkv.tensor() }), dpositions])
}

/// The gradient of `positions`.
fn positions_backward(attention: &Attention, positions: &Tensor, inputs: Inputs, slopes: &Output) -> Result<Tensor> {
    let (device, dtype, how) = (positions.device(), positions.dtype(), &attention.how);
    let place = Place::of(device)?;
    let sets = Sets::of(how);
    if sets.parts.is_empty() {
        // Candle expects a gradient for what was computed from a variable.
        return positions.zeros_like();
    }
    let hidden = attention.dims.hidden;
    let longest = crate::ops::longest(&how.offsets);
    let tiles = longest.div_ceil(TILE);
    let (parts, texts) = (Table::new(&sets.parts, device)?, Table::new(&sets.texts, device)?);
    let by_distance = Output::new((sets.parts.len() * 2 * tiles * TILE, hidden), DType::F32, device)?;
    let params = DistanceParams {
        inputs,
        slopes: slopes.address(),
        parts: parts.address()?,
        texts: texts.address()?,
        by_distance: by_distance.address(),
        tiles: tiles as u32,
        unused: 0,
    };
    let elements = (TILE + attention.width()?) * (TILE + PAD);
    let grid = Grid {
        blocks: [sets.parts.len(), how.heads, 2 * tiles],
        threads: THREADS,
        shared: elements * dtype.size_in_bytes(),
    };
    // SAFETY: `slopes` has the tiles of all texts; `inputs` is that of the launch that wrote them; all are dropped only after the launch
    // was queued.
    unsafe { launch(&place, &attention.kernel("disentangled_distances")?, dtype, grid, &params)? };

    let (rows, width) = positions.dims2()?;
    let dpositions = Output::new((rows, width), dtype, device)?;
    let (firsts, inverse) = inverse(how, attention.dims.middle, longest, tiles);
    let (firsts, inverse) = (Table::new(&firsts, device)?, Table::new(&inverse, device)?);
    let params = PositionParams {
        by_distance: by_distance.address(),
        parts: parts.address()?,
        firsts: firsts.address()?,
        inverse: inverse.address()?,
        dpositions: dpositions.address(),
        hidden: hidden as u32,
        count: sets.parts.len() as u32,
        rows: how.rows as u32,
        each: (2 * tiles * TILE) as u32,
    };
    let grid = Grid { blocks: [rows, width.div_ceil(THREADS), 1], threads: THREADS, shared: 0 };
    // SAFETY: the launch before has written all of `by_distance`; `inverse` has indices of its distances.
    unsafe { launch(&place, "disentangled_positions", dtype, grid, &params)? };
    // SAFETY: the kernel writes every row.
    Ok(unsafe { dpositions.tensor() })
}

/// For each row of a set, the distances that use it, by their index in what the kernel sums: `inverse[firsts[row]..firsts[row + 1]]`.
fn inverse(how: &Disentangled, middle: usize, longest: usize, tiles: usize) -> (Vec<u32>, Vec<u32>) {
    let mut of_row: Vec<Vec<u32>> = vec![Vec::new(); how.rows];
    let used = middle + 1 - longest..middle + longest;
    for (place, &row) in how.distances.iter().enumerate().filter(|(place, _)| used.contains(place)) {
        of_row[row].push((tiles * TILE + place - middle) as u32);
    }
    let ends = of_row.iter().scan(0, |end, distances| {
        *end += distances.len() as u32;
        Some(*end)
    });
    (std::iter::once(0).chain(ends).collect(), of_row.concat())
}

/// Tiles in a part: enough that a part's result is small beside what it reads.
const PART: usize = 16;

/// The largest number of parts of a set, which bounds the memory for their results.
const MOST_PARTS: usize = 16;

/// The sets of positions, each with the texts that use it, divided into parts that are summed at the same time.
struct Sets {
    /// `Part` in `products.cu`.
    parts: Vec<[u32; 4]>,
    /// `SetText` in `products.cu`.
    texts: Vec<[u32; 3]>,
}

impl Sets {
    fn of(how: &Disentangled) -> Self {
        let mut of_set: BTreeMap<(bool, usize), Vec<[u32; 3]>> = BTreeMap::new();
        let mut pairs = 0;
        for (span, text) in how.offsets.windows(2).zip(&how.texts).filter(|(span, _)| span[0] < span[1]) {
            let len = span[1] - span[0];
            let item = [span[0] as u32, len as u32, pairs];
            let used = [text.keys.map(|start| (false, start)), text.queries.map(|start| (true, start))];
            for set in used.into_iter().flatten() {
                of_set.entry(set).or_default().push(item);
            }
            pairs += len.div_ceil(TILE).pow(2) as u32;
        }
        let mut sets = Self { parts: Vec::new(), texts: Vec::new() };
        for ((queries, start), texts) in of_set {
            sets.divide(queries, start, texts);
        }
        sets
    }

    /// Adds a set's texts, in parts of about as many tiles.
    fn divide(&mut self, queries: bool, start: usize, texts: Vec<[u32; 3]>) {
        let tiles = |text: &[u32; 3]| (text[1] as usize).div_ceil(TILE);
        let enough = texts.iter().map(tiles).sum::<usize>().div_ceil(MOST_PARTS).max(PART);
        let (mut first, mut have) = (self.texts.len(), 0);
        let last = texts.len() - 1;
        for (at, text) in texts.into_iter().enumerate() {
            have += tiles(&text);
            self.texts.push(text);
            if have >= enough || at == last {
                self.parts.push([u32::from(queries), start as u32, first as u32, self.texts.len() as u32]);
                (first, have) = (self.texts.len(), 0);
            }
        }
    }
}
