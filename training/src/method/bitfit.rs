//! BitFit (Zaken et al. 2022): only the base's biases are trained, those of its norms included, and a head.

use candle_core::Result;
use polyrank::encoder::Encoder;

use super::{TrainedBase, TrainedHead};

/// BitFit, which starts from the base's biases and from `head`.
///
/// # Errors
/// A tensor operation fails.
pub fn bitfit(encoder: &dyn Encoder, head: TrainedHead) -> Result<TrainedBase> {
    TrainedBase::new(encoder, |name| name.ends_with(".bias"), head)
}
