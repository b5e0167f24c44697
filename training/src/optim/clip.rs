//! Clips by the global norm, as `torch.nn.utils.clip_grad_norm_`.

use candle_core::{Device, Result, Tensor};

use super::host;

/// Added to the norm, as PyTorch does.
const EPS: f64 = 1e-6;

/// The number of elements that one block of a GPU sums.
const CHUNK: usize = 4096;

/// Scales the present gradients, which are in host memory, to a global norm of at most `limit`. Returns the norm before scaling.
///
/// # Errors
/// A tensor operation fails.
pub(super) fn clip(gradients: &mut [Option<Tensor>], limit: f64) -> Result<f64> {
    // One running sum goes through all gradients in order, so that the bits do not depend on how variables are split into tensors.
    let norm = gradients.iter().flatten().try_fold(0.0, add_squares)?.sqrt();
    let scale = limit / (norm + EPS);
    if scale < 1.0 {
        for gradient in gradients.iter_mut().flatten() {
            *gradient = (&*gradient * scale)?;
        }
    }
    Ok(norm)
}

/// The same for the vectors `gradients [n]`, on their device, for which the host does not wait. The norm is a scalar, f32.
///
/// # Errors
/// A tensor operation fails.
pub(super) fn clip_on_device(gradients: &mut [Tensor], limit: f64) -> Result<Tensor> {
    let sums = gradients.iter().map(squares).collect::<Result<Vec<_>>>()?;
    if sums.is_empty() {
        return Tensor::new(0f32, &Device::Cpu);
    }
    let norm = Tensor::stack(&sums, 0)?.sum_all()?.sqrt()?;
    if limit.is_finite() {
        let scale = ((&norm + EPS)?.recip()? * limit)?.minimum(1f64)?;
        for gradient in gradients {
            *gradient = gradient.broadcast_mul(&scale)?;
        }
    }
    Ok(norm)
}

/// The sum of the squares of a vector. It is made in two stages, because candle sums a whole vector in one block.
fn squares(x: &Tensor) -> Result<Tensor> {
    let (x, len) = (x.sqr()?, x.elem_count());
    let whole = len / CHUNK * CHUNK;
    let chunks = |x: &Tensor| x.narrow(0, 0, whole)?.reshape((whole / CHUNK, CHUNK))?.sum(1)?.sum_all();
    match (whole, len - whole) {
        (0, _) => x.sum_all(),
        (_, 0) => chunks(&x),
        (_, rest) => chunks(&x)? + x.narrow(0, whole, rest)?.sum_all()?,
    }
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
        assert_eq!(clip(&mut gradients, 1.0).unwrap(), 5.0);
        let found: Vec<f32> = gradients[2].as_ref().unwrap().to_vec1().unwrap();
        assert!((found[1] - 0.8).abs() < 1e-6 && gradients[1].is_none(), "{found:?}");
        assert_eq!(clip(&mut [None], 1.0).unwrap(), 0.0);
    }

    #[test]
    fn both_forms_scale_alike() {
        for len in [1, 5, CHUNK - 1, CHUNK, 3 * CHUNK + 7] {
            for limit in [0.5, f64::INFINITY] {
                let of = |shift: usize| (0..len).map(|i| ((i + shift) % 13) as f32 / 13.0 - 0.4).collect::<Vec<f32>>();
                let vector = |values| Tensor::from_vec(values, len, &Device::Cpu).unwrap();
                let mut host = [Some(vector(of(0))), Some(vector(of(3)))];
                let mut device = [vector(of(0)), vector(of(3))];
                let expected = clip(&mut host, limit).unwrap();
                let found = f64::from(clip_on_device(&mut device, limit).unwrap().to_scalar::<f32>().unwrap());
                assert!((found - expected).abs() <= 1e-5 * expected, "{found} for {expected}");
                for (found, expected) in device.iter().zip(host.iter().flatten()) {
                    let off = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                    assert!(off <= 1e-6, "off by {off} at a limit of {limit}");
                }
            }
        }
    }
}
