//! The loops for x86-64's vectors.

use std::arch::x86_64::*;
use std::mem::transmute;

use raw_cpuid::CpuId;

use super::{Kernel, Run, Sums};
use crate::cpu::packed::activations::Form;
use crate::cpu::simd::array;
use crate::params::{COLUMNS, Precision};

/// Adds the loops that this machine can run, the fastest first.
pub(super) fn push(precision: Precision, all: &mut Vec<Kernel>) {
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let narrow = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let mut push = |has: bool, form: Form, runs: &'static [Run]| {
        if has {
            all.push(Kernel { rows: runs.len(), form, runs });
        }
    };
    match precision {
        Precision::F32 => {
            push(wide, Form::Groups, by_rows!(f32_512: 1 2 3 4 5 6 7 8 9 10));
            push(narrow, Form::Groups, by_rows!(f32_256: 1 2 3 4 5 6));
        }
        Precision::Bf16 => {
            let pairs = wide && is_x86_feature_detected!("avx512bf16");
            push(pairs && !is_intel(), Form::Groups, by_rows!(bf16_512: 1 2 3 4 5 6 7 8 9 10));
            push(wide, Form::Widened, by_rows!(bf16_widened_512: 1 2 3 4 5 6 7 8 9 10));
            push(pairs && is_intel(), Form::Groups, by_rows!(bf16_512: 1 2 3 4 5 6 7 8 9 10));
            push(narrow, Form::Groups, by_rows!(bf16_256: 1 2 3 4 5 6));
        }
        Precision::Int8 => {
            push(
                wide && is_x86_feature_detected!("avx512vnni"),
                Form::Groups,
                by_rows!(int8_512: 1 2 3 4 5 6 7 8 9 10),
            );
            push(narrow, Form::Groups, by_rows!(int8_256: 1 2 3 4 5 6));
        }
    }
}

/// Whether this is a processor of Intel's, which multiplies pairs of bf16 at a quarter of the rate of f32 vectors. AMD's does so at the
/// same rate.
fn is_intel() -> bool {
    CpuId::new().get_vendor_info().is_some_and(|vendor| vendor.as_str() == "GenuineIntel")
}

/// Writes a loop from the CPU features it needs, the form of x, its vector type, the number of words in a vector, the number of vectors
/// in a pass, and its operations. The columns that do not fit in one pass take another pass over the same rows.
macro_rules! tile {
    (
        $name:ident, $features:literal, $form:expr, [$vector:ty; $lanes:literal] x $vectors:literal, $zero:ident, $splat:expr,
        $load:expr, $add:expr, $store:expr
    ) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(
            x: *const u32,
            panel: *const u32,
            prefetch: usize,
            groups: usize,
            sums: &mut Sums,
        ) {
            const WORDS: usize = $form.words();
            let stride = WORDS * groups;
            for pass in (0..COLUMNS).step_by($lanes * $vectors) {
                let mut acc: [[$vector; $vectors]; R] = [[$zero(); $vectors]; R];
                // One pointer for every three rows: an address can add the stride once or twice.
                // SAFETY: the caller promises `x [R, stride]` and `panel [groups, COLUMNS]`; all that is read lies inside.
                unsafe {
                    let mut rows: [*const u32; 4] = array(|i| x.wrapping_add(3 * i * stride));
                    let mut columns = panel.add(pass);
                    for _ in 0..groups {
                        let b = [$load(columns), $load(columns.add($lanes))];
                        _mm_prefetch::<_MM_HINT_T1>(columns.wrapping_add(prefetch).cast());
                        _mm_prefetch::<_MM_HINT_T1>(columns.wrapping_add(prefetch + $lanes).cast());
                        for r in 0..R {
                            let a = $splat(rows[r / 3].wrapping_add(r % 3 * stride));
                            for v in 0..$vectors {
                                acc[r][v] = $add(acc[r][v], a, b[v]);
                            }
                        }
                        for row in &mut rows {
                            *row = row.wrapping_add(WORDS);
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
    f32_512, "avx512f,avx512bw", Form::Groups, [__m512; 16] x 2, _mm512_setzero_ps,
    |x: *const u32| _mm512_set1_ps(f32::from_bits(*x)),
    |p: *const u32| _mm512_loadu_ps(p.cast()),
    |acc, a, b| _mm512_fmadd_ps(a, b, acc),
    |p: *mut u32, acc| _mm512_storeu_ps(p.cast(), acc)
);
tile!(
    bf16_512, "avx512f,avx512bw,avx512bf16", Form::Groups, [__m512; 16] x 2, _mm512_setzero_ps,
    |x: *const u32| transmute::<__m512i, __m512bh>(_mm512_set1_epi32((*x).cast_signed())),
    |p: *const u32| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())),
    |acc, a, b| _mm512_dpbf16_ps(acc, a, b),
    |p: *mut u32, acc| _mm512_storeu_ps(p.cast(), acc)
);
tile!(
    bf16_widened_512, "avx512f,avx512bw", Form::Widened, [__m512; 16] x 2, _mm512_setzero_ps,
    |x: *const u32| [_mm512_set1_ps(f32::from_bits(*x)), _mm512_set1_ps(f32::from_bits(*x.wrapping_add(1)))],
    |p: *const u32| {
        let pairs = _mm512_loadu_si512(p.cast());
        let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(high)]
    },
    |acc, a: [__m512; 2], b: [__m512; 2]| _mm512_fmadd_ps(a[1], b[1], _mm512_fmadd_ps(a[0], b[0], acc)),
    |p: *mut u32, acc| _mm512_storeu_ps(p.cast(), acc)
);
tile!(
    int8_512, "avx512f,avx512bw,avx512vnni", Form::Groups, [__m512i; 16] x 2, _mm512_setzero_si512,
    |x: *const u32| _mm512_set1_epi32((*x).cast_signed()),
    |p: *const u32| _mm512_loadu_si512(p.cast()),
    |acc, a, b| _mm512_dpbusd_epi32(acc, a, b),
    |p: *mut u32, acc| _mm512_storeu_si512(p.cast(), acc)
);
tile!(
    f32_256, "avx2,fma", Form::Groups, [__m256; 8] x 2, _mm256_setzero_ps,
    |x: *const u32| _mm256_set1_ps(f32::from_bits(*x)),
    |p: *const u32| _mm256_loadu_ps(p.cast()),
    |acc, a, b| _mm256_fmadd_ps(a, b, acc),
    |p: *mut u32, acc| _mm256_storeu_ps(p.cast(), acc)
);
tile!(
    bf16_256, "avx2,fma", Form::Groups, [__m256; 8] x 2, _mm256_setzero_ps,
    |x: *const u32| halves(_mm256_set1_epi32((*x).cast_signed())),
    |p: *const u32| halves(_mm256_loadu_si256(p.cast())),
    |acc, a: [__m256; 2], b: [__m256; 2]| _mm256_fmadd_ps(a[1], b[1], _mm256_fmadd_ps(a[0], b[0], acc)),
    |p: *mut u32, acc| _mm256_storeu_ps(p.cast(), acc)
);
tile!(
    int8_256, "avx2,fma", Form::Groups, [__m256i; 8] x 2, _mm256_setzero_si256,
    |x: *const u32| {
        let a = _mm256_set1_epi32((*x).cast_signed());
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
