//! One training run: epochs over packed batches, evaluation with the forward pass of serving, the best checkpoint, the logs.

mod epoch;
mod extent;
mod losses;

use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::Workers;
use polyrank::text::Encoded;

use self::extent::Extent;
use crate::checkpoint::{self, Progress};
use crate::data::{Split, Target, TargetUnit, TaskData, encode};
use crate::error::Error;
use crate::evaluate;
use crate::export::export_of;
use crate::loss::TaskLoss;
use crate::method::{Export, Method};
use crate::metric::{Metric, mean_loss, metrics_of, score};
use crate::optim::{Optimizer, Rule};
use crate::run::{self, Epoch, Scores};
use crate::settings::{RunSettings, Select, Settings};
use crate::stepper::{Stepper, is_finite};

/// A split to evaluate on.
struct ValidationSplit {
    name: String,
    texts: Vec<Encoded>,
    targets: Vec<Target>,
}

/// Options of a run that do not change its result.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Keeps the checkpoints of all epochs, not only the best and the last.
    pub keep_checkpoints: bool,
    /// The number of steps between two lines of the log of steps. 0 counts as 1.
    pub log_every: usize,
    /// The number of steps between two checkpoints; `None` saves them only at the end of epochs.
    pub checkpoint_every: Option<usize>,
    /// Asked before each step whether the run shall save a checkpoint and end with [`Error::Stopped`].
    pub stop: &'a dyn Fn() -> bool,
}

impl<'a> Control<'a> {
    /// The options in `settings`, for a run that ends once `stop` says so.
    #[must_use]
    pub fn new(settings: &RunSettings, stop: &'a dyn Fn() -> bool) -> Self {
        let RunSettings { keep_checkpoints, log_every, checkpoint_every, .. } = *settings;
        Self { keep_checkpoints, log_every, checkpoint_every, stop }
    }
}

/// A run in progress.
pub struct Trainer<'a> {
    settings: &'a Settings,
    /// Peak learning rate.
    lr: f64,
    extent: Extent,
    data: &'a TaskData,
    /// The unit in which the targets of a regression are learned.
    unit: Option<TargetUnit>,
    stepper: Stepper<'a>,
    progress: Progress,
    texts: Vec<Encoded>,
    /// The number of tokens of all these texts.
    tokens: usize,
    /// The validation splits. The best epoch is selected by the first.
    validation: Vec<ValidationSplit>,
    metrics: &'static [Metric],
    /// The primary metric after the last epoch of this call.
    last: Option<f64>,
}

/// The validation splits, tokenized.
fn validation_splits(engine: &Engine, data: &TaskData, longest: usize) -> Result<Vec<ValidationSplit>, Error> {
    if data.validation.is_empty() {
        return Err(Error::Settings("a run needs a validation split to select on".to_owned()));
    }
    let encoded = |split: &Split| -> Result<ValidationSplit, Error> {
        let targets = split.examples.iter().map(|example| example.target.clone()).collect();
        Ok(ValidationSplit { name: split.name.clone(), texts: encode(engine, &split.examples, longest)?, targets })
    };
    data.validation.iter().map(encoded).collect()
}

/// Restores the variables and the optimiser's state from a checkpoint, and returns how far the run had come.
fn resumed(
    last: &Path,
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    extent: &Extent,
) -> Result<Progress, Error> {
    let progress = checkpoint::load(last, method, optimizer)?;
    let expected = progress.epoch * extent.steps_per_epoch + progress.partial.map_or(0, |partial| partial.steps);
    if optimizer.done != expected {
        let reason = format!("expected step {expected} {progress}, found step {}", optimizer.done);
        return Err(Error::malformed(last, reason));
    }
    Ok(progress)
}

