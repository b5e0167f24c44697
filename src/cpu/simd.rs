//! Chooses the vector width at run time, and sums along vectors, sixteen at once. A tree of shuffles that leaves each vector's sum
//! in its own lane costs a fifth of sixteen separate sums.

#[cfg(test)]
use std::sync::PoisonError;

use pulp::{Arch, Simd, WithSimd};

/// The number of vectors that are summed at once.
pub(crate) const VECTORS: usize = 16;

/// A way to sum along the vectors of `S`.
pub(crate) trait Sums<S: Simd>: Copy {
    /// The sum of each vector. All vectors take the same path through the tree, so a sum depends neither on the other vectors nor
    /// on its position.
    fn sums(self, vectors: [S::f32s; VECTORS]) -> [f32; VECTORS];
}

/// Work that runs with any width of vectors.
pub(crate) trait Vectorized {
    fn run<S: Simd>(self, simd: S, sums: impl Sums<S>);
}

/// The widest vectors of this machine, or in tests the ones that [`each`] has chosen.
#[inline(always)]
pub(crate) fn widest() -> Arch {
    #[cfg(test)]
    if let Some(chosen) = *tests::CHOSEN.read().unwrap_or_else(PoisonError::into_inner) {
        return chosen;
    }
    Arch::new()
}

/// Runs `work` with the widest vectors of this machine.
pub(crate) fn vectorized(work: impl Vectorized) {
    on(Arch::new(), work);
}

/// Runs `work` with the vectors of `arch`.
pub(crate) fn on(arch: Arch, work: impl Vectorized) {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => Simd::vectorize(simd, Tree(simd, work)),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(simd) => Simd::vectorize(simd, Tree(simd, work)),
        arch => arch.dispatch(OneByOne(work)),
    }
}

/// The values of `f` for 0 to `N - 1`, as `std::array::from_fn` gives them. `from_fn` calls `f` through helper functions, which the
/// compiler does not always inline. Then, in an innermost loop, each vector goes through memory, and so do all sums.
#[inline(always)]
pub(crate) fn array<T: Copy, const N: usize>(mut f: impl FnMut(usize) -> T) -> [T; N] {
    let mut all = [f(0); N];
    for (i, value) in all.iter_mut().enumerate().skip(1) {
        *value = f(i);
    }
    all
}

/// Runs work whose vectors are summed one by one.
struct OneByOne<W>(W);

impl<W: Vectorized> WithSimd for OneByOne<W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(simd, Each(simd));
    }
}

#[derive(Clone, Copy)]
struct Each<S>(S);

impl<S: Simd> Sums<S> for Each<S> {
    #[inline(always)]
    fn sums(self, vectors: [S::f32s; VECTORS]) -> [f32; VECTORS] {
        array(
            #[inline(always)]
            |i| self.0.reduce_sum_f32s(vectors[i]),
        )
    }
}

/// Runs work with vectors of an `S` that implements [`Sums`] itself.
#[cfg(target_arch = "x86_64")]
struct Tree<S, W>(S, W);

#[cfg(target_arch = "x86_64")]
impl<S: Simd + Sums<S>, W: Vectorized> WithSimd for Tree<S, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<T: Simd>(self, _: T) {
        self.1.run(self.0, self.0);
    }
}

