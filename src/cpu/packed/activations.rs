//! Converts activations `x [T, in]` to groups of 32 bits, row by row.

use std::borrow::Cow;

use crate::cpu::math;
use crate::params::Precision;

/// How activations are stored for a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A word for each group: the bits of one f32, two bf16, or four u8, each of which is the rounded value + 128.
    Groups,
    /// Two words for each group of bf16: the bits of two f32 that were rounded to bf16.
    Widened,
}

impl Form {
    /// The number of words for each group.
    pub(super) const fn words(self) -> usize {
        match self {
            Self::Groups => 1,
            Self::Widened => 2,
        }
    }
}

/// Rows of `x` in the form that a tile reads.
pub(super) struct Activations<'a> {
    /// `[rows, groups]`, or `[rows, 2 groups]` for [`Form::Widened`].
    pub(super) words: Cow<'a, [u32]>,
    pub(super) form: Form,
    /// The scale of each row's integers; empty except for int8.
    pub(super) scales: Vec<f32>,
}

impl<'a> Activations<'a> {
    pub(super) fn new(x: &'a [f32], width: usize, precision: Precision, form: Form) -> Self {
        let (words, scales) = match (precision, form) {
            (Precision::F32, _) => (Cow::Borrowed(bytemuck::cast_slice(x)), Vec::new()),
            (Precision::Bf16, Form::Groups) => (Cow::Owned(to_bf16(x, width)), Vec::new()),
            (Precision::Bf16, Form::Widened) => (Cow::Owned(to_widened(x, width)), Vec::new()),
            (Precision::Int8, _) => {
                let (words, scales) = to_int8(x, width);
                (Cow::Owned(words), scales)
            }
        };
        Self { words, form, scales }
    }
}

/// The bits of the nearest bf16, with ties to even. NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

fn to_bf16(x: &[f32], width: usize) -> Vec<u32> {
    let groups = width.div_ceil(2);
    let mut words = vec![0; x.len() / width.max(1) * groups];
    math::vectorized(
        #[inline(always)]
        || {
            for (words, x) in words.chunks_exact_mut(groups.max(1)).zip(x.chunks_exact(width.max(1))) {
                let (pairs, last) = x.as_chunks::<2>();
                for (word, [low, high]) in words.iter_mut().zip(pairs) {
                    *word = bf16_bits(*low) | bf16_bits(*high) << 16;
                }
                if let (Some(word), [x]) = (words.last_mut(), last) {
                    *word = bf16_bits(*x);
                }
            }
        },
    );
    words
}

/// Each element rounded to bf16, as the bits of an f32. A row of odd width ends with a zero, so that its groups are whole.
fn to_widened(x: &[f32], width: usize) -> Vec<u32> {
    let padded = width.next_multiple_of(2);
    let mut words = vec![0; x.len() / width.max(1) * padded];
    math::vectorized(
        #[inline(always)]
        || {
            for (words, x) in words.chunks_exact_mut(padded.max(1)).zip(x.chunks_exact(width.max(1))) {
                words.iter_mut().zip(x).for_each(|(word, x)| *word = bf16_bits(*x) << 16);
            }
        },
    );
    words
}

/// Scales each row by a factor of its own, so that its largest element becomes 127 or -127, and rounds.
fn to_int8(x: &[f32], width: usize) -> (Vec<u32>, Vec<f32>) {
    let groups = width.div_ceil(4);
    let rows = x.len() / width.max(1);
    // A byte of 128 stands for zero. The padding of a row is multiplied by weights of zero.
    let (mut words, mut scales) = (vec![0x8080_8080; rows * groups], vec![0.0; rows]);
    math::vectorized(
        #[inline(always)]
        || {
            let rows = words.chunks_exact_mut(groups.max(1)).zip(&mut scales).zip(x.chunks_exact(width.max(1)));
            for ((words, scale), x) in rows {
                *scale = largest(x) / 127.0;
                let inverse = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
                let (fours, rest) = x.as_chunks::<4>();
                for (word, four) in words.iter_mut().zip(fours) {
                    let [a, b, c, d] = *four;
                    *word =
                        byte(a * inverse) | byte(b * inverse) << 8 | byte(c * inverse) << 16 | byte(d * inverse) << 24;
                }
                if let (Some(word), false) = (words.last_mut(), rest.is_empty()) {
                    *word = 0x8080_8080;
                    for (i, &x) in rest.iter().enumerate() {
                        *word = *word & !(0xff << (8 * i)) | byte(x * inverse) << (8 * i);
                    }
                }
            }
        },
    );
    (words, scales)
}

/// The largest magnitude in `x`, or NaN if `x` contains a NaN, so that NaN propagates through the scale.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut most = [0u32; 32];
    let (blocks, rest) = x.as_chunks::<32>();
    for block in blocks {
        for (most, x) in most.iter_mut().zip(block) {
            *most = magnitude(x).max(*most);
        }
    }
    f32::from_bits(rest.iter().map(magnitude).chain(most).max().unwrap_or(0))
}

/// The bits of |x|. They order as the magnitudes do, with NaN above all others.
#[inline(always)]
fn magnitude(x: &f32) -> u32 {
    x.abs().to_bits()
}

/// `x`, which lies in -127 to 127, rounded to the nearest integer, + 128.
#[inline(always)]
fn byte(x: f32) -> u32 {
    /// 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (x + (ROUND + 128.0)).to_bits() & 0xff
}