impl<'a> Trainer<'a> {
    /// A new run, or with `resume` the run in that folder, continued from its last checkpoint.
    ///
    /// # Errors
    /// The settings are invalid, or the checkpoint does not fit them.
    pub fn new(
        settings: &'a Settings,
        engine: &'a Engine,
        data: &'a TaskData,
        resume: Option<&Path>,
    ) -> Result<Self, Error> {
        settings.check()?;
        let mut method = settings.method(engine, data.size())?;
        let longest = settings.longest(engine);
        let texts = encode(engine, &data.train, longest)?;
        let validation = validation_splits(engine, data, longest)?;
        let hyperparameters = settings.hyperparameters(data.size(), engine);
        let extent = Extent::new(data.train.len(), &hyperparameters, settings);
        let rule = Rule {
            weight_decay: settings.weight_decay,
            eps: 1e-8,
            clip: Some(settings.clip),
            total: extent.first_total(),
        };
        let mut optimizer = Optimizer::new(method.variables(), rule, engine.backend())?;
        let progress = match resume.map(checkpoint::last).transpose()?.flatten() {
            Some(last) => resumed(&last, &mut *method, &mut optimizer, &extent)?,
            None => Progress::default(),
        };
        let metrics = metrics_of(data);
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        let workers = Workers::new(tokens / data.train.len().div_ceil(extent.rows_per_batch).max(1))?;
        let loss = TaskLoss::new(data.problem, &data.class_weights);
        let stepper = Stepper { engine, method, optimizer, loss, workers };
        Ok(Self {
            settings,
            lr: hyperparameters.lr,
            extent,
            data,
            unit: data.unit(),
            stepper,
            progress,
            texts,
            tokens,
            validation,
            metrics,
            last: None,
        })
    }

    /// The number of texts of train that are longer than the settings allow, and are truncated.
    #[must_use]
    pub fn truncated(&self) -> usize {
        self.texts.iter().filter(|text| text.truncated).count()
    }

    /// Starts from the variables of a checkpoint of another run, with moments and a learning rate that start anew. A run that continues
    /// has variables of its own and ignores them.
    ///
    /// # Errors
    /// The checkpoint is malformed or does not fit the settings.
    pub fn starting_from(mut self, checkpoint: &Path) -> Result<Self, Error> {
        if self.stepper.optimizer.done == 0 {
            checkpoint::load_method(checkpoint, &mut *self.stepper.method)?;
        }
        Ok(self)
    }

    /// Trains to the end. Writes checkpoints and the logs to the folder `run`, and returns the folder of the best checkpoint.
    ///
    /// # Errors
    /// The loss, a gradient or a variable is not finite, a file cannot be written, or the run was stopped. The checkpoints that were
    /// saved before stay.
    pub fn run(mut self, run: &Path, control: &Control<'_>) -> Result<PathBuf, Error> {
        run::trim_logs(run, self.progress.epoch, self.stepper.optimizer.done)?;
        // A process may have been killed after it saved a checkpoint, and before it removed those that this one replaces.
        checkpoint::forget(run, &self.progress, control.keep_checkpoints)?;
        let bar = bar(self.extent.total(), self.stepper.optimizer.done);
        while !self.has_ended() {
            let (loss, seconds) = self.epoch(&bar, run, control)?;
            self.progress.epoch += 1;
            let mut done = self.done(loss, seconds)?;
            self.choose(done.metrics.0[0].1, done.validation_loss);
            done.ended_early = self.has_ended_early();
            // The log's line is written first. If there is no checkpoint for it, it is removed when the run is continued.
            run::log(run, &done)?;
            self.save(run, control)?;
            print_line(&bar, &done.to_string());
        }
        bar.finish_and_clear();
        if self.has_ended_early() {
            print_line(&bar, &self.early_end());
        }
        Ok(checkpoint::folder(run, self.progress.best_epoch))
    }

    fn has_ended(&self) -> bool {
        self.progress.epoch >= self.extent.epochs() || self.has_ended_early()
    }

    /// Whether the last epochs, as many as the setting `patience`, were not better than the best before them. While the method finds no
    /// epoch eligible, there is no best. In a run that was made longer, epochs count from the end that was planned before.
    fn has_ended_early(&self) -> bool {
        let Progress { epoch, best_epoch, partial, .. } = self.progress;
        let since = best_epoch.max(self.settings.extended_from.last().copied().unwrap_or(0));
        let waited = self.settings.patience.is_some_and(|patience| epoch.saturating_sub(since) >= patience);
        waited && best_epoch > 0 && partial.is_none() && epoch < self.extent.epochs()
    }

