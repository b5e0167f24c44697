//! Full fine-tuning: every parameter of the base is trained, and a head.

use candle_core::Result;
use polyrank::encoder::Encoder;

use super::{TrainedBase, TrainedHead};

/// Full fine-tuning, which starts from the base's parameters and from `head`.
///
/// # Errors
/// A tensor operation fails.
pub fn full(encoder: &dyn Encoder, head: TrainedHead) -> Result<TrainedBase> {
    TrainedBase::new(encoder, |_| true, head)
}
