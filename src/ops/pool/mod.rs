//! The mean of each text's rows.

mod cuda;
mod reference;

use candle_core::{Result, Tensor, bail};

pub(super) use cuda::cuda;
pub(super) use reference::reference;

/// Checks that the texts at `offsets` consist of the rows of `x`.
fn check(x: &Tensor, offsets: &[usize]) -> Result<()> {
    let (rows, _) = x.dims2()?;
    if offsets.is_empty() || !offsets.is_sorted() || offsets.last().is_some_and(|&end| end > rows) {
        bail!("mean: offsets {offsets:?} do not lie in {rows} rows");
    }
    Ok(())
}
