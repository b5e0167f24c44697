//! Plans the launches of a feed-forward block: the shrink of its input, the kernel in `feed_forward.cu`, and the expand of its output.
//!
//! The kernel's unit is a [`Band`]: rows with one inner delta or none, and one outer delta or none. It computes the outer deltas' part of
//! h too, except for the ranks that do not fit into its registers: [`Plan::rest`] is a shrink for those.

use std::ops::Range;

use super::launch_plan::{
    self, Finish, Launch, Part, Piece, SHRINK_HEIGHTS, STRIP_TILES, Span, Strip, TILE, expand, height, shrink,
};

/// The largest rank of an outer delta in a band.
const LARGEST: usize = TILE * STRIP_TILES;
/// The number of blocks that an H100 runs at a time, two on each of 132 multiprocessors.
const AT_ONCE: usize = 2 * 132;
/// The number of blocks from which the kernel is used. A block computes all columns of its rows, so fewer would leave an H100 idle.
const FEWEST: usize = 132;

/// `Band` in `feed_forward.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Band {
    pub(super) b: u64,
    pub(super) a: u64,
    pub(super) h: u32,
    pub(super) stride: u32,
    pub(super) rank: u32,
    pub(super) to: u32,
    pub(super) ranks: u32,
    pub(super) scale: f32,
    pub(super) row: u32,
    pub(super) rows: u32,
    pub(super) first: u32,
    pub(super) unused: u32,
}

// SAFETY: the struct consists of numbers.
unsafe impl bytemuck::Zeroable for Band {}
// SAFETY: the struct is `repr(C)`, consists of numbers and has no padding, because its size is the sum of its fields'.
unsafe impl bytemuck::Pod for Band {}
const _: () = assert!(size_of::<Band>() == 56);

/// All launches of a block, in order.
#[derive(Debug)]
pub(super) struct Plan {
    /// The inner deltas' part of h, `scale * x A^T`.
    pub(super) shrink: Launch<Strip>,
    pub(super) bands: Launch<Band>,
    /// The part of the outer h that bands leave out.
    pub(super) rest: Launch<Strip>,
    /// The outer linear's output.
    pub(super) expand: Launch<Span>,
    /// The numbers of elements of the inner and the outer h.
    pub(super) scratch: [usize; 2],
}

/// Whether the plan is better than separate launches: not for few rows, nor if bands would compute none of the outer deltas, which
/// have these ranks.
pub(super) fn pays(tokens: usize, mut ranks: impl Iterator<Item = usize>) -> bool {
    tokens >= FEWEST * SHRINK_HEIGHTS[0] && ranks.any(|rank| (1..=LARGEST).contains(&rank))
}

/// The plan for `tokens` rows. `row_bytes` is the size of a row of the inner A, and of the outer A.
pub(super) fn plan(tokens: usize, row_bytes: [usize; 2], inner: Finish, outer: Finish) -> Plan {
    let (shrink, inner_parts, inner_scratch) = self::shrink(row_bytes[0], &[inner], |_| true);
    let (rest, outer_parts, outer_scratch) = launch_plan::shrink(row_bytes[1], &[outer], |piece| piece.rank > LARGEST);
    let mut items: Vec<Band> = cuts(tokens, inner.pieces, outer.pieces)
        .map(|rows| {
            let mut band = Band { row: rows.start as u32, rows: rows.len() as u32, ..Band::default() };
            if let Some((piece, part)) = at(rows.start, inner.pieces, &inner_parts[0]) {
                let first = part.first + (rows.start - piece.rows.start) * part.stride;
                (band.b, band.rank) = (piece.b, piece.rank as u32);
                (band.h, band.stride) = ((first / TILE) as u32, part.stride as u32);
            }
            if let Some((piece, part)) = at(rows.start, outer.pieces, &outer_parts[0])
                && piece.rank <= LARGEST
            {
                let first = part.first + (rows.start - piece.rows.start) * part.stride;
                (band.a, band.ranks, band.scale, band.to) =
                    (piece.a, piece.rank as u32, piece.scale, (first / TILE) as u32);
            }
            band
        })
        .collect();
    let blocks_of = |band: &Band, height: usize| (band.rows as usize).div_ceil(height);
    let all = |height| items.iter().map(|band| blocks_of(band, height)).sum();
    let (height, blocks) = height(SHRINK_HEIGHTS, AT_ONCE, all);
    let mut first = 0;
    for band in &mut items {
        band.first = first;
        first += blocks_of(band, height) as u32;
    }
    Plan {
        shrink,
        bands: Launch { items, height, blocks },
        rest,
        expand: expand(tokens, &[outer], &outer_parts),
        scratch: [inner_scratch, outer_scratch],
    }
}

