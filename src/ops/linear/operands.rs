//! What the GPU's forms of linears read: weights and biases in the types that kernels take, and the base's products.

use candle_core::{Result, Tensor, bail};

use super::Segment;
use super::finish::typed_bias;
use crate::cuda::{Factor, Matrix, Output, Place, address, gemm};
use crate::params::Param;

/// Whether a parameter is trained.
pub(super) fn tracked_parameter(param: &Param) -> bool {
    matches!(param, Param::Tensor(tensor) if tensor.track_op())
}

/// Checks that segments do not overlap and lie inside the batch.
pub(super) fn check(segments: &[Segment], tokens: usize) -> Result<()> {
    let mut next = 0;
    for Segment { rows, .. } in segments.iter().filter(|segment| !segment.rows.is_empty()) {
        if rows.start < next || rows.end > tokens {
            bail!("linear: rows {rows:?} overlap others or lie outside {tokens} tokens");
        }
        next = rows.end;
    }
    Ok(())
}

/// A linear's weight in the type of x, without its gradient.
///
/// # Errors
/// If it is not a matrix of x's width.
pub(super) fn typed_weight(x: &Tensor, weight: &Param) -> Result<Tensor> {
    let name = match weight {
        Param::Frozen(frozen) => frozen.name(),
        Param::Tensor(_) => "",
    };
    let weight = weight.tensor()?.detach().to_dtype(x.dtype())?.contiguous()?;
    match (weight.dims(), x.dims2()?.1) {
        (&[_, width], found) if width == found => Ok(weight),
        (&[_, width], found) => bail!("linear {name}: expected rows of {width}, found {found}"),
        (dims, _) => bail!("linear {name}: the weight is not a matrix: {dims:?}"),
    }
}

/// The bias in f32, or `None` where the architecture has none.
pub(super) fn bias_of(bias: &Param, out: usize) -> Result<Option<Tensor>> {
    match bias {
        Param::Frozen(frozen) if frozen.is_absent() => Ok(None),
        bias => typed_bias(&bias.tensor()?, out).map(Some),
    }
}

/// The product of x with one weight, or with several that lie one after the other in memory: then the outputs lie side by side.
pub(super) struct Product {
    pub(super) y: Output,
    /// The number of columns for each weight.
    pub(super) outs: Vec<usize>,
}

/// The address of each weight's part of the products, and the distance between rows.
pub(super) fn places(products: &[Product], x: &Tensor) -> Result<Vec<(u64, usize)>> {
    let mut places = Vec::new();
    for Product { y, outs } in products {
        let (stride, mut column) = (outs.iter().sum::<usize>(), 0);
        for out in outs {
            places.push((y.address() + (column * x.dtype().size_in_bytes()) as u64, stride));
            column += out;
        }
    }
    Ok(places)
}

/// Whether two contiguous tensors of one type lie one after the other in one storage. Storages may be neighbours by chance, and how a
/// product is computed must not depend on that.
pub(super) fn adjoin(first: &Tensor, second: &Tensor) -> Result<bool> {
    let storage = |tensor: &Tensor| std::ptr::from_ref(&*tensor.storage_and_layout().0);
    let end = address(first)? + (first.elem_count() * first.dtype().size_in_bytes()) as u64;
    Ok(storage(first) == storage(second) && end == address(second)?)
}

/// `x W^T` for weights `[out, in]` of x's type, with as few products as possible.
pub(super) fn products(x: &Tensor, weights: &[Tensor]) -> Result<Vec<Product>> {
    let joins = weights.windows(2).map(|pair| adjoin(&pair[0], &pair[1])).collect::<Result<Vec<_>>>()?;
    let indices: Vec<usize> = (0..weights.len()).collect();
    let runs = indices.chunk_by(|first, _| joins[*first]);
    runs.map(|run| {
        let outs = run.iter().map(|i| weights[*i].dim(0)).collect::<Result<Vec<_>>>()?;
        Ok(Product { y: product(x, &weights[run[0]], outs.iter().sum())?, outs })
    })
    .collect()
}

/// `x W^T` for a weight `[out, in]` of x's type. There must be elements for all of `out` at the weight's address.
pub(super) fn product(x: &Tensor, weight: &Tensor, out: usize) -> Result<Output> {
    let (rows, width) = x.dims2()?;
    let y = Output::new((rows, out), x.dtype(), x.device())?;
    let weight = Factor::at(address(weight)?, [out, width], width, x.dtype());
    let target = Factor::at(y.address(), [rows, out], out, x.dtype());
    // SAFETY: x and `y` are matrices of these shapes, and the caller has found that the weight is.
    unsafe { gemm(&Place::of(x.device())?, 1.0, Matrix::of("linear", x)?.into(), weight.t(), 0.0, target)? };
    Ok(y)
}
