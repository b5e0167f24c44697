//! Plans the two launches that add the deltas of a batch: which rows and columns each block of the kernels in `shrink.cu` and `expand.cu`
//! computes.
//!
//! The shrink's unit is a [`Strip`]: up to 24 columns of `h = scale * x A^T` for a range of rows. The A's that apply to the same rows
//! lie side by side in h, each from a multiple of eight columns on, so that x is read once for all of them. The expand's unit is a
//! [`Span`]: the rows of one linear's output that have one delta or none. Work is proportional to the true ranks.

use std::ops::Range;

/// The number of columns of h in a tile.
const TILE: usize = 8;
/// The number of tiles in a strip.
pub(super) const STRIP_TILES: usize = 3;
/// The number of columns of an output that a block of the expand computes.
pub(super) const BLOCK_COLUMNS: usize = 256;
/// The heights that a tile of rows may have in the shrink. Results do not depend on it.
const SHRINK_HEIGHTS: [usize; 2] = [16, 32];
/// The same in the expand.
const EXPAND_HEIGHTS: [usize; 4] = [16, 32, 64, 128];
/// The number of the shrink's blocks that an H100 runs at a time in f32, on 132 multiprocessors. One block more has to wait for these, so
/// that all take twice as long. By its registers, it could run twice as many in bf16; whether a bound for that is faster is not measured.
const SHRINK_AT_ONCE: usize = 132;
/// The same of the expand's blocks, of which five fit on a multiprocessor.
const EXPAND_AT_ONCE: usize = 5 * 132;

/// One delta at one linear, as the plan reads it.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The rows of the batch; not empty.
    pub(super) rows: Range<usize>,
    /// The rank, at least 1.
    pub(super) rank: usize,
    /// The addresses of `A [rank, in]` and of B, stored rank by rank.
    pub(super) a: u64,
    pub(super) b: u64,
    /// PEFT's scale.
    pub(super) scale: f32,
}

/// A linear's output, as the plan reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finish<'a> {
    /// The number of columns.
    pub(super) out: usize,
    /// Whether rows without a delta change too.
    pub(super) every_row: bool,
    /// The deltas, in ascending order of their rows, which do not overlap.
    pub(super) pieces: &'a [Piece],
}

/// `Strip` in `shrink.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Strip {
    pub(super) a: [u64; STRIP_TILES],
    pub(super) scale: [f32; STRIP_TILES],
    pub(super) ranks: [u32; STRIP_TILES],
    pub(super) h: u64,
    pub(super) stride: u32,
    pub(super) row: u32,
    pub(super) rows: u32,
    pub(super) first: u32,
    pub(super) strips: u32,
    pub(super) unused: u32,
}

/// `Span` in `expand.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Span {
    pub(super) b: u64,
    pub(super) h: u32,
    pub(super) stride: u32,
    pub(super) row: u32,
    pub(super) rows: u32,
    pub(super) rank: u32,
    pub(super) target: u32,
    pub(super) first: u32,
    pub(super) height: u32,
}

// SAFETY: the struct consists of numbers.
unsafe impl bytemuck::Zeroable for Strip {}
// SAFETY: the struct is `repr(C)`, consists of numbers and has no padding, because its size is the sum of its fields'.
unsafe impl bytemuck::Pod for Strip {}
// SAFETY: the struct consists of numbers.
unsafe impl bytemuck::Zeroable for Span {}
// SAFETY: the struct is `repr(C)`, consists of numbers and has no padding, because its size is the sum of its fields'.
unsafe impl bytemuck::Pod for Span {}
const _: () = assert!(size_of::<Strip>() == 80 && size_of::<Span>() == 40);

/// The items of one launch.
#[derive(Debug, Default)]
pub(super) struct Launch<Item> {
    /// In ascending order of their first blocks.
    pub(super) items: Vec<Item>,
    /// The number of rows in a tile, at most.
    pub(super) height: usize,
    /// The number of blocks; 0 is no launch.
    pub(super) blocks: usize,
}

/// Both launches.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) shrink: Launch<Strip>,
    pub(super) expand: Launch<Span>,
    /// The number of elements of h.
    pub(super) scratch: usize,
}

/// The place of a piece's part of h: the first element, and the distance between rows.
#[derive(Clone, Copy, Default)]
struct Part {
    first: usize,
    stride: usize,
}

/// Plans the launches for `finishes`, which read the same `x [tokens, in]`. `row_bytes` is the size of a row of A.
pub(super) fn plan(tokens: usize, row_bytes: usize, finishes: &[Finish]) -> Plan {
    let mut parts: Vec<Vec<Part>> = finishes.iter().map(|finish| vec![Part::default(); finish.pieces.len()]).collect();
    let (shrink, scratch) = shrink(row_bytes, finishes, &mut parts);
    Plan { shrink, expand: expand(tokens, finishes, &parts), scratch }
}

