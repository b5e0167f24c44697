//! The losses of an epoch's steps. They stay on their device until they are shown, because the host waits for the device to read one.

use candle_core::Tensor;
use polyrank::params::Backend;

use crate::checkpoint::PartialEpoch;
use crate::error::Error;

/// On a device, losses are read once in this many steps.
pub(super) const EVERY: usize = 32;

/// The losses of the steps of one epoch.
pub(super) struct Losses {
    every: usize,
    /// The number of steps whose losses were read, in the whole run.
    read: usize,
    /// The losses that are not read yet, each with its number of rows.
    waiting: Vec<(Tensor, usize)>,
    /// The sum of the losses over all rows that were read, and their number.
    sum: f64,
    rows: usize,
}

impl Losses {
    /// The losses of the epoch's steps `before`, after `done` steps of the run.
    pub(super) fn new(done: usize, before: &PartialEpoch, backend: &Backend) -> Self {
        let every = if backend.on_host() { 1 } else { EVERY };
        Self { every, read: done, waiting: Vec::new(), sum: before.loss, rows: before.rows }
    }

    /// Adds the loss of a step, the mean over `rows` rows. Returns it if it is `shown`, and otherwise from time to time.
    ///
    /// # Errors
    /// The loss of this step, or of one before it, is not finite.
    pub(super) fn add(&mut self, loss: Tensor, rows: usize, shown: bool) -> Result<Option<f32>, Error> {
        self.waiting.push((loss, rows));
        if shown || self.waiting.len() >= self.every { self.read() } else { Ok(None) }
    }

    /// The sum of the losses over all rows, and the number of rows.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn sum(&mut self) -> Result<(f64, usize), Error> {
        self.read()?;
        Ok((self.sum, self.rows))
    }

    /// Reads all losses that wait, and returns the last.
    fn read(&mut self) -> Result<Option<f32>, Error> {
        if self.waiting.is_empty() {
            return Ok(None);
        }
        let tensors: Vec<&Tensor> = self.waiting.iter().map(|(loss, _)| loss).collect();
        let losses = Tensor::stack(&tensors, 0)?.to_vec1::<f32>()?;
        for ((_, rows), loss) in self.waiting.drain(..).zip(&losses) {
            self.read += 1;
            if !loss.is_finite() {
                return Err(Error::Diverged { step: self.read, loss: *loss });
            }
            self.sum += f64::from(*loss) * rows as f64;
            self.rows += rows;
        }
        Ok(losses.last().copied())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;

    use super::*;

    fn loss(value: f32) -> Tensor {
        Tensor::new(value, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_device_is_asked_once_in_many_steps() {
        let mut losses = Losses::new(0, &PartialEpoch::default(), &Backend::cuda_on_host());
        let shown = (0..EVERY + 2).filter_map(|i| losses.add(loss(i as f32), 1 + i % 2, false).unwrap());
        assert_eq!(shown.collect::<Vec<_>>(), [EVERY as f32 - 1.0]);
        let (sum, rows) = (0..EVERY + 2).fold((0, 0), |(sum, rows), i| (sum + i * (1 + i % 2), rows + 1 + i % 2));
        assert_eq!(losses.sum().unwrap(), (sum as f64, rows));
        assert_eq!(losses.add(loss(2.0), 1, true).unwrap(), Some(2.0));
        let before = PartialEpoch { steps: 3, loss: 6.0, rows: 12, seconds: 0.0 };
        let mut host = Losses::new(0, &before, &Backend::cpu());
        assert_eq!(host.add(loss(0.5), 4, false).unwrap(), Some(0.5));
        assert_eq!(host.sum().unwrap(), (8.0, 16));
    }

    #[test]
    fn the_step_that_diverged_is_named_even_if_its_loss_is_read_later() {
        let mut losses = Losses::new(100, &PartialEpoch::default(), &Backend::cuda_on_host());
        for value in [1.0, 2.0, f32::NAN, 3.0] {
            assert_eq!(losses.add(loss(value), 8, false).unwrap(), None);
        }
        let error = losses.sum().unwrap_err();
        assert!(matches!(error, Error::Diverged { step: 103, loss } if loss.is_nan()), "{error}");
    }
}
