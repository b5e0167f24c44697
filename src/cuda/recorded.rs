//! The gradient of what kernels have computed.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::Output;

/// The gradients of `inputs`, from the inputs, the output `y` and its gradient `dy`; `None` where an input needs none.
type Backward<const N: usize> =
    Box<dyn Fn([&Tensor; N], &Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync>;

/// `output` as a tensor. If one of `inputs` is tracked, candle records that the output came from them, with `backward` as its gradient.
///
/// # Safety
/// Kernels that write every element of the output must have been launched.
pub(crate) unsafe fn recorded<const N: usize>(
    name: &'static str,
    inputs: [&Tensor; N],
    output: Output,
    backward: impl Fn([&Tensor; N], &Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !inputs.iter().any(|input| input.track_op()) {
        // SAFETY: the caller promises that kernels which write every element have been launched.
        return Ok(unsafe { output.tensor() });
    }
    // SAFETY: the caller promises that kernels which write every element have been launched.
    let output = unsafe { output.into_parts()? };
    let op = Recorded::<N> { name, output: Mutex::new(Some(output)), backward: Box::new(backward) };
    match inputs[..] {
        [a] => a.apply_op1(One(op.narrowed()?)),
        [a, b] => a.apply_op2(b, Two(op.narrowed()?)),
        [a, b, c] => a.apply_op3(b, c, Three(op.narrowed()?)),
        _ => bail!("{name}: a gradient of {N} inputs"),
    }
}

/// An operation whose result is known.
struct Recorded<const N: usize> {
    name: &'static str,
    output: Mutex<Option<(Storage, Shape)>>,
    backward: Backward<N>,
}

impl<const N: usize> Recorded<N> {
    /// The same with another constant, which must be equal to `N`.
    fn narrowed<const M: usize>(self) -> Result<Recorded<M>> {
        let backward = self.backward;
        let name = self.name;
        let same = move |inputs: [&Tensor; M], y: &Tensor, dy: &Tensor| -> Result<[Option<Tensor>; M]> {
            let Ok(inputs) = <[&Tensor; N]>::try_from(&inputs[..]) else { bail!("{name}: {M} inputs") };
            match <[Option<Tensor>; M]>::try_from(Vec::from(backward(inputs, y, dy)?)) {
                Ok(gradients) => Ok(gradients),
                Err(found) => bail!("{name}: {} gradients", found.len()),
            }
        };
        Ok(Recorded { name, output: self.output, backward: Box::new(same) })
    }

    fn take(&self) -> Result<(Storage, Shape)> {
        match self.output.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(output) => Ok(output),
            None => bail!("{}: the output was taken twice", self.name),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            (other, _) => bail!("{}: the output is on {:?}", self.name, other.device()),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            (other, _) => bail!("{}: the output is on {:?}", self.name, other.device()),
        }
    }
}

struct One(Recorded<1>);
struct Two(Recorded<2>);
struct Three(Recorded<3>);

impl CustomOp1 for One {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.cuda()
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [da] = (self.0.backward)([a], y, dy)?;
        Ok(da)
    }
}

impl CustomOp2 for Two {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.cuda()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = (self.0.backward)([a, b], y, dy)?;
        Ok((da, db))
    }
}

impl CustomOp3 for Three {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.0.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.0.cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = (self.0.backward)([a, b, c], y, dy)?;
        Ok((da, db, dc))
    }
}
