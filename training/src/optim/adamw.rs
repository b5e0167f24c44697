//! AdamW (Loshchilov and Hutter 2019), as `torch.optim.AdamW`.

use candle_core::{DType, Device, Result, Tensor};

use super::host;

/// AdamW's settings for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub rate: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Term added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Adam's state for one parameter.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Moving average of the gradients, f32, in the parameter's shape.
    pub first: Tensor,
    /// Moving average of the gradients' squares.
    pub second: Tensor,
    /// The number of steps in these averages.
    pub steps: usize,
}

impl Moments {
    /// The state of `parameter` before its first step.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn zeros(parameter: &Tensor) -> Result<Self> {
        let zeros = || Tensor::zeros(parameter.shape(), DType::F32, parameter.device());
        Ok(Self { first: zeros()?, second: zeros()?, steps: 0 })
    }
}

impl AdamW {
    /// PyTorch's defaults, with this learning rate and weight decay.
    #[must_use]
    pub fn new(rate: f64, weight_decay: f64) -> Self {
        Self { rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay }
    }

    fn check(&self, parameter: &Tensor, gradient: &Tensor) -> Result<()> {
        if parameter.shape() != gradient.shape() {
            let (parameter, gradient) = (parameter.dims(), gradient.dims());
            candle_core::bail!(
                "AdamW: the parameter has the shape {parameter:?}, but its gradient has the shape {gradient:?}"
            );
        }
        Ok(())
    }

    /// The step's size and the root's divisor in the `steps`-th step, which correct for the moments' start at zero.
    fn corrected(&self, steps: usize) -> (f64, f64) {
        let exponent = i32::try_from(steps).unwrap_or(i32::MAX);
        (self.rate / (1.0 - self.beta1.powi(exponent)), (1.0 - self.beta2.powi(exponent)).sqrt())
    }

    /// The parameter and its state after one step, with candle's own operations in f32, on any device. All tensors are f32 and have
    /// the parameter's shape.
    ///
    /// # Errors
    /// The tensors have different shapes, or a tensor operation fails.
    pub fn on_device(&self, parameter: &Tensor, gradient: &Tensor, moments: &Moments) -> Result<(Tensor, Moments)> {
        self.check(parameter, gradient)?;
        let steps = moments.steps + 1;
        let (size, correct2) = self.corrected(steps);
        let first = ((&moments.first * self.beta1)? + (gradient * (1.0 - self.beta1))?)?;
        let second = ((&moments.second * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let change = ((&first * size)? / second.sqrt()?.affine(1.0 / correct2, self.eps)?)?;
        let after = ((parameter * (1.0 - self.rate * self.weight_decay))? - change)?;
        Ok((after, Moments { first, second, steps }))
    }

    /// The same in a single loop over host memory, in f64.
    ///
    /// # Errors
    /// The tensors have different shapes, or are not f32 in host memory.
    pub fn on_host(&self, parameter: &Tensor, gradient: &Tensor, moments: &Moments) -> Result<(Tensor, Moments)> {
        self.check(parameter, gradient)?;
        let (steps, keep) = (moments.steps + 1, 1.0 - self.rate * self.weight_decay);
        let (size, correct2) = self.corrected(steps);
        let gradient = gradient.contiguous()?;
        let tensors = [parameter, &gradient, &moments.first, &moments.second].map(Tensor::storage_and_layout);
        let [p, g, m, v] = tensors.each_ref().map(|(storage, layout)| host::elements(storage, layout));
        let (p, g, m, v) = (p?, g?, m?, v?);
        let mut after = [(); 3].map(|()| Vec::with_capacity(p.len()));
        for (((p, g), m), v) in p.iter().zip(g).zip(m).zip(v) {
            let [p, g, m, v] = [*p, *g, *m, *v].map(f64::from);
            let first = self.beta1 * m + (1.0 - self.beta1) * g;
            let second = self.beta2 * v + (1.0 - self.beta2) * g * g;
            after[0].push((p * keep - size * first / (second.sqrt() / correct2 + self.eps)) as f32);
            after[1].push(first as f32);
            after[2].push(second as f32);
        }
        let [p, first, second] = after.map(|values| Tensor::from_vec(values, parameter.shape(), &Device::Cpu));
        Ok((p?, Moments { first: first?, second: second?, steps }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn both_forms_make_the_same_step() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = || {
            let values: Vec<f32> = (0..35).map(|_| rng.random_range(-1.0..1.0)).collect();
            Tensor::from_vec(values, (5, 7), &Device::Cpu).unwrap()
        };
        let adam = AdamW::new(0.01, 0.1);
        let start = draw();
        let (mut fast, mut slow) = [start.clone(), start].map(|p| (p.clone(), Moments::zeros(&p).unwrap())).into();
        for _ in 0..5 {
            // A gradient need not be contiguous.
            let gradient = draw().reshape((7, 5)).unwrap().t().unwrap();
            fast = adam.on_host(&fast.0, &gradient, &fast.1).unwrap();
            slow = adam.on_device(&slow.0, &gradient, &slow.1).unwrap();
            for (fast, slow) in [(&fast.0, &slow.0), (&fast.1.first, &slow.1.first), (&fast.1.second, &slow.1.second)] {
                let worst = (fast - slow).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(worst <= 3e-7, "off by {worst}");
            }
        }
        assert_eq!((fast.1.steps, slow.1.steps), (5, 5));
    }
}
