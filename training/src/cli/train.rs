//! `polyrank-train train`: trains an adapter, prunes it and writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use polyrank_training::data::TaskData;
use polyrank_training::defaults::Plan;
use polyrank_training::error::Error;
use polyrank_training::run::{self, Config, Existing, Facts, Folders};
use polyrank_training::settings::{DataSettings, MethodName, RunSettings, Settings, source};
use polyrank_training::trainer::{Control, Trainer};

use super::layers::{Layers, Resolved};
use super::ranks::print_ranks;
use super::{Base, eprint, export, interrupt, open, print_reading};

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train train --data tasks/sentiment --output adapters/sentiment
  polyrank-train train --data reviews.csv --text-column review --label-column stars --output adapters/stars
  polyrank-train train --dataset nyu-mll/glue --dataset-config rte --output adapters/rte
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --target-ratio 0.3 --dtype int8
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --run-dir runs/sentiment --resume
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --config settings.toml

The file of --config may hold, for example:
  epochs = 10
  target_modules = [\"query\", \"value\"]
Flags override environment variables, which override the file. A run saves its settings in run/config.toml, which --config
reads, too: with the same data, the run is repeated exactly.

A run that is stopped by Ctrl-C saves its state, and goes on from there with --resume. After a crash, it goes on from the end
of the last epoch, or from the last checkpoint of --checkpoint-every. The result is that of a run without a stop.

A finished run is made longer by --resume with more --epochs. The learning rate then follows the new number of epochs. Ranks are
removed by the first number of epochs, so that no further rank is removed; with --xi or --lambda, gates go on shrinking. A run
that --patience has ended first goes on to the end that was planned, without --patience.";

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Folder with train.*, validation.* and optionally labels.txt; or one file, of which a share is held out.
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Folder to write to: an adapter, or what another method leaves.
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    output: PathBuf,
    /// Folder of the log and the checkpoints [default: run in the output folder].
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    run_dir: Option<PathBuf>,
    /// Continue from the last checkpoint; with more --epochs, make a finished run longer.
    #[arg(long, conflicts_with = "overwrite", help_heading = "Run")]
    resume: bool,
    /// Replace the adapter and the run in the folders.
    #[arg(long, help_heading = "Run")]
    overwrite: bool,
    #[command(flatten)]
    layers: Layers,
}

impl TrainArgs {
    /// The folder of the adapter.
    pub(super) fn output(&self) -> &Path {
        &self.output
    }

    /// Whether the run has another folder than that in the output folder.
    pub(super) fn has_run_dir(&self) -> bool {
        self.run_dir.is_some()
    }

    /// What to do with a folder that is not empty.
    pub(super) fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        }
    }

    /// Reads the settings and the data, and opens the base.
    fn open(&self) -> Result<Task, Error> {
        self.task(self.layers.resolve(self.data.is_some())?)
    }

    /// The same for a schedule.
    pub(super) fn open_for_schedule(&self) -> Result<Task, Error> {
        self.task(self.layers.resolve_for_schedule(self.data.is_some())?)
    }

    fn task(&self, resolved: Resolved) -> Result<Task, Error> {
        let Resolved { settings: given, data: data_settings, run: run_settings } = resolved;
        let source = source(self.data.as_deref(), data_settings.of_hub())?;
        let data = TaskData::load(&source, &data_settings.options(given.seed))?;
        print_reading(&data);
        let base = open(&given.model_id, run_settings.device, given.dtype)?;
        let facts = Facts::new(&data, base.engine.base_fingerprint());
        let stop = interrupt::flag()?;
        Ok(Task { given, data_settings, run_settings, data, base, facts, stop })
    }
}

/// A task to train on.
pub(super) struct Task {
    /// The settings as the user gave them.
    pub(super) given: Settings,
    data_settings: DataSettings,
    run_settings: RunSettings,
    pub(super) data: TaskData,
    pub(super) base: Base,
    pub(super) facts: Facts,
    /// Set by the first signal that asks the process to end.
    stop: Arc<AtomicBool>,
}

impl Task {
    /// Checks that a run with these settings can begin.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), Error> {
        let engine = &self.base.engine;
        Trainer::new(&settings.resolved(self.data.size(), engine), engine, &self.data, None).map(drop)
    }

    /// Trains with the resolved `settings`, from the variables of the checkpoint `start`, if there is one. Writes the adapter, and returns
    /// the checkpoint that it is made of.
    pub(super) fn train(
        &self,
        settings: &Settings,
        folders: &Folders,
        existing: Existing,
        start: Option<&Path>,
    ) -> Result<PathBuf, Error> {
        let (engine, rows) = (&self.base.engine, self.data.train.len());
        run::check(folders, existing, settings, &self.facts)?;
        let resume = (existing == Existing::Resume).then_some(&*folders.run);
        let mut trainer = Trainer::new(settings, engine, &self.data, resume)?;
        if let Some(start) = start {
            trainer = trainer.starting_from(start)?;
        }
        // No file was changed before this point.
        let config = Config { settings, data: &self.data_settings, run: &self.run_settings };
        let locked = run::begin(folders, existing, &config, &self.facts)?;
        eprint(Plan {
            rows,
            hyperparameters: settings.hyperparameters(self.data.size(), engine),
            accumulate: settings.accumulate,
        });
        let (truncated, longest) = (trainer.truncated(), settings.longest(engine));
        if truncated > 0 {
            eprint(format_args!(
                "{truncated} of {rows} texts of train are longer than {longest} tokens, and are truncated"
            ));
        }
        let stop = || self.stop.load(Ordering::Relaxed);
        let chosen = trainer.run(locked.run(), &Control::new(&self.run_settings, &stop))?;
        export(&self.base, settings, &self.facts, &chosen, &folders.output)?;
        locked.exported()?;
        Ok(chosen)
    }

    /// The settings of a run in these folders, which may be one that is made longer.
    fn settings(&self, folders: &Folders, existing: Existing) -> Result<Settings, Error> {
        let (mut given, engine) = (self.given.clone(), &self.base.engine);
        if existing == Existing::Resume {
            if !folders.run.exists() {
                eprint(format_args!("no run in {}: a new one begins", folders.run.display()));
            }
            let (plans, epochs) = run::extended_from(&folders.run, given.epochs)?;
            given.epochs = epochs;
            // A list that is no part of the run's own is refused by name when the run is checked.
            if plans.starts_with(&given.extended_from) {
                given.extended_from = plans;
            }
        }
        Ok(given.resolved(self.data.size(), engine))
    }
}

/// Runs the command.
pub(super) fn train(args: &TrainArgs) -> Result<(), Error> {
    let (task, existing) = (args.open()?, args.existing());
    let folders = Folders::new(&args.output, args.run_dir.as_deref());
    let settings = task.settings(&folders, existing)?;
    let chosen = task.train(&settings, &folders, existing, None)?;
    if settings.method == MethodName::DyLora {
        print_ranks(&task.base, &settings, &task.facts, &chosen, &task.data)?;
    }
    Ok(())
}
