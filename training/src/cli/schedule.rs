//! `polyrank-train schedule`: trains in stages with rising thresholds, and writes an adapter for each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use polyrank::adapter;
use polyrank_training::checkpoint;
use polyrank_training::data::TaskData;
use polyrank_training::error::Error;
use polyrank_training::evaluate::evaluate;
use polyrank_training::export;
use polyrank_training::method::Export;
use polyrank_training::metric::metrics_of;
use polyrank_training::run::{self, Existing, Folders};
use polyrank_training::schedule::{self, Percent, Spacing, Stage, Thresholds};
use polyrank_training::settings::{MethodName, Settings};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::eprint;
use super::train::{Task, TrainArgs};

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train schedule --data tasks/sentiment --output curves/sentiment --xi-max 1e-3 --xi-step 1e-4
  polyrank-train schedule --data tasks/sentiment --output curves/sentiment --xi-max 1e-2 --xi-step 1e-3 --spacing exp
  polyrank-train evaluate --adapter curves/sentiment/stage-4 --data tasks/sentiment --split test

The first stage trains for --epochs at --xi0. Each later stage goes on from there for --stage-epochs at the next threshold; its
learning rate, with the warm-up, and Adam's moments start anew. Each stage keeps its last epoch, in a folder stage-N that is like
the output of train. schedule.jsonl has a line for each finished stage. The schedule ends early once no gate is left.

Flags of train apply to all stages, except those that choose a threshold, an epoch or the run's folder. Gates are the authors' or, with
--gate paper, the paper's; both with a constant threshold in each stage.";

/// The settings of training that stages decide themselves, and those that gates with a threshold do not have.
const REFUSED: [&str; 9] =
    ["method", "xi", "lambda", "target_ratio", "target_params", "depth_bias", "select", "patience", "run_dir"];

/// Shows only what the command accepts.
pub(super) fn without_what_it_refuses(command: clap::Command) -> clap::Command {
    let hidden = REFUSED.into_iter().fold(command, |command, name| command.mut_arg(name, |arg| arg.hide(true)));
    let of_sora = hidden.mut_args(|arg| {
        let methods = MethodName::with(arg.get_id().as_str());
        if methods.is_none_or(|methods| methods.contains(&MethodName::Sora)) { arg } else { arg.hide(true) }
    });
    of_sora.mut_arg("gate", |gate| {
        gate.help("How gates are trained: paper or authors [default: authors]").hide_possible_values(true)
    })
}

#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    /// Threshold of the first stage.
    #[arg(long, value_name = "X", default_value_t = 1e-4, help_heading = "Schedule")]
    xi0: f64,
    /// Largest threshold.
    #[arg(long, value_name = "X", help_heading = "Schedule")]
    xi_max: f64,
    /// Distance between the thresholds of two stages; with --spacing log or exp, it only gives the number of stages.
    #[arg(long, value_name = "D", help_heading = "Schedule")]
    xi_step: f64,
    /// How thresholds lie between the first and the largest.
    #[arg(long, value_enum, default_value_t = Spacing::Linear, help_heading = "Schedule")]
    spacing: Spacing,
    /// Epochs of each stage after the first.
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Schedule")]
    stage_epochs: usize,
    /// Number of rows of train on which the metrics of a stage are computed.
    #[arg(long, value_name = "N", default_value_t = 2000, help_heading = "Schedule")]
    train_sample: usize,
    #[command(flatten)]
    train: TrainArgs,
}

/// Runs the command.
pub(super) fn schedule(args: &ScheduleArgs) -> Result<(), Error> {
    let thresholds =
        Thresholds { first: args.xi0, last: args.xi_max, step: args.xi_step, spacing: args.spacing }.stages()?;
    for (flag, count) in [("--stage-epochs", args.stage_epochs), ("--train-sample", args.train_sample)] {
        if count == 0 {
            return Err(Error::Settings(format!("{flag}: expected 1 or more, found 0")));
        }
    }
    if args.train.has_run_dir() {
        return Err(Error::Settings("--run-dir: expected none, because each stage has a folder of its own".to_owned()));
    }
    let task = args.train.open_for_schedule()?;
    schedule::check(&task.given)?;
    let mut stages = Stages::open(&task, args, thresholds.len())?;
    for (number, xi) in thresholds.into_iter().enumerate() {
        let epochs = (number > 0).then_some(args.stage_epochs);
        let settings = schedule::settings(&task.given, xi, epochs);
        if !stages.make(number, &settings.resolved(task.data.size(), &task.base.engine))? {
            eprint(format_args!("no gate is left after stage {number}, so that the schedule ends here"));
            break;
        }
    }
    Ok(())
}

/// The stages of a schedule in its folder.
struct Stages<'a> {
    task: &'a Task,
    /// The task's data with a sample of the rows of train.
    sampled: TaskData,
    /// The name of the metric of the curve.
    primary: &'static str,
    output: &'a Path,
    existing: Existing,
    finished: Vec<Stage>,
    /// The checkpoint of the last stage.
    last: Option<PathBuf>,
    _output: run::LockedOutput,
}

