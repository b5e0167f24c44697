//! Two terms that explain times.

/// `c0`, `c1` with the least sum of squares of `(c0 a + c1 b) / time - 1`; `None` where terms are proportional.
pub(crate) fn least_squares(points: impl Iterator<Item = ([f64; 2], f64)>) -> Option<[f64; 2]> {
    let (mut aa, mut ab, mut bb, mut a1, mut b1) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for ([a, b], time) in points {
        let (a, b) = (a / time, b / time);
        (aa, ab, bb, a1, b1) = (aa + a * a, ab + a * b, bb + b * b, a1 + a, b1 + b);
    }
    let determinant = aa * bb - ab * ab;
    (determinant > 0.0).then(|| [(a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant])
}
