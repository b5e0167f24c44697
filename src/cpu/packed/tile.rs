//! The loop of a prepacked product: one tile of rows by one panel, with the sums in registers.
//!
//! For each group, the loop broadcasts each row's group, multiplies it by the panel's columns and adds to the sums. The macro
//! [`tile!`] writes this loop for each precision over AVX-512 and AVX2; a version over arrays serves machines with neither. The
//! loop is chosen at run time.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::LazyLock;

use super::activations::Activations;
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
        assert!(x.words.len() == rows * self.groups, "prepacked: activations are not of {rows} rows");
        // Tiles of equal height, so that no tile has only one or two rows.
        let height = rows.div_ceil(rows.div_ceil(kernel.rows).max(1)).max(1);
        let mut sums = [[0; COLUMNS]; ROWS];
        for (words, panel) in panels.chunks_exact((COLUMNS * self.groups).max(1)).zip(span.panels) {
            for first in (0..rows).step_by(height) {
                let count = height.min(rows - first);
                let x_words = &x.words[first * self.groups..(first + count) * self.groups];
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

/// Computes the sums of a fixed number of rows. The arguments: x, the panel, how many words further to prefetch, the number of
/// groups, the sums.
///
/// # Safety
/// x is `[R, groups]` and the panel `[groups, COLUMNS]`, both of words that may be read. The machine has the features of the loop, which
/// [`Kernel::of`] checks. What is prefetched may be anywhere. All loops here have this contract.
type Run = unsafe fn(*const u32, *const u32, usize, usize, &mut Sums);

/// The loop for one width of vectors.
#[derive(Clone, Copy)]
struct Kernel {
    /// The largest number of rows that it takes.
    rows: usize,
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
        all.push(Self { rows: 4, runs: portable(precision) });
        all
    }

    /// Computes the `sums` of `count` rows of `x [count, groups]` and a panel `[groups, COLUMNS]`. Meanwhile it prefetches the
    /// words that lie `prefetch` words after those it reads.
    fn sums(self, x: &[u32], (panel, prefetch): (&[u32], usize), groups: usize, count: usize, sums: &mut Sums) {
        assert!(x.len() == count * groups && panel.len() == COLUMNS * groups, "prepacked: a tile of other sizes");
        // SAFETY: the slices have the sizes that the loop reads, and `all` lists only loops that the machine can run.
        unsafe { self.runs[count - 1](x.as_ptr(), panel.as_ptr(), prefetch, groups, sums) }
    }
}

/// The sums of `x [rows, groups]` and a panel, computed by every loop; for tests.
#[cfg(test)]
pub(super) fn every_sums(precision: Precision, x: &[u32], panel: &[u32], groups: usize) -> Vec<Vec<u32>> {
    let run = |kernel: Kernel| {
        let mut all = Vec::new();
        for x in x.chunks(kernel.rows * groups) {
            let (count, mut sums) = (x.len() / groups, [[0; COLUMNS]; ROWS]);
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

/// The loops for x86-64's vectors.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Kernel, Run, Sums};
    use crate::cpu::simd::array;
    use crate::params::{COLUMNS, Precision};

    pub(super) fn push(precision: Precision, all: &mut Vec<Kernel>) {
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let narrow = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let (wide, rows_wide, rows_narrow): (Option<&[Run]>, &[Run], _) = match precision {
            Precision::F32 => {
                (wide.then_some(by_rows!(f32_512: 1 2 3 4 5 6 7 8 9 10)), by_rows!(f32_256: 1 2 3 4 5 6), 6)
            }
            Precision::Bf16 => (
                (wide && is_x86_feature_detected!("avx512bf16")).then_some(by_rows!(bf16_512: 1 2 3 4 5 6 7 8 9 10)),
                by_rows!(bf16_256: 1 2 3 4 5 6),
                6,
            ),
            Precision::Int8 => (
                (wide && is_x86_feature_detected!("avx512vnni")).then_some(by_rows!(int8_512: 1 2 3 4 5 6 7 8 9 10)),
                by_rows!(int8_256: 1 2 3 4 5 6),
                6,
            ),
        };
        all.extend(wide.map(|runs| Kernel { rows: runs.len(), runs }));
        all.extend(narrow.then_some(Kernel { rows: rows_narrow, runs: rows_wide }));
    }

    /// Writes a loop from the CPU features it needs, its vector type, the number of words in a vector, the number of vectors in a
    /// pass, and its operations. The columns that do not fit in one pass take another pass over the same rows.
    macro_rules! tile {
        (
            $name:ident, $features:literal, [$vector:ty; $lanes:literal] x $vectors:literal, $zero:ident, $splat:expr, $load:expr,
            $add:expr, $store:expr
        ) => {
            #[target_feature(enable = $features)]
            unsafe fn $name<const R: usize>(
                x: *const u32,
                panel: *const u32,
                prefetch: usize,
                groups: usize,
                sums: &mut Sums,
            ) {
                for pass in (0..COLUMNS).step_by($lanes * $vectors) {
                    let mut acc: [[$vector; $vectors]; R] = [[$zero(); $vectors]; R];
                    // One pointer for every three rows: an address can add the stride once or twice.
                    // SAFETY: the caller promises `x [R, groups]` and `panel [groups, COLUMNS]`; all that is read lies inside.
                    unsafe {
                        let mut rows: [*const u32; 4] = array(|i| x.wrapping_add(3 * i * groups));
                        let mut columns = panel.add(pass);
                        for _ in 0..groups {
                            let b = [$load(columns), $load(columns.add($lanes))];
                            _mm_prefetch::<_MM_HINT_T1>(columns.wrapping_add(prefetch).cast());
                            _mm_prefetch::<_MM_HINT_T1>(columns.wrapping_add(prefetch + $lanes).cast());
                            for r in 0..R {
                                let a = $splat(*rows[r / 3].wrapping_add(r % 3 * groups));
                                for v in 0..$vectors {
                                    acc[r][v] = $add(acc[r][v], a, b[v]);
                                }
                            }
                            for row in &mut rows {
                                *row = row.wrapping_add(1);
                            }
                            columns = columns.wrapping_add(COLUMNS);
                        }
                        for r in 0..R {
                            for v in 0..$vectors {
                                $store(sums[r].as_mut_ptr().add(pass + v * $lanes), acc[r][v]);
                            }
                        }
                    }
                }
            }
        };
    }

    tile!(
        f32_512, "avx512f,avx512bw", [__m512; 16] x 2, _mm512_setzero_ps,
        |a: u32| _mm512_set1_ps(f32::from_bits(a)),
        |p: *const u32| _mm512_loadu_ps(p.cast()),
        |acc, a, b| _mm512_fmadd_ps(a, b, acc),
        |p: *mut u32, acc| _mm512_storeu_ps(p.cast(), acc)
    );
    tile!(
        bf16_512, "avx512f,avx512bw,avx512bf16", [__m512; 16] x 2, _mm512_setzero_ps,
        |a: u32| transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a.cast_signed())),
        |p: *const u32| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())),
        |acc, a, b| _mm512_dpbf16_ps(acc, a, b),
        |p: *mut u32, acc| _mm512_storeu_ps(p.cast(), acc)
    );
    tile!(
        int8_512, "avx512f,avx512bw,avx512vnni", [__m512i; 16] x 2, _mm512_setzero_si512,
        |a: u32| _mm512_set1_epi32(a.cast_signed()),
        |p: *const u32| _mm512_loadu_si512(p.cast()),
        |acc, a, b| _mm512_dpbusd_epi32(acc, a, b),
        |p: *mut u32, acc| _mm512_storeu_si512(p.cast(), acc)
    );
    tile!(
        f32_256, "avx2,fma", [__m256; 8] x 2, _mm256_setzero_ps,
        |a: u32| _mm256_set1_ps(f32::from_bits(a)),
        |p: *const u32| _mm256_loadu_ps(p.cast()),
        |acc, a, b| _mm256_fmadd_ps(a, b, acc),
        |p: *mut u32, acc| _mm256_storeu_ps(p.cast(), acc)
    );
    tile!(
        bf16_256, "avx2,fma", [__m256; 8] x 2, _mm256_setzero_ps,
        |a: u32| halves(_mm256_set1_epi32(a.cast_signed())),
        |p: *const u32| halves(_mm256_loadu_si256(p.cast())),
        |acc, a: [__m256; 2], b: [__m256; 2]| _mm256_fmadd_ps(a[1], b[1], _mm256_fmadd_ps(a[0], b[0], acc)),
        |p: *mut u32, acc| _mm256_storeu_ps(p.cast(), acc)
    );
    tile!(
        int8_256, "avx2,fma", [__m256i; 8] x 2, _mm256_setzero_si256,
        |a: u32| {
            let a = _mm256_set1_epi32(a.cast_signed());
            [_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(a)]
        },
        |p: *const u32| {
            let b = _mm256_loadu_si256(p.cast());
            [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)), _mm256_srai_epi16::<8>(b)]
        },
        // Even and odd bytes are multiplied separately, as 16 bits: the instruction that multiplies bytes directly saturates.
        |acc, a: [__m256i; 2], b: [__m256i; 2]| _mm256_add_epi32(
            acc,
            _mm256_add_epi32(_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1]))
        ),
        |p: *mut u32, acc| _mm256_storeu_si256(p.cast(), acc)
    );

    /// Converts two bf16 in each 32 bits to f32: first the low ones, then the high ones.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn halves(pairs: __m256i) -> [__m256; 2] {
        let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(high)]
    }
}
