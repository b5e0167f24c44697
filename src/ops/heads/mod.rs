//! Linears of many heads in one call: each has its own weight and reads rows of its own. Their results may differ in width.

mod cuda;

use candle_core::{DType, Result, Tensor, bail};

pub(super) use cuda::cuda;

use super::{Added, Linear, Ops};
use crate::params::Param;

/// A linear of one head: `x[rows] W^T + b`, all f32.
#[derive(Debug, Clone)]
pub struct HeadLinear<'a> {
    /// The rows of `x` that it reads.
    pub rows: &'a [u32],
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Param,
}

impl HeadLinear<'_> {
    /// The width of the result.
    fn out(&self) -> Result<usize> {
        match &self.weight {
            Param::Frozen(frozen) => frozen.shape().first().copied(),
            Param::Tensor(tensor) => tensor.dims().first().copied(),
        }
        .map_or_else(|| bail!("head: a weight without dimensions"), Ok)
    }

    /// The result `[rows, out]` of each of the linears, as parts of what [`Ops::head_linears`] returned.
    ///
    /// # Errors
    /// If `flat` is not the result for `linears`.
    pub fn split(flat: &Tensor, linears: &[Self]) -> Result<Vec<Tensor>> {
        let mut start = 0;
        let part = |linear: &Self| {
            let (rows, out) = (linear.rows.len(), linear.out()?);
            start += rows * out;
            flat.narrow(0, start - rows * out, rows * out)?.reshape((rows, out))
        };
        linears.iter().map(part).collect()
    }
}

/// One linear after the other, by the other operations of `ops`.
pub(super) fn each<O: Ops + ?Sized>(ops: &O, x: &Tensor, linears: &[HeadLinear]) -> Result<Tensor> {
    let run = |HeadLinear { rows, weight, bias }: &HeadLinear| {
        let linear = Linear { weight: weight.clone(), bias: bias.clone(), added: Added::Nothing, gelu: false };
        match ops.linears(&select(ops, x, rows)?, &[linear])?.pop() {
            Some(y) => y.flatten_all(),
            None => bail!("head: no result for {} rows", rows.len()),
        }
    };
    let results = linears.iter().filter(|linear| !linear.rows.is_empty()).map(run).collect::<Result<Vec<_>>>()?;
    if results.is_empty() { Tensor::zeros(0, DType::F32, x.device()) } else { Tensor::cat(&results, 0) }
}

/// The rows `rows` of `x`. Neighbouring rows are not copied.
fn select<O: Ops + ?Sized>(ops: &O, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    match rows {
        [first, ..] if rows.iter().zip(*first..).all(|(&row, expected)| row == expected) => {
            x.narrow(0, *first as usize, rows.len())
        }
        _ => ops.gather(x, rows),
    }
}
