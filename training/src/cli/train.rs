//! `polyrank-train train`: trains an adapter, prunes it and writes it.

use std::path::PathBuf;

use clap::Args;
use polyrank::params::DeviceName;
use polyrank_training::data::TaskData;
use polyrank_training::defaults::Plan;
use polyrank_training::error::Error;
use polyrank_training::run::{self, Existing, Facts, Folders};
use polyrank_training::settings::{DataSettings, Settings, source};
use polyrank_training::trainer::{Control, Trainer};

use super::layers::{self, Given};
use super::{export, interrupt, open, tell, tell_of};

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
Flags override environment variables, which override the file.

A run that is stopped by Ctrl-C goes on with --resume from the last epoch that has ended.";

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Folder with train.*, validation.* and optionally labels.txt; or one file, of which a share is held out.
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    data: Option<PathBuf>,
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

/// Runs the command.
pub(super) fn train(args: &TrainArgs) -> Result<(), Error> {
    let (given, data_settings) = layers::resolve(&args.settings, &args.data_settings, args.config.as_deref())?;
    let source = source(args.data.as_deref(), data_settings.of_hub())?;
    let data = TaskData::load(&source, &data_settings.options(given.seed))?;
    tell_of(&data);
    let base = open(&given.model_id, args.device, given.dtype)?;
    let engine = &base.engine;
    let settings = given.resolved(data.train.len(), engine);
    let facts = Facts::new(&data, engine.base_fingerprint());
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Refuse,
    };
    let folders = Folders::new(&args.output, args.run_dir.as_deref());
    run::check(&folders, existing, &settings, &facts)?;
    let trainer = Trainer::new(&settings, engine, &data, args.resume.then_some(&folders.run))?;
    // No file was changed before this point.
    let locked = run::begin(&folders, existing, &settings, &facts)?;
    tell(Plan { rows: data.train.len(), schedule: settings.schedule(data.train.len(), engine) });
    let stop = interrupt::flag()?;
    let best = trainer.run(locked.run(), &Control { keep_checkpoints: args.keep_checkpoints, stop: &stop })?;
    export(&base, &settings, &facts, &best, &args.output)?;
    locked.exported()
}
