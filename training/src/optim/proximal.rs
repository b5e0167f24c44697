//! The proximal map of the L1 norm (SoRA, eq. 10 and 11).

/// `T_xi(x)`: `x - xi` above `xi`, 0 from `-xi` to `xi`, `x + xi` below `-xi`.
///
/// The authors' code subtracts first and then drops whatever is below `xi`, so that |x| in (xi, 2 xi) dies too; here 0.15 at
/// xi = 0.1 is 0.05.
#[must_use]
pub fn soft_threshold(x: f32, xi: f32) -> f32 {
    if x > xi {
        x - xi
    } else if x < -xi {
        x + xi
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::soft_threshold;

    #[test]
    fn shrinks_by_xi_and_no_more() {
        for (x, xi, expected) in
            [(0.15, 0.1, 0.05), (-0.15, 0.1, -0.05), (0.05, 0.1, 0.0), (-0.1, 0.1, 0.0), (2.0, 0.0, 2.0)]
        {
            assert!((soft_threshold(x, xi) - expected).abs() < 1e-7, "T_{xi}({x})");
        }
        assert_eq!(soft_threshold(0.1, 0.1).to_bits(), 0);
    }
}
