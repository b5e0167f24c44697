//! One training run: epochs over packed batches, evaluation with the forward pass of serving, the best checkpoint, the log.

mod losses;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use polyrank::adapter::Adapter;
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::Workers;
use polyrank::text::Encoded;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use self::losses::Losses;
use crate::checkpoint::{self, Progress};
use crate::data::{Target, TaskData, encode};
use crate::defaults::Schedule;
use crate::error::Error;
use crate::evaluate;
use crate::export::adapter_of;
use crate::method::{Rates, StepDropout};
use crate::metric::{Metric, mean_loss, metrics_for, score};
use crate::optim::{Optimizer, Rule, linear_rate};
use crate::run::{self, Epoch, Scores};
use crate::settings::{Select, Settings};
use crate::stepper::{Batch, Stepper};

/// A split to evaluate on.
struct ValidationSplit {
    name: String,
    texts: Vec<Encoded>,
    targets: Vec<Target>,
}

/// Options of a run that do not change its result.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    /// Keeps the checkpoints of all epochs, not only the best and the last.
    pub keep_checkpoints: bool,
    /// Once it is set, the run ends with [`Error::Stopped`] after its current step.
    pub stop: &'a AtomicBool,
}

/// A run in progress.
pub struct Trainer<'a> {
    settings: &'a Settings,
    schedule: Schedule,
    data: &'a TaskData,
    stepper: Stepper<'a>,
    progress: Progress,
    texts: Vec<Encoded>,
    /// The validation splits. The best epoch is selected by the first.
    validation: Vec<ValidationSplit>,
    metrics: &'static [Metric],
    /// The primary metric after the last epoch of this call.
    last: Option<f64>,
    steps_per_epoch: usize,
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
        let mut method = settings.method(engine, data.labels.len(), data.train.len())?;
        let longest = settings.longest(engine);
        let texts = encode(engine, &data.train, longest)?;
        let validation = data.validation.iter().map(|split| -> Result<ValidationSplit, Error> {
            let targets = split.examples.iter().map(|example| example.target).collect();
            Ok(ValidationSplit { name: split.name.clone(), texts: encode(engine, &split.examples, longest)?, targets })
        });
        let validation = validation.collect::<Result<Vec<_>, _>>()?;
        if validation.is_empty() {
            return Err(Error::Settings("a run needs a validation split to select on".to_owned()));
        }
        let schedule = settings.schedule(data.train.len(), engine);
        let steps_per_epoch = data.train.len().div_ceil(schedule.batch_size);
        let rule = Rule {
            weight_decay: settings.weight_decay,
            eps: 1e-8,
            clip: Some(settings.clip),
            total: steps_per_epoch * schedule.epochs,
        };
        let mut optimizer = Optimizer::new(method.variables(), rule, engine.backend())?;
        let mut progress = Progress::default();
        if let Some(run) = resume
            && let Some(last) = checkpoint::last(run)?
        {
            progress = checkpoint::load(&last, &mut *method, &mut optimizer)?;
        }
        let metrics = metrics_for(&data.task, data.problem);
        let all: usize = texts.iter().map(|text| text.ids.len()).sum();
        let workers = Workers::new(all / steps_per_epoch.max(1))?;
        let stepper = Stepper { engine, method, optimizer, problem: data.problem, workers };
        Ok(Self {
            settings,
            schedule,
            data,
            stepper,
            progress,
            texts,
            validation,
            metrics,
            last: None,
            steps_per_epoch,
        })
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

    /// Trains to the end. Writes checkpoints and the log to the folder `run`, and returns the folder of the best checkpoint.
    ///
    /// # Errors
    /// The loss is not finite, a file cannot be written, or the run was stopped.
    pub fn run(mut self, run: &Path, control: &Control<'_>) -> Result<PathBuf, Error> {
        run::trim_log(run, self.progress.epoch)?;
        let bar = ProgressBar::new(self.total() as u64).with_position(self.stepper.optimizer.done as u64);
        let style = "{bar:28} {pos}/{len} {elapsed}<{eta} {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        while self.progress.epoch < self.schedule.epochs {
            let start = Instant::now();
            let (loss, tokens) = self.epoch(&bar, control.stop)?;
            let seconds = start.elapsed().as_secs_f64();
            self.progress.epoch += 1;
            let done = self.done(loss, tokens, seconds)?;
            self.choose(done.metrics.0[0].1, done.validation_loss);
            // The log's line is written first. If there is no checkpoint for it, it is removed when the run is continued.
            run::log(run, &done)?;
            checkpoint::save(run, &*self.stepper.method, &self.stepper.optimizer, &self.progress)?;
            if !control.keep_checkpoints {
                checkpoint::forget(run, &self.progress)?;
            }
            tell(&bar, &done.to_string());
        }
        bar.finish_and_clear();
        Ok(checkpoint::folder(run, self.progress.best_epoch))
    }

    /// The log's line about the epoch that has ended.
    fn done(&self, loss: f64, tokens: usize, seconds: f64) -> Result<Epoch, Error> {
        let adapter = Arc::new(self.adapter()?);
        let (metrics, validation_loss) = self.scores(&self.validation[0], &adapter)?;
        let also = self.validation[1..].iter().map(|split| Ok((split.name.clone(), self.scores(split, &adapter)?.0)));
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
            tokens_per_second: tokens as f64 / seconds,
        })
    }

    /// The number of steps of the whole run.
    fn total(&self) -> usize {
        self.steps_per_epoch * self.schedule.epochs
    }

    /// The metrics and the mean loss on a split.
    fn scores(&self, split: &ValidationSplit, adapter: &Arc<Adapter>) -> Result<(Scores, f64), Error> {
        let logits = evaluate::logits(self.stepper.engine, adapter, &split.texts)?;
        let scores = self.metrics.iter().map(|&metric| (metric.name(), score(metric, &logits, &split.targets)));
        Ok((Scores(scores.collect()), mean_loss(&logits, &split.targets)))
    }

    /// Records the epoch that has ended as the best if its metric is better, or equal with a lower loss. Only an epoch that the method
    /// finds eligible may be chosen.
    fn choose(&mut self, score: f64, loss: f64) {
        self.last = Some(score);
        let eligible = self.stepper.method.eligible(self.stepper.optimizer.done, self.total());
        let Progress { epoch, best, best_loss, best_epoch } = &mut self.progress;
        let better = self.settings.select == Select::Last
            || best.is_none_or(|best| score > best)
            || (*best == Some(score) && best_loss.is_some_and(|best_loss| loss < best_loss));
        if eligible && better {
            (*best, *best_loss, *best_epoch) = (Some(score), Some(loss), *epoch);
        }
    }

    /// Runs one epoch, and returns the mean loss and the number of tokens.
    fn epoch(&mut self, bar: &ProgressBar, stop: &AtomicBool) -> Result<(f64, usize), Error> {
        let mut order: Vec<usize> = (0..self.data.train.len()).collect();
        let seed = self.settings.seed.wrapping_mul(0x9e37_79b9).wrapping_add(self.progress.epoch as u64);
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let mut losses = Losses::new(self.stepper.optimizer.done, self.stepper.engine.backend());
        let mut tokens = 0;
        for rows in order.chunks(self.schedule.batch_size) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped { done: self.progress.epoch, epochs: self.schedule.epochs });
            }
            let texts: Vec<&Encoded> = rows.iter().map(|&row| &self.texts[row]).collect();
            let targets: Vec<Target> = rows.iter().map(|&row| self.data.train[row].target).collect();
            tokens += texts.iter().map(|text| text.ids.len()).sum::<usize>();
            let done = self.stepper.optimizer.done;
            let seed = self.settings.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ done as u64;
            let rate = self.schedule.lr * linear_rate(done, self.total(), self.settings.warmup);
            let dropout = StepDropout { rates: self.rates(), seed };
            let loss = self.stepper.step(&Batch { texts: &texts, targets: &targets }, dropout, rate)?;
            bar.inc(1);
            if let Some(loss) = losses.add(loss, rows.len())? {
                bar.set_message(self.state(loss)?);
            }
        }
        Ok((losses.mean()?, tokens))
    }

    fn rates(&self) -> Rates {
        let config = self.stepper.engine.config();
        if self.progress.epoch < self.settings.dropout_after(self.schedule.epochs) {
            return Rates::default();
        }
        match self.settings.dropout {
            Some(p) => Rates { hidden: p, attention: p, head: p, head_input: p },
            None => Rates {
                hidden: config.hidden_dropout_prob,
                attention: config.attention_probs_dropout_prob,
                head: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
                head_input: config.head_input_dropout(),
            },
        }
    }

    /// The progress bar's message, with the metric of the last epoch.
    fn state(&self, loss: f32) -> Result<String, Error> {
        let metric = self.last.map_or(String::new(), |last| format!(", {} {last:.3}", self.metrics[0].name()));
        let report = self.stepper.method.report()?;
        let (rank, kept) = (report.mean_rank(), 100.0 * report.kept);
        Ok(format!("loss {loss:.3}{metric}, mean rank {rank:.2}, {kept:.1} % kept"))
    }

    fn adapter(&self) -> Result<Adapter, Error> {
        adapter_of(
            &*self.stepper.method,
            self.stepper.engine,
            &self.data.labels,
            self.data.problem,
            &self.settings.model_id,
        )
    }
}

fn tell(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() { drop(writeln!(std::io::stderr(), "{line}")) } else { bar.println(line) }
}
