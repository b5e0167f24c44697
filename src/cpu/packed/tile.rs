//! The loop of a prepacked product: one tile of rows by one panel, with the sums in registers.
//!
//! For each group, the loop broadcasts each row's group, multiplies it by the panel's columns and adds to the sums. The macro
//! `tile!` writes this loop for each precision over AVX-512 and AVX2, in `tile/x86.rs`; a version over arrays serves machines
//! with neither. The loop is chosen at run time.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::LazyLock;

use super::activations::{Activations, Form};
use crate::cpu::math;
use crate::params::{COLUMNS, Precision};

/// The largest number of rows in a tile: 10 rows of two vectors leave 12 of AVX-512's 32 registers for operands and addresses.
const ROWS: usize = 10;

/// The sums of a tile as words: the bits of f32, or i32.
type Sums = [[u32; COLUMNS]; ROWS];

/// The part of a product to compute: rows of the batch by panels of the weight.
pub(super) struct Span {
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

/// The destination `[rows, out]`. Each task writes its own part.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) y: *mut MaybeUninit<f32>,
    pub(super) out: usize,
}

// SAFETY: tasks write disjoint spans, which their callers promise: `Prepacked::apply` and the products of stored weights.
unsafe impl Send for Output {}
// SAFETY: tasks write disjoint spans, as for `Send`, and nothing is read through the pointer.
unsafe impl Sync for Output {}

/// The weight's sizes and scales, as the loop reads them.
pub(super) struct Tile<'a> {
    pub(super) precision: Precision,
    /// The number of groups in a row of activations and in a panel.
    pub(super) groups: usize,
    /// The scale of each column, as bits of f32; int8 only.
    pub(super) scales: &'a [u32],
    /// 128 times the sum of each column's integers; int8 only.
    pub(super) sums: &'a [u32],
}

impl Tile<'_> {
    /// Fills `span` of `output`. `panels` are the span's panels, `x` holds the span's rows, and `bias` is padded to whole panels.
    ///
    /// # Safety
    /// `output` must have room for the rows and columns of `span`, and nothing else may read or write them meanwhile.
    pub(super) unsafe fn run(&self, panels: &[u32], x: &Activations, bias: Option<&[f32]>, span: Span, output: Output) {
        let rows = span.rows.len();
        let kernel = Kernel::of(self.precision);
        let width = self.groups * kernel.form.words();
        assert!(
            x.form == kernel.form && x.words.len() == rows * width,
            "prepacked: activations are not of {rows} rows"
        );
        // Tiles of equal height, so that no tile has only one or two rows.
        let height = rows.div_ceil(rows.div_ceil(kernel.rows).max(1)).max(1);
        let mut sums = [[0; COLUMNS]; ROWS];
        for (words, panel) in panels.chunks_exact((COLUMNS * self.groups).max(1)).zip(span.panels) {
            for first in (0..rows).step_by(height) {
                let count = height.min(rows - first);
                let x_words = &x.words[first * width..(first + count) * width];
                // While the first tile of a panel is computed, the next panel is prefetched.
                let prefetch = if first == 0 { words.len() } else { 0 };
                kernel.sums(x_words, (words, prefetch), self.groups, count, &mut sums);
                let columns = panel * COLUMNS..output.out.min((panel + 1) * COLUMNS);
                math::vectorized(
                    #[inline(always)]
                    || {
                        for (row, sums) in (first..).zip(&sums[..count]) {
                            let scale = x.scales.get(row).copied();
                            let start = (span.rows.start + row) * output.out + columns.start;
                            // SAFETY: the caller promises room for the span, of which this is one row's part, and that this task
                            // alone touches it.
                            let y = unsafe { std::slice::from_raw_parts_mut(output.y.add(start), columns.len()) };
                            self.finish(sums, scale, bias, columns.start, y);
                        }
                    },
                );
            }
        }
    }

    /// Turns the sums of one row and the panel that begins at `column` into outputs.
    #[inline(always)]
    fn finish(
        &self,
        sums: &[u32; COLUMNS],
        scale: Option<f32>,
        bias: Option<&[f32]>,
        column: usize,
        y: &mut [MaybeUninit<f32>],
    ) {
        // A whole panel is written directly, as two vectors; a partial panel goes through a buffer.
        match y.first_chunk_mut() {
            Some(y) => self.outputs(sums, scale, bias, column, y),
            None => {
                let mut row = [MaybeUninit::uninit(); COLUMNS];
                self.outputs(sums, scale, bias, column, &mut row);
                y.copy_from_slice(&row[..y.len()]);
            }
        }
    }

    #[inline(always)]
    fn outputs(
        &self,
        sums: &[u32; COLUMNS],
        scale: Option<f32>,
        bias: Option<&[f32]>,
        column: usize,
        y: &mut [MaybeUninit<f32>; COLUMNS],
    ) {
        const NONE: [f32; COLUMNS] = [0.0; COLUMNS];
        let bias = bias.and_then(|bias| bias[column..].first_chunk()).unwrap_or(&NONE);
        match scale {
            None => {
                for i in 0..COLUMNS {
                    y[i].write(f32::from_bits(sums[i]) + bias[i]);
                }
            }
            Some(scale) => {
                let columns = self.scales[column..column + COLUMNS].iter().zip(&self.sums[column..column + COLUMNS]);
                for (((y, sum), bias), (by, offset)) in y.iter_mut().zip(sums).zip(bias).zip(columns) {
                    let sum = sum.cast_signed().wrapping_sub(offset.cast_signed());
                    y.write(sum as f32 * (scale * f32::from_bits(*by)) + bias);
                }
            }
        }
    }
}

