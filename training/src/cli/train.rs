//! `polyrank-train train`: trains an adapter, prunes it and writes it.

use std::path::PathBuf;

use clap::Args;
use polyrank_training::data::TaskData;
use polyrank_training::defaults::Plan;
use polyrank_training::error::Error;
use polyrank_training::run::{self, Config, Existing, Facts, Folders};
use polyrank_training::settings::{MethodName, source};
use polyrank_training::trainer::{Control, Trainer};

use super::layers::{Layers, Resolved};
use super::ranks::tell_of_ranks;
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
Flags override environment variables, which override the file. A run saves its settings in run/config.toml, which --config
reads, too: with the same data, the run is repeated exactly.

A run that is stopped by Ctrl-C saves its state, and goes on from there with --resume. After a crash, it goes on from the end
of the last epoch, or from the last checkpoint of --checkpoint-every. The result is that of a run without a stop.

A finished run is made longer by --resume with more --epochs. The learning rate then follows the new number of epochs. Ranks are
removed by the first number of epochs, so that no further rank is removed.";

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

/// Runs the command.
pub(super) fn train(args: &TrainArgs) -> Result<(), Error> {
    let Resolved { settings: mut given, data: data_settings, run: run_settings } = args.layers.resolve()?;
    let source = source(args.data.as_deref(), data_settings.of_hub())?;
    let data = TaskData::load(&source, &data_settings.options(given.seed))?;
    tell_of(&data);
    let base = open(&given.model_id, run_settings.device, given.dtype)?;
    let engine = &base.engine;
    let folders = Folders::new(&args.output, args.run_dir.as_deref());
    if args.resume {
        let plans = run::extended_from(&folders.run, given.schedule(data.train.len(), engine).epochs)?;
        // A list that is no part of the run's own is refused by name below.
        if plans.starts_with(&given.extended_from) {
            given.extended_from = plans;
        }
    }
    let settings = given.resolved(data.train.len(), engine);
    let facts = Facts::new(&data, engine.base_fingerprint());
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Refuse,
    };
    run::check(&folders, existing, &settings, &facts)?;
    let trainer = Trainer::new(&settings, engine, &data, args.resume.then_some(&folders.run))?;
    // No file was changed before this point.
    let config = Config { settings: &settings, data: &data_settings, run: &run_settings };
    let locked = run::begin(&folders, existing, &config, &facts)?;
    let schedule = settings.schedule(data.train.len(), engine);
    tell(Plan { rows: data.train.len(), schedule, accumulate: settings.accumulate });
    let stop = interrupt::flag()?;
    let best = trainer.run(locked.run(), &Control::new(&run_settings, &stop))?;
    export(&base, &settings, &facts, &best, &args.output)?;
    if settings.method == MethodName::DyLora {
        tell_of_ranks(&base, &settings, &facts, &best, &data)?;
    }
    locked.exported()
}
