//! Transposes a few columns of a matrix.

/// The part of a matrix to transpose: the first `size` elements of each of `len` rows, which begin `row` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Submatrix {
    pub(crate) len: usize,
    pub(crate) size: usize,
    pub(crate) row: usize,
}

/// Writes the transpose of that part of `rows` to the first `len` columns of `transposed [size, width]`.
///
/// # Panics
/// If a slice is too short: a caller's bug.
pub(crate) fn transpose(transposed: &mut [f32], width: usize, rows: &[f32], part: Submatrix) {
    let Submatrix { len, size, row } = part;
    if len == 0 || size == 0 {
        return;
    }
    assert!(len <= width && size <= row && size * width <= transposed.len(), "transpose: target too short");
    assert!((len - 1) * row + size <= rows.len(), "transpose: rows too short");
    #[cfg(target_arch = "x86_64")]
    if len >= SIDE && size >= SIDE && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2, and the assertions above promise the elements that the function asks for.
        unsafe { in_squares(transposed, width, rows, part) };
        return;
    }
    one_by_one(transposed, width, rows, part);
}

fn one_by_one(transposed: &mut [f32], width: usize, rows: &[f32], Submatrix { len, size, row }: Submatrix) {
    for (j, values) in rows.chunks(row).take(len).enumerate() {
        for (transposed, &value) in transposed.chunks_exact_mut(width).zip(&values[..size]) {
            transposed[j] = value;
        }
    }
}

/// The side of the squares that are transposed in registers.
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 8;

/// Transposes square by square. If a side is not a multiple of a square's, its last square overlaps the one before.
///
/// # Safety
/// `size` and `len` must be at least [`SIDE`], `transposed` must hold `size` rows of `width >= len`, and `rows` must hold `len`
/// rows of `size` elements.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn in_squares(transposed: &mut [f32], width: usize, rows: &[f32], Submatrix { len, size, row }: Submatrix) {
    for j in (0..len).step_by(SIDE) {
        let j = j.min(len - SIDE);
        for d in (0..size).step_by(SIDE) {
            let d = d.min(size - SIDE);
            // SAFETY: the square's rows `j..j + SIDE` are among the `len`, its columns `d..d + SIDE` among the `size`.
            unsafe { square(transposed.as_mut_ptr().add(d * width + j), width, rows.as_ptr().add(j * row + d), row) };
        }
    }
}

/// Transposes one square.
///
/// # Safety
/// Eight rows of eight floats must be readable at `from`, `row` apart, and writable at `to`, `width` apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn square(to: *mut f32, width: usize, from: *const f32, row: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller promises that the eight rows are readable.
    let a: [__m256; SIDE] = unsafe {
        [
            _mm256_loadu_ps(from),
            _mm256_loadu_ps(from.add(row)),
            _mm256_loadu_ps(from.add(2 * row)),
            _mm256_loadu_ps(from.add(3 * row)),
            _mm256_loadu_ps(from.add(4 * row)),
            _mm256_loadu_ps(from.add(5 * row)),
            _mm256_loadu_ps(from.add(6 * row)),
            _mm256_loadu_ps(from.add(7 * row)),
        ]
    };
    // First pairs of rows are interleaved, then fours, then the halves of eight.
    let (b0, b1) = (_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]));
    let (b2, b3) = (_mm256_unpacklo_ps(a[2], a[3]), _mm256_unpackhi_ps(a[2], a[3]));
    let (b4, b5) = (_mm256_unpacklo_ps(a[4], a[5]), _mm256_unpackhi_ps(a[4], a[5]));
    let (b6, b7) = (_mm256_unpacklo_ps(a[6], a[7]), _mm256_unpackhi_ps(a[6], a[7]));
    let (c0, c1) = (_mm256_shuffle_ps::<0x44>(b0, b2), _mm256_shuffle_ps::<0xee>(b0, b2));
    let (c2, c3) = (_mm256_shuffle_ps::<0x44>(b1, b3), _mm256_shuffle_ps::<0xee>(b1, b3));
    let (c4, c5) = (_mm256_shuffle_ps::<0x44>(b4, b6), _mm256_shuffle_ps::<0xee>(b4, b6));
    let (c6, c7) = (_mm256_shuffle_ps::<0x44>(b5, b7), _mm256_shuffle_ps::<0xee>(b5, b7));
    let low = [(c0, c4), (c1, c5), (c2, c6), (c3, c7)];
    for (d, (a, b)) in low.into_iter().enumerate() {
        // SAFETY: the caller promises that the eight rows are writable; rows d and d + 4 are among them.
        unsafe {
            _mm256_storeu_ps(to.add(d * width), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add((d + 4) * width), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_any_size() {
        for (len, size, row) in
            [(1, 1, 1), (3, 9, 12), (8, 8, 8), (23, 32, 384), (24, 17, 40), (300, 80, 80), (9, 1, 2)]
        {
            let rows: Vec<f32> = (0..len * row).map(|i| i as f32).collect();
            let width = len + 3;
            let mut transposed = vec![-1.0; size * width];
            transpose(&mut transposed, width, &rows, Submatrix { len, size, row });
            for (at, &value) in transposed.iter().enumerate() {
                let (d, j) = (at / width, at % width);
                assert_eq!(value, if j < len { (j * row + d) as f32 } else { -1.0 }, "({d}, {j}) of {len} x {size}");
            }
        }
    }
}
