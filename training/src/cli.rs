//! The command line. Exit codes: 0 for success, 1 for a failure (printed in one line), 2 for wrong usage, 130 for a run that a signal
//! stopped.

mod interrupt;
mod layers;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use polyrank::adapter::{self, Adapter, ProblemType};
use polyrank::allocator;
use polyrank::base::{self, Sources};
use polyrank::engine::Engine;
use polyrank::inspect::Report;
use polyrank::logging::{in_one_line, log_to_stderr, printable};
use polyrank::params::{DeviceName, Precision};
use polyrank::text::records::ColumnNames;
use polyrank_training::data::{DataOptions, HoldOut, TaskData};
use polyrank_training::defaults::Plan;
use polyrank_training::error::Error;
use polyrank_training::evaluate::evaluate;
use polyrank_training::export;
use polyrank_training::run::{self, Existing, Facts, Folders};
use polyrank_training::settings::{DataSettings, Settings, VALIDATION_SPLIT};
use polyrank_training::trainer::{Control, Trainer};

use self::layers::Given;

const EXAMPLES: &str = "\
Examples:
  polyrank-train train --data tasks/sentiment --output adapters/sentiment
  polyrank-train train --data reviews.csv --text-column review --label-column stars --output adapters/stars
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --resume
  polyrank-train evaluate --adapter adapters/sentiment --data tasks/sentiment --split test

