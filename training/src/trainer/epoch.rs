//! One epoch of a run: its steps, their log, and checkpoints in its middle.

use std::path::Path;
use std::time::Instant;

use candle_core::Tensor;
use indicatif::ProgressBar;
use polyrank::text::Encoded;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::losses::{EVERY, Losses};
use super::{Control, Trainer};
use crate::checkpoint::PartialEpoch;
use crate::data::Target;
use crate::error::Error;
use crate::method::{DropoutRates, Report, StepDropout};
use crate::run::{self, StepEntry};
use crate::stepper::Batch;

/// The losses of the epoch in progress, and its duration.
struct Current {
    losses: Losses,
    before: PartialEpoch,
    start: Instant,
}

impl Current {
    /// The state after `steps` steps of the epoch.
    fn partial(&mut self, steps: usize) -> Result<PartialEpoch, Error> {
        let (loss, rows) = self.losses.sum()?;
        let seconds = self.before.seconds + self.start.elapsed().as_secs_f64();
        Ok(PartialEpoch { steps, loss, rows, seconds })
    }
}

impl Trainer<'_> {
    /// Runs the rest of the epoch, and returns the mean loss and the duration of the whole epoch.
    pub(super) fn epoch(&mut self, bar: &ProgressBar, run: &Path, control: &Control<'_>) -> Result<(f64, f64), Error> {
        let before = self.progress.partial.take().unwrap_or_default();
        let losses = Losses::new(self.stepper.optimizer.done, &before, self.stepper.engine.backend());
        let mut current = Current { losses, before, start: Instant::now() };
        let order = self.order();
        for (steps, rows) in order.chunks(self.extent.rows_per_step).enumerate().skip(before.steps) {
            if (control.stop)() {
                return Err(self.stop(run, control, &mut current, steps)?);
            }
            let rate = self.lr * self.extent.rate(self.stepper.optimizer.done, self.settings.warmup);
            let loss = self.step(rows, rate)?;
            bar.inc(1);
            let logged = self.is_logged(control);
            if let Some(loss) = current.losses.add(loss, rows.len(), logged)? {
                let loss = loss * self.loss_unit() as f32;
                let report = self.stepper.method.report()?;
                bar.set_message(self.message(loss, &report));
                if logged {
                    run::log_step(run, &self.entry(loss, rate, &report))?;
                }
            }
            let (done, steps) = (self.stepper.optimizer.done, steps + 1);
            let due = control.checkpoint_every.is_some_and(|every| done.is_multiple_of(every));
            if due && steps < self.extent.steps_per_epoch {
                self.progress.partial = Some(current.partial(steps)?);
                self.save(run, control)?;
            }
        }
        self.progress.partial = None;
        let PartialEpoch { loss, rows, seconds, .. } = current.partial(self.extent.steps_per_epoch)?;
        Ok((self.loss_unit() * loss / rows as f64, seconds))
    }

    /// Saves a checkpoint after `steps` steps of the epoch, unless there is one, and returns the error that ends the run.
    fn stop(&mut self, run: &Path, control: &Control<'_>, current: &mut Current, steps: usize) -> Result<Error, Error> {
        if steps > current.before.steps {
            self.progress.partial = Some(current.partial(steps)?);
            self.save(run, control)?;
        }
        Ok(Error::Stopped {
            step: self.stepper.optimizer.done,
            steps: self.extent.total(),
            epoch: self.progress.epoch + 1,
            epochs: self.extent.epochs(),
        })
    }

    /// What a loss of 1 in the unit that is learned is in the targets' own unit.
    fn loss_unit(&self) -> f64 {
        self.unit.map_or(1.0, |unit| unit.spread.powi(2))
    }

    /// The order of the training rows in this epoch.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.data.train.len()).collect();
        let seed = self.settings.seed.wrapping_mul(0x9e37_79b9).wrapping_add(self.progress.epoch as u64);
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        order
    }

    /// Makes a step on these rows, and returns its loss.
    fn step(&mut self, rows: &[usize], rate: f64) -> Result<Tensor, Error> {
        let texts: Vec<&Encoded> = rows.iter().map(|&row| &self.texts[row]).collect();
        let learned = |target: &Target| self.unit.map_or_else(|| target.clone(), |unit| unit.learned(target));
        let targets: Vec<Target> = rows.iter().map(|&row| learned(&self.data.train[row].target)).collect();
        let size = self.extent.rows_per_batch;
        let batches = texts.chunks(size).zip(targets.chunks(size)).map(|(texts, targets)| Batch { texts, targets });
        let seed = self.settings.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ self.stepper.optimizer.done as u64;
        let dropout = StepDropout { rates: self.rates(), seed };
        self.stepper.step_over(&batches.collect::<Vec<_>>(), dropout, rate)
    }

    fn rates(&self) -> DropoutRates {
        let config = self.stepper.engine.config();
        if self.progress.epoch < self.settings.dropout_after(self.extent.first) {
            return DropoutRates::default();
        }
        match self.settings.dropout {
            Some(p) => DropoutRates { hidden: p, attention: p, head: p, head_input: p },
            None => DropoutRates {
                hidden: config.hidden_dropout_prob,
                attention: config.attention_probs_dropout_prob,
                head: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
                head_input: config.head_input_dropout(),
            },
        }
    }

    /// Whether the last step has a line in the log. On a device, at least [`EVERY`] steps lie between two lines, because the host waits
    /// for the device at each. A step that may be the run's last always has one.
    fn is_logged(&self, control: &Control<'_>) -> bool {
        let least = if self.stepper.engine.backend().on_host() { 1 } else { EVERY };
        let every = control.log_every.max(1);
        let every = every * least.div_ceil(every);
        let done = self.stepper.optimizer.done;
        let may_be_last = self.settings.patience.is_some() && done.is_multiple_of(self.extent.steps_per_epoch);
        done.is_multiple_of(every) || may_be_last || self.extent.ends_plan(done)
    }

    fn entry(&self, loss: f32, rate: f64, report: &Report) -> StepEntry {
        StepEntry {
            step: self.stepper.optimizer.done,
            epoch: self.progress.epoch + 1,
            loss,
            rate,
            xi: report.xi,
            mean_rank: report.mean_rank(),
            parameters: report.parameters,
            kept: report.kept,
        }
    }

    /// The progress bar's message, with the metric of the last epoch.
    fn message(&self, loss: f32, report: &Report) -> String {
        let metric = self.last.map_or(String::new(), |last| format!(", {} {last:.3}", self.metrics[0].name()));
        format!("loss {loss:.3}{metric}{}", run::ranks(report.mean_rank(), report.kept))
    }
}