/// Hand-written trees. Every step is a function rather than a closure, because a closure would not be inlined where the
/// instructions are enabled.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512, __m512d};

    use pulp::x86::{V3, V4};
    use pulp::{cast, f32x8, f32x16};

    use super::{Sums, VECTORS};

    impl Sums<V4> for V4 {
        #[inline(always)]
        fn sums(self, v: [f32x16; VECTORS]) -> [f32; VECTORS] {
            let (a, b) = (four(self, v[0], v[1], v[2], v[3]), four(self, v[4], v[5], v[6], v[7]));
            let (c, d) = (four(self, v[8], v[9], v[10], v[11]), four(self, v[12], v[13], v[14], v[15]));
            cast(quarters(self, quarters(self, a, b), quarters(self, c, d)))
        }
    }

    /// `(a0 + a2, b0 + b2, a1 + a3, b1 + b3)` in each quarter.
    #[inline(always)]
    fn two(simd: V4, a: f32x16, b: f32x16) -> __m512d {
        let (a, b, avx) = (cast(a), cast(b), simd.avx512f);
        cast(avx._mm512_add_ps(avx._mm512_unpacklo_ps(a, b), avx._mm512_unpackhi_ps(a, b)))
    }

    /// In each quarter, the quarter's sums of the four vectors.
    #[inline(always)]
    fn four(simd: V4, a: f32x16, b: f32x16, c: f32x16, d: f32x16) -> __m512 {
        let (ab, cd, avx) = (two(simd, a, b), two(simd, c, d), simd.avx512f);
        avx._mm512_add_ps(cast(avx._mm512_unpacklo_pd(ab, cd)), cast(avx._mm512_unpackhi_pd(ab, cd)))
    }

    /// Adds quarters in pairs: first those of `a`, then those of `b`.
    #[inline(always)]
    fn quarters(simd: V4, a: __m512, b: __m512) -> __m512 {
        let avx = simd.avx512f;
        let even = avx._mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
        avx._mm512_add_ps(even, avx._mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
    }

    impl Sums<V3> for V3 {
        #[inline(always)]
        fn sums(self, v: [f32x8; VECTORS]) -> [f32; VECTORS] {
            let (a, b) = (four_halves(self, v[0], v[1], v[2], v[3]), four_halves(self, v[4], v[5], v[6], v[7]));
            let (c, d) = (four_halves(self, v[8], v[9], v[10], v[11]), four_halves(self, v[12], v[13], v[14], v[15]));
            cast([halves(self, a, b), halves(self, c, d)])
        }
    }

    /// In each half, the half's sums of the four vectors.
    #[inline(always)]
    fn four_halves(simd: V3, a: f32x8, b: f32x8, c: f32x8, d: f32x8) -> __m256 {
        let avx = simd.avx;
        avx._mm256_hadd_ps(avx._mm256_hadd_ps(cast(a), cast(b)), avx._mm256_hadd_ps(cast(c), cast(d)))
    }

    /// Adds the two halves: first those of `a`, then those of `b`.
    #[inline(always)]
    fn halves(simd: V3, a: __m256, b: __m256) -> __m256 {
        let avx = simd.avx;
        avx._mm256_add_ps(avx._mm256_permute2f128_ps::<0x20>(a, b), avx._mm256_permute2f128_ps::<0x31>(a, b))
    }
}

#[cfg(test)]
pub(crate) use tests::{each, kinds};

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, RwLock};

    use super::*;

    pub(crate) static CHOSEN: RwLock<Option<Arch>> = RwLock::new(None);

    /// Runs `work` once for each width of vectors that this machine has, on all threads. One call runs at a time, so all results
    /// inside one run of `work` come from the same width.
    pub(crate) fn each(work: impl Fn()) {
        static ONE: Mutex<()> = Mutex::new(());
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                *CHOSEN.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let _restore = Restore;
        for kind in kinds() {
            *CHOSEN.write().unwrap_or_else(PoisonError::into_inner) = Some(kind);
            work();
        }
    }

    /// Every width of vectors that this machine has.
    pub(crate) fn kinds() -> Vec<Arch> {
        #[cfg(target_arch = "x86_64")]
        let wide = [pulp::x86::V3::try_new().map(Arch::V3), pulp::x86::V4::try_new().map(Arch::V4)];
        #[cfg(not(target_arch = "x86_64"))]
        let wide = [Some(Arch::new())];
        wide.into_iter().flatten().chain([Arch::Scalar]).collect()
    }
}