impl<'a> Stages<'a> {
    /// Reads what an earlier call has finished, or removes it with `--overwrite`, and prints the head of the table. The schedule is to
    /// have `count` stages.
    fn open(task: &'a Task, args: &'a ScheduleArgs, count: usize) -> Result<Self, Error> {
        let (output, mut existing) = (args.train.output(), args.train.existing());
        let locked = run::LockedOutput::new(output)?;
        let path = output.join(schedule::SCHEDULE);
        let is_empty = run::names(output)?.is_empty();
        match existing {
            Existing::Refuse if !is_empty => return Err(Error::OutputExists(output.to_owned())),
            Existing::Resume if !is_empty && !path.exists() && !folder(output, 0).exists() => {
                return Err(Error::NoRun(output.to_owned()));
            }
            Existing::Overwrite => {
                // What stands in the way of the first stage shows before another schedule is removed.
                task.check(&schedule::settings(&task.given, args.xi0, None))?;
                remove(output)?;
                existing = Existing::Refuse;
            }
            Existing::Refuse | Existing::Resume => {}
        }
        let mut sampled = task.data.clone();
        sampled.train.shuffle(&mut StdRng::seed_from_u64(task.given.seed));
        sampled.train.truncate(args.train_sample);
        let primary = metrics_of(&task.data)[0].name();
        let finished = schedule::read(&path)?;
        let (rows, before) = (sampled.train.len(), finished.iter().find_map(|stage| stage.train_sample));
        if let Some(before) = before.filter(|before| *before != rows) {
            let (before, now) = (before.to_string(), rows.to_string());
            return Err(Error::OtherRun { path, entry: "train_sample".to_owned(), before, now });
        }
        // The stage after the finished ones may have begun.
        let begun = finished.len() + usize::from(folder(output, finished.len()).exists());
        if begun > count {
            return Err(Error::FewerStages { output: output.to_owned(), begun, now: count });
        }
        eprint(schedule::header(primary));
        Ok(Self { task, sampled, primary, output, existing, finished, last: None, _output: locked })
    }

    /// Trains stage `number` from the stage before it, unless it is finished, and prints its row of the table. A finished stage whose
    /// adapter was deleted is made again. Returns whether a gate is left.
    fn make(&mut self, number: usize, settings: &Settings) -> Result<bool, Error> {
        let folders = Folders::new(&folder(self.output, number), None);
        let has_adapter = adapter::NAMES.iter().all(|name| folders.output.join(name).is_file());
        if self.finished.len() > number && has_adapter {
            match run::check(&folders, Existing::Resume, settings, &self.task.facts) {
                // Only the last stage is continued. The checkpoints of the others may be gone.
                Err(Error::NoCheckpoint(_)) if self.finished.len() > number + 1 => {}
                checked => checked?,
            }
            self.last = checkpoint::last(&folders.run)?;
        } else {
            if number > 0 && self.last.is_none() && checkpoint::last(&folders.run)?.is_none() {
                return Err(Error::LostStage { stage: folders.output, before: folder(self.output, number - 1) });
            }
            let checkpoint = self.task.train(settings, &folders, self.existing, self.last.as_deref())?;
            let stage = self.measure(number, settings, &checkpoint)?;
            let first = self.finished.first().filter(|_| number > 0).unwrap_or(&stage);
            let stage = stage.clone().relative_to(first, self.primary);
            match self.finished.get_mut(number) {
                Some(deleted) => *deleted = stage,
                None => self.finished.push(stage),
            }
            schedule::write(&self.output.join(schedule::SCHEDULE), &self.finished)?;
            self.last = Some(checkpoint);
        }
        let stage = &self.finished[number];
        eprint(stage.row(self.primary));
        Ok(stage.parameters > 0)
    }

    /// The parameters and the metrics of a stage, without percentages.
    fn measure(&self, number: usize, settings: &Settings, checkpoint: &Path) -> Result<Stage, Error> {
        let Task { base, facts, .. } = self.task;
        let (export, progress) = export::from_checkpoint(checkpoint, &base.engine, settings, facts)?;
        let Export::Adapter(adapter) = &export else {
            return Err(Error::Settings("expected a method with gates".to_owned()));
        };
        Ok(Stage {
            stage: number,
            xi: settings.xi.unwrap_or(0.0),
            epochs: progress.epoch,
            parameters: adapter.delta_parameters(),
            paper_parameters: adapter.paper_parameters(base.engine.layout()),
            train_sample: Some(self.sampled.train.len()),
            train: self.metrics(&export, "train", settings)?,
            validation: self.metrics(&export, "validation", settings)?,
            percent: Percent { parameters: None, train: None, validation: None },
        })
    }

    fn metrics(&self, export: &Export, split: &str, settings: &Settings) -> Result<BTreeMap<String, f64>, Error> {
        let engine = &self.task.base.engine;
        let evaluation = evaluate(engine, export, &self.sampled, split, settings.max_length)?;
        Ok(evaluation.metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// The folder of a stage.
fn folder(output: &Path, stage: usize) -> PathBuf {
    output.join(format!("stage-{stage}"))
}

/// Removes the stages of an earlier schedule from the folder `output`.
fn remove(output: &Path) -> Result<(), Error> {
    if !output.exists() {
        return Ok(());
    }
    let paths = run::names(output)?;
    // A call that was killed here may have left an empty folder.
    let is_empty = |path: &Path| path.is_dir() && run::names(path).is_ok_and(|names| names.is_empty());
    let is_stage = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let numbered = name.strip_prefix("stage-").is_some_and(|number| number.parse::<usize>().is_ok());
        numbered && (path.join("run").is_dir() || is_empty(path))
    };
    if let Some(foreign) = paths.iter().find(|path| !is_stage(path) && !path.ends_with(schedule::SCHEDULE)) {
        return Err(Error::Foreign(foreign.clone()));
    }
    for stage in paths.iter().filter(|path| path.is_dir()) {
        run::check_idle(&stage.join("run"))?;
    }
    for path in paths {
        if path.is_dir() {
            // The run marks the folder as a stage, and goes last, so that a call after a kill knows what it may remove.
            let mut parts = run::names(&path)?;
            parts.sort_by_key(|part| part.ends_with("run"));
            parts.iter().try_for_each(|part| run::remove(part))?;
        }
        run::remove(&path)?;
    }
    Ok(())
}
