//! Optimiser steps as pure functions of parameter, gradient and state; gates that have settled are folded away.

mod adamw;
mod adaptive;
mod fold;
mod proximal;
mod schedule;
mod step;

pub use adamw::{AdamW, Moments};
pub use proximal::soft_threshold;
pub use schedule::linear_rate;
pub use step::{Optimizer, StepRule, Threshold};

/// Scales `gradients` to a global norm of at most `limit`, as `torch.nn.utils.clip_grad_norm_`; the norm before.
pub fn clip(gradients: &mut [Vec<f32>], limit: f64) -> f64 {
    let norm = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let scale = limit / (norm + 1e-6);
    if scale < 1.0 {
        for g in gradients.iter_mut().flatten() {
            *g *= scale as f32;
        }
    }
    norm
}