/// The shrink, and the size of h. Fills in the place of each piece's part of h.
fn shrink(row_bytes: usize, finishes: &[Finish], parts: &mut [Vec<Part>]) -> (Launch<Strip>, usize) {
    let indexed = finishes.iter().enumerate().flat_map(|(target, finish)| {
        finish.pieces.iter().enumerate().map(move |(index, piece)| (target, index, piece))
    });
    let mut all: Vec<(usize, usize, &Piece)> = indexed.collect();
    all.sort_by_key(|(target, _, piece)| (piece.rows.start, piece.rows.end, *target));
    let (mut items, mut scratch) = (Vec::with_capacity(all.len()), 0);
    for group in all.chunk_by(|(_, _, a), (_, _, b)| a.rows == b.rows) {
        let stride = TILE * group.iter().map(|(_, _, piece)| piece.rank.div_ceil(TILE)).sum::<usize>();
        let mut tiles = Vec::with_capacity(stride / TILE);
        for &(target, index, piece) in group {
            parts[target][index] = Part { first: scratch + TILE * tiles.len(), stride };
            let first_ranks = (0..piece.rank).step_by(TILE);
            tiles.extend(first_ranks.map(|rank| {
                let a = piece.a + (rank * row_bytes) as u64;
                (a, piece.scale, TILE.min(piece.rank - rank) as u32)
            }));
        }
        let rows = &group[0].2.rows;
        let strips = tiles.len().div_ceil(STRIP_TILES) as u32;
        for (i, tiles) in tiles.chunks(STRIP_TILES).enumerate() {
            let h = (scratch + i * STRIP_TILES * TILE) as u64;
            let (row, rows) = (rows.start as u32, rows.len() as u32);
            let mut strip = Strip { h, stride: stride as u32, row, rows, strips, ..Strip::default() };
            for (j, &(a, scale, ranks)) in tiles.iter().enumerate() {
                (strip.a[j], strip.scale[j], strip.ranks[j]) = (a, scale, ranks);
            }
            items.push(strip);
        }
        scratch += rows.len() * stride;
    }
    let blocks_of = |height| items.iter().map(|strip| (strip.rows as usize).div_ceil(height)).sum();
    let (height, blocks) = height(SHRINK_HEIGHTS, SHRINK_AT_ONCE, blocks_of);
    let (mut first, mut rest) = (0, &mut items[..]);
    while let Some(&mut Strip { strips, rows, .. }) = rest.first_mut() {
        let (group, after) = std::mem::take(&mut rest).split_at_mut(strips as usize);
        for strip in group {
            strip.first = first;
        }
        first += strips * rows.div_ceil(height as u32);
        rest = after;
    }
    (Launch { items, height, blocks }, scratch)
}

fn expand(tokens: usize, finishes: &[Finish], parts: &[Vec<Part>]) -> Launch<Span> {
    let mut items = Vec::new();
    for (target, finish) in finishes.iter().enumerate() {
        let bare = |rows: Range<usize>| Span {
            row: rows.start as u32,
            rows: rows.len() as u32,
            target: target as u32,
            ..Span::default()
        };
        let mut next = 0;
        for (piece, part) in finish.pieces.iter().zip(&parts[target]) {
            if finish.every_row && piece.rows.start > next {
                items.push(bare(next..piece.rows.start));
            }
            let (h, stride) = ((part.first / TILE) as u32, part.stride as u32);
            items.push(Span { b: piece.b, h, stride, rank: piece.rank as u32, ..bare(piece.rows.clone()) });
            next = piece.rows.end;
        }
        if finish.every_row && next < tokens {
            items.push(bare(next..tokens));
        }
    }
    let across = |span: &Span| finishes[span.target as usize].out.div_ceil(BLOCK_COLUMNS);
    let blocks_of =
        |span: &Span, height: usize| (span.rows as usize).div_ceil(height_of(span.rank, height)) * across(span);
    let all = |height| items.iter().map(|span| blocks_of(span, height)).sum();
    let (height, blocks) = height(EXPAND_HEIGHTS, EXPAND_AT_ONCE, all);
    let mut first = 0;
    for span in &mut items {
        (span.first, span.height) = (first, height_of(span.rank, height) as u32);
        first += blocks_of(span, height) as u32;
    }
    Launch { items, height, blocks }
}

/// The rows of a span's tiles. B is read again for every 16 ranks, so blocks of a large rank get fewer rows: one that ran for much longer
/// than the others would hold up the launch's end.
fn height_of(rank: u32, height: usize) -> usize {
    (height / (rank as usize).div_ceil(16).next_power_of_two()).max(EXPAND_HEIGHTS[0])
}

