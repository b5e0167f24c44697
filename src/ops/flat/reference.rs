//! The reference: candle's operations, one tensor at a time.

use candle_core::{DType, Result, Shape, Tensor, Var, bail};

use super::{starts_of_shapes, starts_of_vars};

pub(in crate::ops) fn join_reference(tensors: &[&Tensor]) -> Result<Tensor> {
    let vector = |tensor: &&Tensor| tensor.detach().to_dtype(DType::F32)?.flatten_all();
    match &tensors.iter().map(vector).collect::<Result<Vec<_>>>()?[..] {
        [] => bail!("join: no tensors"),
        [vector] => vector.copy(),
        vectors => Tensor::cat(vectors, 0),
    }
}

pub(in crate::ops) fn split_reference(vector: &Tensor, shapes: &[Shape], dtype: DType) -> Result<Vec<Var>> {
    let starts = starts_of_shapes(vector.elem_count(), shapes)?;
    let part = |(shape, start): (&Shape, usize)| {
        let part = vector.narrow(0, start, shape.elem_count())?.reshape(shape)?;
        Var::from_tensor(&part.detach().to_dtype(dtype)?)
    };
    shapes.iter().zip(starts).map(part).collect()
}

pub(in crate::ops) fn assign_reference(vector: &Tensor, vars: &[&Var]) -> Result<()> {
    let starts = starts_of_vars(vector.elem_count(), vars)?;
    for (var, start) in vars.iter().zip(starts) {
        let part = vector.narrow(0, start, var.elem_count())?.reshape(var.shape())?;
        var.set(&part.to_dtype(var.dtype())?)?;
    }
    Ok(())
}
