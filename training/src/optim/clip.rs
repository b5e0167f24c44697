//! Clips by the global norm, as `torch.nn.utils.clip_grad_norm_`.

use candle_core::{DType, Device, Result, Tensor};

use super::host;

/// Scales the present gradients to a global norm of at most `limit`. Returns the norm before scaling.
///
/// # Errors
/// A tensor operation fails.
pub fn clip(gradients: &mut [Option<Tensor>], limit: f64) -> Result<f64> {
    let norm = norm(gradients)?;
    let scale = limit / (norm + 1e-6);
    if scale < 1.0 {
        for gradient in gradients.iter_mut().flatten() {
            *gradient = (&*gradient * scale)?;
        }
    }
    Ok(norm)
}

/// The root of the sum of all squares, summed in f64.
fn norm(gradients: &[Option<Tensor>]) -> Result<f64> {
    let device = gradients.iter().flatten().map(Tensor::device).next();
    let sum = match device {
        None => 0.0,
        // One running sum goes through all gradients in order, so that the bits do not depend on how variables are split into tensors.
        Some(Device::Cpu) => gradients.iter().flatten().try_fold(0.0, add_squares)?,
        Some(device) => reference(gradients, device)?,
    };
    Ok(sum.sqrt())
}

/// The sum of all squares with candle's own operations, on any device.
fn reference(gradients: &[Option<Tensor>], device: &Device) -> Result<f64> {
    let mut sum = Tensor::zeros((), DType::F64, device)?;
    for gradient in gradients.iter().flatten() {
        sum = (sum + gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?)?;
    }
    sum.to_scalar()
}

fn add_squares(sum: f64, gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.contiguous()?;
    let (storage, layout) = gradient.storage_and_layout();
    Ok(host::elements(&storage, layout)?.iter().fold(sum, |sum, g| sum + f64::from(*g).powi(2)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn scales_to_the_limit_and_skips_absent_gradients() {
        let gradient = |values: &[f32]| Some(Tensor::new(values, &Device::Cpu).unwrap());
        let mut gradients = [gradient(&[3.0]), None, gradient(&[0.0, 4.0])];
        assert_eq!(clip(&mut gradients, f64::INFINITY).unwrap(), 5.0);
        assert_eq!(reference(&gradients, &Device::Cpu).unwrap(), 25.0);
        assert_eq!(clip(&mut gradients, 1.0).unwrap(), 5.0);
        let found: Vec<f32> = gradients[2].as_ref().unwrap().to_vec1().unwrap();
        assert!((found[1] - 0.8).abs() < 1e-6 && gradients[1].is_none(), "{found:?}");
        assert_eq!(clip(&mut [None], 1.0).unwrap(), 0.0);
    }
}
