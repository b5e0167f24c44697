//! `exp` and `erf` of f32 without branches or calls, so that the compiler vectorizes loops over them.

use pulp::{Scalar, Simd};

use super::simd;

/// Runs `loops`, compiled for the widest vectors of this machine (AVX-512, AVX2 or the target's default), which are chosen at run
/// time. Every function that `loops` calls must be inlined into it.
#[inline(always)]
pub(crate) fn vectorized<R>(loops: impl FnOnce() -> R) -> R {
    simd::widest().dispatch(loops)
}

/// `e^x`, within 2 ulp for x in [-87, 88]. Other x are clamped to that range (Cephes' `expf`).
#[inline(always)]
pub(crate) fn exps<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    // Clamped by comparisons, which are false for NaN and so keep it. Whether a minimum instruction keeps a NaN differs between
    // machines.
    let (least, most) = (simd.splat_f32s(-87.0), simd.splat_f32s(88.0));
    let x = simd.select_f32s(simd.less_than_f32s(x, least), least, x);
    let x = simd.select_f32s(simd.less_than_f32s(most, x), most, x);
    let rounded = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(ROUND));
    let n = simd.sub_f32s(rounded, simd.splat_f32s(ROUND));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(2.121_944_4e-4), r);
    const TERMS: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let p = polynomial(simd, r, TERMS);
    let sum = simd.add_f32s(simd.mul_add_e_f32s(simd.mul_f32s(p, r), r, r), simd.splat_f32s(1.0));
    // The low bits of `rounded` hold n; shifted left by 23 bits, they become a float's exponent.
    let shifted = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(shifted, simd.splat_u32s(127 << 23)));
    simd.mul_f32s(sum, power)
}

/// The error function, within 5e-7 (a rational approximation in x^2 on [-4, 4], as in Eigen). Beyond that, it has its value at the end,
/// `1 - 1.2e-7`.
#[inline(always)]
pub(crate) fn erfs<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ABOVE: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const BELOW: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = simd.min_f32s(simd.splat_f32s(4.0), simd.max_f32s(simd.splat_f32s(-4.0), x));
    let s = simd.mul_f32s(x, x);
    simd.div_f32s(simd.mul_f32s(x, polynomial(simd, s, ABOVE)), polynomial(simd, s, BELOW))
}

/// A polynomial in `x`, with the coefficient of its highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, terms: [f32; N]) -> S::f32s {
    let mut p = simd.splat_f32s(terms[0]);
    for term in &terms[1..] {
        p = simd.mul_add_e_f32s(p, x, simd.splat_f32s(*term));
    }
    p
}

/// [`exps`] for one number.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    exps(Scalar, x)
}

/// [`erfs`] for one number.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    erfs(Scalar, x)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::cpu::erf::erf_f64;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(super::exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}): relative error {error}");
        }
        assert!(super::exp(-1e30) > 0.0 && super::exp(-1e30) < 1e-37);
        assert!(super::exp(1e30) > 1e38 && super::exp(1e30).is_finite() && super::exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_5e7() {
        for i in -600_000..=600_000 {
            let x = i as f32 * 1e-5;
            let error = (f64::from(super::erf(x)) - erf_f64(f64::from(x))).abs();
            assert!(error < 5e-7, "erf({x}): error {error}");
        }
    }
}