    fn early_end(&self) -> String {
        let Progress { epoch, best_epoch, .. } = self.progress;
        let (epochs, metric) = (self.extent.epochs(), self.metrics[0].name());
        format!("ended early after epoch {epoch} of {epochs}: no better {metric} since epoch {best_epoch} (--patience)")
    }

    /// Saves a checkpoint, and removes those that are no longer needed.
    fn save(&self, run: &Path, control: &Control<'_>) -> Result<(), Error> {
        for variable in &self.stepper.optimizer.variables {
            if !is_finite(variable.var.as_tensor())? {
                let (step, tensor) = (self.stepper.optimizer.done, variable.name.clone());
                return Err(Error::NotFiniteTensor { step, tensor });
            }
        }
        checkpoint::save(run, &*self.stepper.method, &self.stepper.optimizer, &self.progress)?;
        checkpoint::forget(run, &self.progress, control.keep_checkpoints)
    }

    /// The log's line about the epoch that has ended.
    fn done(&self, loss: f64, seconds: f64) -> Result<Epoch, Error> {
        let export = self.export()?;
        let (metrics, validation_loss) = self.scores(&self.validation[0], &export)?;
        let also = self.validation[1..].iter().map(|split| Ok((split.name.clone(), self.scores(split, &export)?.0)));
        let report = self.stepper.method.report()?;
        Ok(Epoch {
            epoch: self.progress.epoch,
            step: self.stepper.optimizer.done,
            loss,
            metrics,
            validation_loss,
            also: also.collect::<Result<_, Error>>()?,
            mean_rank: report.mean_rank(),
            parameters: report.parameters,
            kept: report.kept,
            seconds,
            tokens_per_second: self.tokens as f64 / seconds,
            ended_early: false,
        })
    }

    /// The metrics and the mean loss on a split.
    fn scores(&self, split: &ValidationSplit, export: &Export) -> Result<(Scores, f64), Error> {
        let logits = evaluate::logits(self.stepper.engine, export, &split.texts)?;
        let scores = self.metrics.iter().map(|&metric| (metric.name(), score(metric, &logits, &split.targets)));
        Ok((Scores(scores.collect()), mean_loss(&logits, &split.targets)))
    }

    /// Records the epoch that has ended as the best if its metric is better, or equal with a lower loss. Only an epoch that the method
    /// finds eligible may be chosen.
    fn choose(&mut self, score: f64, loss: f64) {
        self.last = Some(score);
        let eligible = self.stepper.method.eligible(self.stepper.optimizer.done, self.extent.first_total());
        let Progress { epoch, best, best_loss, best_epoch, .. } = &mut self.progress;
        let better = self.settings.select == Select::Last
            || best.is_none_or(|best| score > best)
            || (*best == Some(score) && best_loss.is_some_and(|best_loss| loss < best_loss));
        if eligible && better {
            (*best, *best_loss, *best_epoch) = (Some(score), Some(loss), *epoch);
        }
    }

    fn export(&self) -> Result<Export, Error> {
        export_of(
            &*self.stepper.method,
            self.stepper.engine,
            &self.data.labels,
            self.data.problem,
            self.unit,
            &self.settings.model_id,
        )
    }
}

/// A progress bar over the `steps` steps of a run of which `done` are made. It is hidden if standard error is not a terminal.
fn bar(steps: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64).with_position(done as u64);
    let style = "{bar:28} {pos}/{len} {elapsed}<{eta} {msg}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    // The steps of an earlier call do not count for the speed. The bar notices its position in a tick.
    bar.tick();
    bar.reset_eta();
    bar
}

fn print_line(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() { drop(writeln!(std::io::stderr(), "{line}")) } else { bar.println(line) }
}
