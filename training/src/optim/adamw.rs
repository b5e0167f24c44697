//! AdamW (Loshchilov and Hutter 2019), as `torch.optim.AdamW`.

/// Its settings for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl AdamW {
    /// PyTorch's defaults at a learning rate and a weight decay.
    #[must_use]
    pub fn new(rate: f64, weight_decay: f64) -> Self {
        Self { rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay }
    }
}

/// The state of one parameter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moments {
    /// Mean of gradients, of the parameter's length; empty before the first step.
    pub first: Vec<f32>,
    /// Mean of their squares.
    pub second: Vec<f32>,
    /// Steps that they hold.
    pub steps: usize,
    /// Of adaptive gates: the moving average of `|g dL/dg|`; empty for all others.
    pub saliency: Vec<f32>,
}

impl AdamW {
    /// One step on `parameter`.
    pub fn step(&self, parameter: &mut [f32], gradient: &[f32], moments: &mut Moments) {
        moments.first.resize(parameter.len(), 0.0);
        moments.second.resize(parameter.len(), 0.0);
        moments.steps += 1;
        let exponent = i32::try_from(moments.steps).unwrap_or(i32::MAX);
        let (correct1, correct2) = (1.0 - self.beta1.powi(exponent), (1.0 - self.beta2.powi(exponent)).sqrt());
        let size = self.rate / correct1;
        let state = moments.first.iter_mut().zip(&mut moments.second);
        for ((p, g), (m, v)) in parameter.iter_mut().zip(gradient).zip(state) {
            let (g, keep) = (f64::from(*g), 1.0 - self.rate * self.weight_decay);
            let first = self.beta1 * f64::from(*m) + (1.0 - self.beta1) * g;
            let second = self.beta2 * f64::from(*v) + (1.0 - self.beta2) * g * g;
            (*m, *v) = (first as f32, second as f32);
            *p = (f64::from(*p) * keep - size * first / (second.sqrt() / correct2 + self.eps)) as f32;
        }
    }
}