/// All rows, cut where a piece begins or ends.
fn cuts(tokens: usize, inner: &[Piece], outer: &[Piece]) -> impl Iterator<Item = Range<usize>> {
    let ends = inner.iter().chain(outer).flat_map(|piece| [piece.rows.start, piece.rows.end]);
    let mut ends: Vec<usize> = ends.chain([0, tokens]).collect();
    ends.sort_unstable();
    ends.dedup();
    (1..ends.len()).map(move |i| ends[i - 1]..ends[i])
}

/// The piece that has `row`, with its part of h.
fn at<'a>(row: usize, pieces: &'a [Piece], parts: &[Part]) -> Option<(&'a Piece, Part)> {
    let index = pieces.partition_point(|piece| piece.rows.end <= row);
    pieces.get(index).filter(|piece| piece.rows.start <= row).map(|piece| (piece, parts[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(rows: Range<usize>, rank: usize) -> Piece {
        Piece { rows, rank, a: 1000, b: 2000, scale: 0.5 }
    }

    fn finish(pieces: &[Piece]) -> Finish<'_> {
        Finish { out: 64, every_row: true, pieces }
    }

    #[test]
    fn rows_are_cut_where_a_delta_begins_or_ends() {
        let (inner, outer) = ([piece(0..1000, 3), piece(1500..4000, 17)], [piece(500..2000, 9), piece(2000..2100, 25)]);
        let plan = plan(4000, [10, 20], finish(&inner), finish(&outer));
        let of = |band: &Band| (band.row, band.rows, band.rank, band.h, band.ranks, band.to);
        let found: Vec<_> = plan.bands.items.iter().map(of).collect();
        assert_eq!(
            found,
            [
                (0, 500, 3, 0, 0, 0),
                (500, 500, 3, 500, 9, 0),
                (1000, 500, 0, 0, 9, 500 * 2),
                (1500, 500, 17, 1000, 9, 1000 * 2),
                // The outer rank does not fit.
                (2000, 100, 17, 1000 + 500 * 3, 0, 0),
                (2100, 1900, 17, 1000 + 600 * 3, 0, 0),
            ]
        );
        assert_eq!(plan.scratch, [1000 * 8 + 2500 * 24, 1500 * 16 + 100 * 32]);
        let rest: Vec<_> = plan.rest.items.iter().map(|strip| (strip.row, strip.rows, strip.h, strip.ranks)).collect();
        assert_eq!(rest, [(2000, 100, 24_000, [8, 8, 8]), (2000, 100, 24_024, [1, 0, 0])]);
        let mut next = 0;
        for band in &plan.bands.items {
            assert_eq!(band.first as usize, next);
            next += (band.rows as usize).div_ceil(plan.bands.height);
        }
        assert_eq!((next, plan.bands.height), (plan.bands.blocks, 16));
    }

    #[test]
    fn few_rows_and_large_ranks_take_separate_launches() {
        for (tokens, ranks, expected) in [
            (132 * 16, vec![24], true),
            (132 * 16, vec![25, 3], true),
            (132 * 16 - 1, vec![24], false),
            (132 * 16, vec![25], false),
            (132 * 16, vec![0], false),
            (5000, vec![], false),
        ] {
            assert_eq!(pays(tokens, ranks.into_iter()), expected);
        }
        let tall = plan(10_000, [10, 10], finish(&[]), finish(&[piece(0..10_000, 8)]));
        assert_eq!((tall.bands.height, tall.bands.blocks), (32, 313));
    }
}