Environment:
  POLYRANK_HOME     Folder of pulled bases [default: the platform's folder for caches]
  HF_ENDPOINT       Address of the hub
  HF_TOKEN          Token sent to the hub
  HF_HUB_OFFLINE    1 never asks the hub
  RAYON_NUM_THREADS Threads [default: all cores]
  RUST_LOG          What is logged [default: warn,polyrank=info]";

const TRAIN_EXAMPLES: &str = "\
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

const EVALUATE_EXAMPLES: &str = "\
Examples:
  polyrank-train evaluate --adapter adapters/sentiment --data tasks/sentiment
  polyrank-train evaluate --adapter adapters/sentiment --data tasks/sentiment --split test --json
  polyrank-train evaluate --adapter adapters/stars --data more.csv --text-column review --label-column stars";

/// Trains, prunes and evaluates adapters for polyrank.
#[derive(Debug, Parser)]
#[command(name = "polyrank-train", version, about, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train an adapter on a task's data, prune it and write it.
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(Box<TrainArgs>),
    /// Prune a checkpoint exactly and write it as an adapter.
    Prune(PruneArgs),
    /// Print an adapter's metrics on a split as JSON.
    #[command(after_help = EVALUATE_EXAMPLES)]
    Evaluate(Box<EvaluateArgs>),
    /// Print a completion script for a shell.
    #[command(hide = true)]
    Completions {
        /// bash, zsh, fish, ...
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command.
    #[command(hide = true)]
    Man {
        /// Folder to write to; it is created if it does not exist.
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct TrainArgs {
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

#[derive(Debug, Args)]
struct PruneArgs {
    /// The folder checkpoint-N of a run.
    checkpoint: PathBuf,
    /// The base, if it is no longer where the run found it.
    #[arg(long, value_name = "M")]
    model_id: Option<String>,
    /// Folder to write the adapter to; it must be empty or absent.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// The base: a folder, a hub id or default.
    #[arg(long, value_name = "M", default_value = "default")]
    model_id: String,
    /// The adapter's folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder with the task's data, or one file; without train.* and labels.txt, labels are read by the adapter's labels.
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    data: PathBuf,
    /// Split to evaluate on: validation, test, train, or the name of another file.
    #[arg(long, default_value = "validation", help_heading = "Data")]
    split: String,
    /// Name of the task, which decides the metric [default: as in the adapter's run, else the folder's name].
    #[arg(long, help_heading = "Data")]
    task: Option<String>,
    /// Column of the labels [default: as in the adapter's run, else label].
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    label_column: Option<String>,
    /// Column of the texts [default: as in the adapter's run, else sentence, sentence1 or text].
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    text_column: Option<String>,
    /// Column of the second texts [default: as in the adapter's run, else sentence2 or text_pair].
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    text_pair_column: Option<String>,
    /// Maximum number of tokens of a text [default: the base's maximum, as in serving].
    #[arg(long, help_heading = "Data")]
    max_length: Option<usize>,
    /// Share of train that was held out, if there is no validation file [default: as in the adapter's run].
    #[arg(long, help_heading = "Data")]
    validation_split: Option<f64>,
    /// Random seed that chose the held-out rows [default: as in the adapter's run].
    #[arg(long, help_heading = "Data")]
    seed: Option<u64>,
    /// Folder of the adapter's run [default: run in the adapter's folder].
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    run_dir: Option<PathBuf>,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu", help_heading = "Device")]
    device: DeviceName,
    /// Precision of the base's matrix products.
    #[arg(long, value_enum, default_value_t = Precision::F32, help_heading = "Device")]
    dtype: Precision,
    /// Print the JSON on one line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    log_to_stderr(false);
    let result = match cli.command {
        Command::Train(args) => train(&args),
        Command::Prune(args) => prune(&args),
        Command::Evaluate(args) => run_evaluate(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "polyrank-train", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { dir } => write_manual(&dir),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Stopped { done, epochs }) => {
            tell(interrupt::resume_message(done, epochs, std::env::args()));
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            tell(format_args!("error: {}", in_one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The description of the command line. It hides the values of environment variables: manual pages must not depend on the machine on
/// which they are written.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| command.mut_args(|arg| arg.hide_env_values(true)))
}

/// Writes a manual page for each command that is not hidden.
fn write_manual(dir: &Path) -> Result<(), Error> {
    let io = |source| Error::Io { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(io)?;
    clap_mangen::generate_to(command(), dir).map_err(io)
}

/// A base and its folder.
struct Base {
    dir: PathBuf,
    engine: Engine,
}

/// Opens the base, which is downloaded if it is missing.
fn open(model_id: &str, device: DeviceName, dtype: Precision) -> Result<Base, Error> {
    let dir = base::ensure(model_id)?;
    // A base in a folder can be trained on without a cache.
    let cache = Sources::from_env().ok().map(|sources| sources.home);
    let engine = Engine::prepacked(&dir, &device.open().map_err(polyrank::engine::Error::from)?, dtype, cache)?;
    allocator::retain_pages();
    Ok(Base { dir, engine })
}

fn train(args: &TrainArgs) -> Result<(), Error> {
    let (given, data_settings) = layers::resolve(&args.settings, &args.data_settings, args.config.as_deref())?;
    let data = TaskData::load(&args.data, &data_settings.options(given.seed))?;
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
    let held = run::begin(&folders, existing, &settings, &facts)?;
    tell(Plan { rows: data.train.len(), schedule: settings.schedule(data.train.len(), engine) });
    let stop = interrupt::flag()?;
    let best = trainer.run(held.run(), &Control { keep_checkpoints: args.keep_checkpoints, stop: &stop })?;
    export(&base, &settings, &facts, &best, &args.output)?;
    held.exported()
}

/// Prints how the labels were read, and the warnings about them.
fn tell_of(data: &TaskData) {
    tell(format_args!("labels: {}", printable(&data.reading)));
    data.warnings.iter().for_each(|warning| tell(format_args!("warning: {}", printable(warning))));
}

/// Prunes the checkpoint, writes the adapter and prints its ranks.
fn export(base: &Base, settings: &Settings, facts: &Facts, checkpoint: &Path, output: &Path) -> Result<(), Error> {
    let engine = &base.engine;
    let (adapter, progress) = export::from_checkpoint(checkpoint, engine, settings, facts)?;
    fs::create_dir_all(output).map_err(|source| Error::Io { path: output.to_owned(), source })?;
    adapter::write(output, engine.layout(), &adapter, &config_of(&base.dir)?)?;
    // The report is on the written files, because PEFT's format needs at least one rank.
    let written = engine.load_adapter(output)?;
    let report = Report::new(engine.layout(), &written);
    print(&format!("{report}\nwritten to {}, as it was after epoch {}", output.display(), progress.epoch))
}

/// The keys of the base's `config.json`.
fn config_of(base: &Path) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let path = base.join("config.json");
    let bytes = fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Malformed { path, reason: error.to_string() })
}

/// Prints a line to standard error, for the user.
fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn prune(args: &PruneArgs) -> Result<(), Error> {
    // The parent of a path such as `.` is known only from the absolute path.
    let checkpoint = args.checkpoint.canonicalize().unwrap_or_else(|_| args.checkpoint.clone());
    let run = checkpoint.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let (mut settings, facts) = run::begun(&run)?;
    if let Some(model_id) = &args.model_id {
        settings.model_id.clone_from(model_id);
    }
    if args.output.is_dir() && fs::read_dir(&args.output).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Settings(format!("{} is not empty", args.output.display())));
    }
    let dir = base::ensure(&settings.model_id)?;
    let engine = Engine::open(&dir, &Device::Cpu)?;
    facts.check_base(&run, engine.base_fingerprint())?;
    export(&Base { dir, engine }, &settings, &facts, &checkpoint, &args.output)
}

fn run_evaluate(args: &EvaluateArgs) -> Result<(), Error> {
    let engine = open(&args.model_id, args.device, args.dtype)?.engine;
    let adapter = engine.load_adapter(&args.adapter)?;
    if adapter.info.problem_type == Some(ProblemType::MultiLabelClassification) {
        let reason = "an adapter for several labels a text cannot be evaluated, because a row of data has one label";
        return Err(Error::Settings(format!("{}: {reason}", args.adapter.display())));
    }
    let run = Folders::new(&args.adapter, args.run_dir.as_deref()).run;
    let facts = Facts::of_adapter(&run)?;
    let data = data_of(args, &adapter, &run, facts.as_ref())?;
    tell_of(&data);
    let result = evaluate(&engine, adapter, &data, &args.split, args.max_length)?;
    result.warnings.iter().for_each(|warning| tell(format_args!("warning: {}", printable(warning))));
    let text = if args.json { serde_json::to_string(&result) } else { serde_json::to_string_pretty(&result) };
    print(&text.map_err(|error| Error::Settings(error.to_string()))?)
}

/// The data to evaluate on, read as the adapter's run read its own.
fn data_of(args: &EvaluateArgs, adapter: &Adapter, run: &Path, facts: Option<&Facts>) -> Result<TaskData, Error> {
    let of_run = facts.and_then(|facts| facts.held_out);
    let by_hand = args.validation_split.is_some() || args.seed.is_some();
    let hold_out = (by_hand || of_run.is_some()).then(|| HoldOut {
        share: args.validation_split.or(of_run.map(|of_run| of_run.share)).unwrap_or(VALIDATION_SPLIT),
        seed: args.seed.or(of_run.map(|of_run| of_run.seed)).unwrap_or(0),
    });
    let columns = facts.map(|facts| facts.columns.clone()).unwrap_or_default();
    let options = DataOptions {
        task: args.task.clone().or(facts.map(|facts| facts.task.clone())),
        // For `transformers`, too, an adapter with one output and no problem type is a regression.
        problem: adapter.info.problem_type.or((adapter.info.labels.len() == 1).then_some(ProblemType::Regression)),
        hold_out,
        columns: ColumnNames {
            label: args.label_column.clone().or(columns.label),
            text: args.text_column.clone().or(columns.text),
            pair: args.text_pair_column.clone().or(columns.pair),
        },
        labels: Some(adapter.info.labels.clone()),
    };
    let (Some(facts), Some(_), false) = (facts, of_run, by_hand) else {
        return Ok(TaskData::load(&args.data, &options)?);
    };
    if args.data.is_file() {
        // The file may be the one that the run trained on, or one with other rows.
        return match TaskData::load(&args.data, &options) {
            Ok(data) if facts.held_out_of(&data) => Ok(data),
            _ => {
                let data = TaskData::load(&args.data, &DataOptions { hold_out: None, ..options })?;
                tell(format_args!(
                    "{}: the adapter's run did not hold out a share of these rows; all of them are evaluated",
                    args.data.display()
                ));
                Ok(data)
            }
        };
    }
    let data = TaskData::load(&args.data, &options)?;
    if data.held_out.is_some() && matches!(&*args.split, "train" | "validation") {
        facts.check_held_out(run, &data)?;
    }
    Ok(data)
}

/// Prints to standard output. It is not an error if the program that reads it has ended.
fn print(text: &str) -> Result<(), Error> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Io { path: PathBuf::from("standard output"), source })
        }
        _ => Ok(()),
    }
}
