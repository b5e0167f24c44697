//! Packs a weight `[out, in]` into panels of words.

use half::bf16;

use super::activations::largest;
use crate::params::{COLUMNS, Precision};

/// The words of `w [out, width]`: panels of `[groups, COLUMNS]`, with zeros in the columns and groups beyond `w`. For int8 two
/// sections follow: the scale of each column, as bits, and 128 times the sum of each column's integers.
pub(super) fn pack(w: &[f32], out: usize, width: usize, precision: Precision) -> Vec<u32> {
    let per_group = precision.per_group();
    let groups = width.div_ceil(per_group);
    let columns = out.next_multiple_of(COLUMNS);
    let (mut words, mut scales, mut sums) = (vec![0; columns * groups], Vec::new(), Vec::new());
    if precision == Precision::Int8 {
        (scales, sums) = (vec![0; columns], vec![0; columns]);
    }
    for (column, row) in w.chunks_exact(width.max(1)).enumerate() {
        let start = column / COLUMNS * COLUMNS * groups + column % COLUMNS;
        let words = words[start..].iter_mut().step_by(COLUMNS);
        let elements = row.chunks(per_group);
        match precision {
            Precision::F32 => words.zip(row).for_each(|(word, x)| *word = x.to_bits()),
            Precision::Bf16 => words.zip(elements).for_each(|(word, pair)| *word = bf16_pair(pair)),
            Precision::Int8 => {
                let scale = largest(row) / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                let mut sum = 0;
                for (word, four) in words.zip(elements) {
                    let mut bytes = [0i8; 4];
                    for (byte, x) in bytes.iter_mut().zip(four) {
                        *byte = (x * inverse).round_ties_even() as i8;
                        sum += i32::from(*byte);
                    }
                    *word = u32::from_le_bytes(bytes.map(i8::cast_unsigned));
                }
                scales[column] = scale.to_bits();
                sums[column] = (128 * sum).cast_unsigned();
            }
        }
    }
    words.append(&mut scales);
    words.append(&mut sums);
    words
}

/// One or two elements as bf16, with the first in the low half.
fn bf16_pair(pair: &[f32]) -> u32 {
    let bits = |i: usize| u32::from(pair.get(i).map_or(0, |&x| bf16::from_f32(x).to_bits()));
    bits(0) | bits(1) << 16
}
