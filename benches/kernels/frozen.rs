//! Random parameters as a base has them: mapped from a file.

use polyrank::base::Weights;
use polyrank::params::Param;
use rand::rngs::StdRng;
use safetensors::tensor::{Dtype, TensorView};

use crate::common::{Failure, random};

/// Parameters of the given shapes.
pub(crate) fn parameters<const N: usize>(shapes: [&[usize]; N], rng: &mut StdRng) -> Result<[Param; N], Failure> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    let bytes = shapes.map(|shape| {
        let values = random::values(shape.iter().product(), rng);
        values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>()
    });
    let name = |i| format!("parameter{i}");
    let mut views = Vec::with_capacity(N);
    for (i, (shape, bytes)) in shapes.iter().zip(&bytes).enumerate() {
        views.push((name(i), TensorView::new(Dtype::F32, shape.to_vec(), bytes)?));
    }
    safetensors::serialize_to_file(views, None, &path)?;
    // The mapping outlives the file's name.
    let weights = Weights::open(&path)?;
    let mut taken = Vec::with_capacity(N);
    for (i, shape) in shapes.iter().enumerate() {
        taken.push(Param::Frozen(weights.parameter(&name(i), shape)?));
    }
    taken.try_into().map_err(|_| "a parameter is missing".into())
}
