//! `polyrank-train train`: trains an adapter, prunes it and writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use polyrank::params::DeviceName;
use polyrank_training::data::TaskData;
use polyrank_training::defaults::Plan;
use polyrank_training::error::Error;
use polyrank_training::run::{self, Existing, Facts, Folders};
use polyrank_training::settings::{DataSettings, Settings};
use polyrank_training::trainer::{Control, Trainer};

use super::layers::{self, Given};
use super::{Base, export, interrupt, open, tell, tell_of};

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train train --data tasks/sentiment --output adapters/sentiment
  polyrank-train train --data reviews.csv --text-column review --label-column stars --output adapters/stars
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --target-ratio 0.3 --dtype int8
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --run-dir runs/sentiment --resume
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --config settings.toml

The file of --config may hold, for example:
  epochs = 10
  target_modules = [\"query\", \"value\"]
Flags override environment variables, which override the file.

A run that is stopped by Ctrl-C goes on with --resume from the last epoch that has ended.";

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Folder with train.*, validation.* and optionally labels.txt; or one file, of which a share is held out.
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    data: PathBuf,
    /// The adapter's folder.
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    output: PathBuf,
    /// Folder of the log and the checkpoints [default: run in the output folder].
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    run_dir: Option<PathBuf>,
    /// Settings in TOML, named like the flags but with underscores (target_ratio), without paths.
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    config: Option<PathBuf>,
    /// Continue from the last checkpoint.
    #[arg(long, conflicts_with = "overwrite", help_heading = "Run")]
    resume: bool,
    /// Replace the adapter and the run in the folders.
    #[arg(long, help_heading = "Run")]
    overwrite: bool,
    /// Keep the checkpoints of all epochs, not only the best and the last.
    #[arg(long, help_heading = "Run")]
    keep_checkpoints: bool,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, env = "POLYRANK_TRAIN_DEVICE", default_value = "cpu", help_heading = "Device")]
    device: DeviceName,
    #[command(flatten)]
    settings: Given<Settings>,
    #[command(flatten)]
    data_settings: Given<DataSettings>,
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
    pub(super) fn open(&self) -> Result<Task, Error> {
        let (given, data_settings) = layers::resolve(&self.settings, &self.data_settings, self.config.as_deref())?;
        let data = TaskData::load(&self.data, &data_settings.options(given.seed))?;
        tell_of(&data);
        let base = open(&given.model_id, self.device, given.dtype)?;
        let facts = Facts::new(&data, base.engine.base_fingerprint());
        let stop = interrupt::flag()?;
        Ok(Task { given, data, base, facts, keep_checkpoints: self.keep_checkpoints, stop })
    }
}

/// A task to train on.
pub(super) struct Task {
    /// The settings as the user gave them.
    pub(super) given: Settings,
    pub(super) data: TaskData,
    pub(super) base: Base,
    pub(super) facts: Facts,
    keep_checkpoints: bool,
    /// Set by the first signal that asks the process to end.
    stop: Arc<AtomicBool>,
}

impl Task {
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
        let locked = run::begin(folders, existing, settings, &self.facts)?;
        tell(Plan { rows, schedule: settings.schedule(rows, engine) });
        let control = Control { keep_checkpoints: self.keep_checkpoints, stop: &self.stop };
        let chosen = trainer.run(locked.run(), &control)?;
        export(&self.base, settings, &self.facts, &chosen, &folders.output)?;
        locked.exported()?;
        Ok(chosen)
    }
}

/// Runs the command.
pub(super) fn train(args: &TrainArgs) -> Result<(), Error> {
    let task = args.open()?;
    let settings = task.given.resolved(task.data.train.len(), &task.base.engine);
    let folders = Folders::new(&args.output, args.run_dir.as_deref());
    task.train(&settings, &folders, args.existing(), None).map(drop)
}
