//! The low-rank factors of one site.

use candle_core::Var;
use polyrank::params::Site;

/// The factors of one site.
pub struct Factors {
    /// The site.
    pub site: Site,
    /// `Wd [rank, in]`.
    pub a: Var,
    /// `Wu [out, rank]`.
    pub b: Var,
    /// The number of parameters of one rank: `in + out`.
    pub cost: usize,
}

impl Factors {
    /// The rank before pruning.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }
}
