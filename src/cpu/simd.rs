//! Sums along vectors, sixteen vectors at once: a tree of shuffles that leaves each vector's sum in a lane of its own costs a
//! fifth of sixteen sums one after the other.

#[cfg(test)]
use std::sync::PoisonError;

use pulp::{Arch, Simd, WithSimd};

/// Vectors that are summed at once.
pub(crate) const VECTORS: usize = 16;

/// How the vectors of `S` are summed.
pub(crate) trait Sums<S: Simd>: Copy {
    /// The sum of each vector. All take the same path through the tree: a sum does not depend on its neighbours nor its place.
    fn sums(self, vectors: [S::f32s; VECTORS]) -> [f32; VECTORS];
}

/// Work for whatever vectors the machine has.
pub(crate) trait Vectorised {
    fn run<S: Simd>(self, simd: S, sums: impl Sums<S>);
}

/// The widest vectors of this machine; in tests, what [`each`] has chosen.
#[inline(always)]
pub(crate) fn widest() -> Arch {
    #[cfg(test)]
    if let Some(chosen) = *tests::CHOSEN.read().unwrap_or_else(PoisonError::into_inner) {
        return chosen;
    }
    Arch::new()
}

/// Runs `work` with the widest vectors of this machine.
pub(crate) fn vectorised(work: impl Vectorised) {
    on(Arch::new(), work);
}

/// Runs `work` with the vectors of `arch`.
pub(crate) fn on(arch: Arch, work: impl Vectorised) {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => Simd::vectorize(simd, Tree(simd, work)),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(simd) => Simd::vectorize(simd, Tree(simd, work)),
        arch => arch.dispatch(OneByOne(work)),
    }
}

/// Work on vectors that are summed one by one.
struct OneByOne<W>(W);

impl<W: Vectorised> WithSimd for OneByOne<W> {
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
        vectors.map(|vector| self.0.reduce_sum_f32s(vector))
    }
}

/// Work on vectors of an `S` that has its own way to sum them.
#[cfg(target_arch = "x86_64")]
struct Tree<S, W>(S, W);

#[cfg(target_arch = "x86_64")]
impl<S: Simd + Sums<S>, W: Vectorised> WithSimd for Tree<S, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<T: Simd>(self, _: T) {
        self.1.run(self.0, self.0);
    }
}

/// Trees by hand. Every step is a function of its own: a closure would not be inlined where the instructions are allowed.
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

    /// In each quarter its sum of each of four vectors.
    #[inline(always)]
    fn four(simd: V4, a: f32x16, b: f32x16, c: f32x16, d: f32x16) -> __m512 {
        let (ab, cd, avx) = (two(simd, a, b), two(simd, c, d), simd.avx512f);
        avx._mm512_add_ps(cast(avx._mm512_unpacklo_pd(ab, cd)), cast(avx._mm512_unpackhi_pd(ab, cd)))
    }

    /// Quarters added in pairs, those of `a` before those of `b`.
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

    /// In each half its sum of each of four vectors.
    #[inline(always)]
    fn four_halves(simd: V3, a: f32x8, b: f32x8, c: f32x8, d: f32x8) -> __m256 {
        let avx = simd.avx;
        avx._mm256_hadd_ps(avx._mm256_hadd_ps(cast(a), cast(b)), avx._mm256_hadd_ps(cast(c), cast(d)))
    }

    /// The two halves added, those of `a` before those of `b`.
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

    /// Does `work` with every kind of vectors that this machine has, on all threads; what bits it compares are of one kind.
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

    /// Every kind of vectors that this machine has.
    pub(crate) fn kinds() -> Vec<Arch> {
        #[cfg(target_arch = "x86_64")]
        let wide = [pulp::x86::V3::try_new().map(Arch::V3), pulp::x86::V4::try_new().map(Arch::V4)];
        #[cfg(not(target_arch = "x86_64"))]
        let wide = [Some(Arch::new())];
        wide.into_iter().flatten().chain([Arch::Scalar]).collect()
    }
}