/// The form in which this machine's fastest loop reads activations.
pub(super) fn form(precision: Precision) -> Form {
    Kernel::of(precision).form
}

/// Computes the sums of a fixed number of rows. The arguments: x, the panel, how many words further to prefetch, the number of
/// groups, the sums.
///
/// # Safety
/// x is `[R, groups]`, or `[R, 2 groups]` for loops over [`Form::Widened`], and the panel `[groups, COLUMNS]`, both of words that may be
/// read. The machine has the features of the loop, which [`Kernel::of`] checks. What is prefetched may be anywhere. All loops here have
/// this contract.
type Run = unsafe fn(*const u32, *const u32, usize, usize, &mut Sums);

/// The loop for one width of vectors.
#[derive(Clone, Copy)]
struct Kernel {
    /// The largest number of rows that it takes.
    rows: usize,
    /// How it reads activations.
    form: Form,
    /// The functions by number of rows, from 1.
    runs: &'static [Run],
}

impl Kernel {
    fn of(precision: Precision) -> Self {
        static F32: LazyLock<Kernel> = LazyLock::new(|| Kernel::all(Precision::F32).swap_remove(0));
        static BF16: LazyLock<Kernel> = LazyLock::new(|| Kernel::all(Precision::Bf16).swap_remove(0));
        static INT8: LazyLock<Kernel> = LazyLock::new(|| Kernel::all(Precision::Int8).swap_remove(0));
        match precision {
            Precision::F32 => *F32,
            Precision::Bf16 => *BF16,
            Precision::Int8 => *INT8,
        }
    }

    /// All loops that this machine can run, the fastest first.
    fn all(precision: Precision) -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        x86::push(precision, &mut all);
        all.push(Self { rows: 4, form: Form::Groups, runs: portable(precision) });
        all
    }

    /// Computes the `sums` of `count` rows of `x`, in the loop's form, and a panel `[groups, COLUMNS]`. Meanwhile it prefetches the
    /// words that lie `prefetch` words after those it reads.
    fn sums(self, x: &[u32], (panel, prefetch): (&[u32], usize), groups: usize, count: usize, sums: &mut Sums) {
        let width = self.form.words() * groups;
        assert!(x.len() == count * width && panel.len() == COLUMNS * groups, "prepacked: a tile of other sizes");
        // SAFETY: the slices have the sizes that the loop reads, and `all` lists only loops that the machine can run.
        unsafe { self.runs[count - 1](x.as_ptr(), panel.as_ptr(), prefetch, groups, sums) }
    }
}