/// The smallest height whose blocks run all at once, or else the largest; and the number of blocks.
fn height<const N: usize>(heights: [usize; N], at_once: usize, blocks: impl Fn(usize) -> usize) -> (usize, usize) {
    let height = heights.into_iter().find(|height| blocks(*height) <= at_once).unwrap_or(heights[N - 1]);
    (height, blocks(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(rows: Range<usize>, rank: usize) -> Piece {
        Piece { rows, rank, a: 1000, b: 2000, scale: 0.5 }
    }

    fn finish(every_row: bool, pieces: &[Piece]) -> Finish<'_> {
        Finish { out: 300, every_row, pieces }
    }

    #[test]
    fn linears_with_the_same_rows_share_a_strip() {
        let pieces = [1, 8, 2].map(|rank| [piece(5..20, rank)]);
        let plan = plan(100, 10, &pieces.each_ref().map(|pieces| finish(true, pieces)));
        let [strip] = plan.shrink.items[..] else { panic!("{:?}", plan.shrink.items) };
        assert_eq!((strip.ranks, strip.stride, strip.row, strip.rows), ([1, 8, 2], 24, 5, 15));
        assert_eq!((plan.scratch, plan.shrink.height, plan.shrink.blocks), (15 * 24, 16, 1));
        let spans: Vec<_> =
            plan.expand.items.iter().map(|span| (span.target, span.row, span.rows, span.rank, span.h)).collect();
        let of = |target, rank| [(target, 0, 5, 0, 0), (target, 5, 15, rank, target), (target, 20, 80, 0, 0)];
        assert_eq!(spans, [of(0, 1), of(1, 8), of(2, 2)].concat());
    }

    #[test]
    fn a_large_rank_takes_several_strips_of_its_rows_alone() {
        let plan = plan(64, 10, &[finish(false, &[piece(0..16, 60), piece(16..64, 2)])]);
        let strips: Vec<_> = plan.shrink.items.iter().map(|strip| (strip.row, strip.a, strip.ranks, strip.h)).collect();
        let tile = |rank: u64| 1000 + 10 * rank;
        assert_eq!(strips[0], (0, [tile(0), tile(8), tile(16)], [8, 8, 8], 0));
        assert_eq!(strips[2], (0, [tile(48), tile(56), 0], [8, 4, 0], 48));
        assert_eq!(strips[3], (16, [tile(0), 0, 0], [2, 0, 0], 16 * 64));
        assert_eq!((strips.len(), plan.scratch), (4, 16 * 64 + 48 * 8));
    }

    #[test]
    fn rows_without_work_are_in_no_block() {
        let plan = plan(1000, 10, &[finish(false, &[piece(990..1000, 1)]), finish(false, &[])]);
        // Two blocks for 300 columns.
        assert_eq!((plan.shrink.blocks, plan.expand.blocks), (1, 2));
        let plan = super::plan(1000, 10, &[finish(false, &[])]);
        assert_eq!((plan.shrink.blocks, plan.expand.blocks, plan.scratch), (0, 0, 0));
    }

    #[test]
    fn tiles_are_as_low_as_a_gpu_runs_at_once_and_first_blocks_add_up() {
        for (rows, shrink, expand) in
            [(100, 16, 16), (132 * 16, 16, 16), (132 * 16 + 1, 32, 16), (330 * 16 + 1, 32, 32), (264 * 640, 32, 128)]
        {
            let plan = plan(rows, 10, &[finish(true, &[piece(0..rows, 1)])]);
            assert_eq!((plan.shrink.height, plan.shrink.blocks), (shrink, rows.div_ceil(shrink)));
            assert_eq!((plan.expand.height, plan.expand.blocks), (expand, 2 * rows.div_ceil(expand)));
        }
        let pieces: Vec<_> = (0..40).map(|i| piece(100 * i..100 * i + 90, i % 3 * 20 + 1)).collect();
        let plan = plan(4000, 10, &[finish(true, &pieces)]);
        let tiles = |rows: u32, height: usize| (rows as usize).div_ceil(height);
        let mut next = 0;
        for group in plan.shrink.items.chunk_by(|a, b| a.row == b.row) {
            assert!(group.iter().all(|strip| (strip.first as usize, strip.strips as usize) == (next, group.len())));
            next += group.len() * tiles(group[0].rows, plan.shrink.height);
        }
        assert_eq!(next, plan.shrink.blocks);
        let mut next = 0;
        for span in &plan.expand.items {
            assert_eq!(span.first as usize, next);
            let height = [128, 64, 32][(span.rank as usize).div_ceil(16).max(1) - 1];
            assert_eq!(span.height as usize, height.min(plan.expand.height));
            next += 2 * tiles(span.rows, span.height as usize);
        }
        assert_eq!(next, plan.expand.blocks);
    }
}