/// The sums of `x`, rows of whole groups, and a panel, computed by every loop; for tests.
#[cfg(test)]
pub(super) fn every_sums(precision: Precision, x: &[f32], panel: &[u32], groups: usize) -> Vec<Vec<u32>> {
    let run = |kernel: Kernel| {
        let (width, mut all) = (groups * kernel.form.words(), Vec::new());
        let x = Activations::new(x, groups * precision.per_group(), precision, kernel.form);
        for x in x.words.chunks(kernel.rows * width) {
            let (count, mut sums) = (x.len() / width, [[0; COLUMNS]; ROWS]);
            kernel.sums(x, (panel, 0), groups, count, &mut sums);
            all.extend(sums[..count].as_flattened());
        }
        all
    };
    Kernel::all(precision).into_iter().map(run).collect()
}

/// A table with one function for each number of rows.
macro_rules! by_rows {
    ($run:ident: $($rows:literal)*) => { &[$($run::<$rows> as Run),*] };
}

#[cfg(target_arch = "x86_64")]
mod x86;

fn portable(precision: Precision) -> &'static [Run] {
    match precision {
        Precision::F32 => by_rows!(portable_f32: 1 2 3 4),
        Precision::Bf16 => by_rows!(portable_bf16: 1 2 3 4),
        Precision::Int8 => by_rows!(portable_int8: 1 2 3 4),
    }
}

/// The loop over arrays. `add(a, b, sum)` adds the product of a group of x and a group of a column to a sum.
#[inline(always)]
unsafe fn portable_loop<const R: usize>(
    x: *const u32,
    panel: *const u32,
    groups: usize,
    sums: &mut Sums,
    add: impl Fn(u32, u32, u32) -> u32,
) {
    // SAFETY: the caller promises `x [R, groups]` and `panel [groups, COLUMNS]`.
    let (x, panel) = unsafe {
        (std::slice::from_raw_parts(x, R * groups), std::slice::from_raw_parts(panel, groups * COLUMNS).as_chunks().0)
    };
    for (row, sums) in sums.iter_mut().enumerate().take(R) {
        let mut row_sums = [0; COLUMNS];
        for (a, columns) in x[row * groups..(row + 1) * groups].iter().zip::<&[[u32; COLUMNS]]>(panel) {
            for (sum, b) in row_sums.iter_mut().zip(columns) {
                *sum = add(*a, *b, *sum);
            }
        }
        *sums = row_sums;
    }
}

unsafe fn portable_f32<const R: usize>(x: *const u32, panel: *const u32, _: usize, groups: usize, sums: &mut Sums) {
    let add = |a, b, sum| (f32::from_bits(sum) + f32::from_bits(a) * f32::from_bits(b)).to_bits();
    // SAFETY: the caller's promise is passed on.
    math::vectorized(
        #[inline(always)]
        || unsafe { portable_loop::<R>(x, panel, groups, sums, add) },
    );
}

unsafe fn portable_bf16<const R: usize>(x: *const u32, panel: *const u32, _: usize, groups: usize, sums: &mut Sums) {
    let (low, high) = (|w: u32| f32::from_bits(w << 16), |w: u32| f32::from_bits(w & 0xffff_0000));
    let add = |a, b, sum| (f32::from_bits(sum) + low(a) * low(b) + high(a) * high(b)).to_bits();
    // SAFETY: the caller's promise is passed on.
    math::vectorized(
        #[inline(always)]
        || unsafe { portable_loop::<R>(x, panel, groups, sums, add) },
    );
}

unsafe fn portable_int8<const R: usize>(x: *const u32, panel: *const u32, _: usize, groups: usize, sums: &mut Sums) {
    let term = |a: u32, b: u32, at: u32| (a >> at & 0xff).cast_signed() * i32::from((b >> at) as u8 as i8);
    let add = |a, b, sum: u32| {
        (sum.cast_signed() + term(a, b, 0) + term(a, b, 8) + term(a, b, 16) + term(a, b, 24)).cast_unsigned()
    };
    // SAFETY: the caller's promise is passed on.
    math::vectorized(
        #[inline(always)]
        || unsafe { portable_loop::<R>(x, panel, groups, sums, add) },
    );
}
