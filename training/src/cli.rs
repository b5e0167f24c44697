//! The command line. Exit codes: 0, 1 for a failure told in one line, 2 for wrong usage.

mod flags;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::{Args, Parser, Subcommand};
use polyrank::adapter::{self, ProblemType};
use polyrank::console::{in_one_line, log_to_stderr};
use polyrank::device::DeviceName;
use polyrank::engine::Engine;
use polyrank::inspect::Report;
use polyrank::kernel::prepacked::Precision;
use polyrank::model::{self, Sources};
use polyrank::pages;
use polyrank_training::data::{DataOptions, HoldOut, TaskData};
use polyrank_training::defaults::Plan;
use polyrank_training::error::Error;
use polyrank_training::evaluate::evaluate;
use polyrank_training::export;
use polyrank_training::run::{self, Existing, Facts};
use polyrank_training::settings::Settings;
use polyrank_training::trainer::Trainer;

use self::flags::{Flags, VALIDATION_SPLIT};

/// Trains, prunes and evaluates adapters for polyrank.
#[derive(Debug, Parser)]
#[command(name = "polyrank-train", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train an adapter on a task's folder, prune it and write it.
    Train(Box<TrainArgs>),
    /// Prune a checkpoint exactly and write it as an adapter.
    Prune(PruneArgs),
    /// Print an adapter's metrics on a split as JSON.
    Evaluate(EvaluateArgs),
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// Folder with train.*, validation.* and perhaps labels.txt.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The adapter's folder; log and checkpoints go to its subfolder run.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Settings in TOML, by the names of the flags below that are not paths, with underscores (target_ratio); flags come first.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Continue from the last checkpoint.
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace the adapter and the run that the output folder holds.
    #[arg(long)]
    overwrite: bool,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// A folder DIR/run/checkpoint-N.
    checkpoint: PathBuf,
    /// The base, where it is no longer found as the run found it.
    #[arg(long, value_name = "M")]
    model_id: Option<String>,
    /// Where the adapter goes; an empty or absent folder.
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
    /// Folder with the task's data; without train.* and labels.txt, the adapter's labels are the data's.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Name of the task, which decides its metric [default: the adapter's run's, else the folder's name].
    #[arg(long)]
    task: Option<String>,
    /// validation, test, train, or a split by its file's name.
    #[arg(long, default_value = "validation")]
    split: String,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// What the base's products run in.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Most tokens of a text [default: what the base takes, as in serving].
    #[arg(long)]
    max_length: Option<usize>,
    /// Share of train held out, where there is no validation file [default: as the adapter's run did].
    #[arg(long)]
    validation_split: Option<f64>,
    /// Of that choice [default: as the adapter's run did].
    #[arg(long)]
    seed: Option<u64>,
    /// On one line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(false);
    let result = match cli.command {
        Command::Train(args) => train(&args),
        Command::Prune(args) => prune(&args),
        Command::Evaluate(args) => run_evaluate(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {}", in_one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The base, pulled if it is missing.
fn open(model_id: &str, device: DeviceName, dtype: Precision) -> Result<Engine, Error> {
    let dir = model::ensure(model_id)?;
    // A folder may be trained on where there is no cache.
    let cache = Sources::from_env().ok().map(|sources| sources.home);
    let engine = Engine::prepacked(&dir, &device.open()?, dtype, cache)?;
    pages::keep();
    Ok(engine)
}

fn train(args: &TrainArgs) -> Result<(), Error> {
    let flags = args.flags.over(args.config.as_deref())?;
    // What makes no sense is told before anything is read.
    let asked = flags.settings(0, 0);
    asked.check()?;
    let data = TaskData::load(&args.data, &flags.data())?;
    let engine = open(&asked.model_id, args.device, asked.dtype)?;
    let mut settings = flags.settings(data.train.len(), engine.config().hidden_size);
    settings.max_length = Some(settings.longest(&engine));
    let facts = Facts::new(&data, engine.base_fingerprint());
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Refuse,
    };
    run::check(&args.output, existing, &settings, &facts)?;
    let run = run::folder(&args.output);
    let trainer = Trainer::new(&settings, &engine, &data, args.resume.then_some(&run))?;
    // Nothing was touched before this.
    let held = run::begin(&args.output, existing, &settings, &facts)?;
    tell(Plan { rows: data.train.len(), schedule: settings.schedule() });
    let best = trainer.run(held.run())?;
    export(&engine, &settings, &facts, &best, &args.output)?;
    held.exported()
}

/// Prunes the checkpoint and writes the adapter; prints its ranks.
fn export(engine: &Engine, settings: &Settings, facts: &Facts, checkpoint: &Path, output: &Path) -> Result<(), Error> {
    let (adapter, progress) = export::from_checkpoint(checkpoint, engine, settings, facts)?;
    fs::create_dir_all(output).map_err(|source| Error::Io { path: output.to_owned(), source })?;
    adapter::write(output, engine.layout(), &adapter)?;
    // As it was written: a file of PEFT's holds one rank at least.
    let written = engine.load_adapter(output)?;
    let report = Report::new(engine.layout(), &written);
    print(&format!("{report}\nwritten to {}, as it was after epoch {}", output.display(), progress.epoch))
}

/// To standard error, for people.
fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn prune(args: &PruneArgs) -> Result<(), Error> {
    // The folder around `.` is told by the whole path only.
    let checkpoint = args.checkpoint.canonicalize().unwrap_or_else(|_| args.checkpoint.clone());
    let run = checkpoint.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let (mut settings, facts) = run::begun(&run)?;
    if let Some(model_id) = &args.model_id {
        settings.model_id.clone_from(model_id);
    }
    if args.output.is_dir() && fs::read_dir(&args.output).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Settings(format!("{} is not empty", args.output.display())));
    }
    let engine = Engine::open(&model::ensure(&settings.model_id)?, &Device::Cpu)?;
    facts.check_base(&run, engine.base_fingerprint())?;
    export(&engine, &settings, &facts, &checkpoint, &args.output)
}

fn run_evaluate(args: &EvaluateArgs) -> Result<(), Error> {
    let engine = open(&args.model_id, args.device, args.dtype)?;
    let adapter = engine.load_adapter(&args.adapter)?;
    if adapter.problem_type == Some(ProblemType::MultiLabelClassification) {
        let reason = "an adapter of several labels a text cannot be judged: a row of data has one";
        return Err(Error::Settings(format!("{}: {reason}", args.adapter.display())));
    }
    let facts = Facts::of_adapter(&args.adapter)?;
    let of_run = facts.as_ref().and_then(|facts| facts.held_out);
    let by_hand = args.validation_split.is_some() || args.seed.is_some();
    let hold_out = (by_hand || of_run.is_some()).then(|| HoldOut {
        share: args.validation_split.or(of_run.map(|of_run| of_run.share)).unwrap_or(VALIDATION_SPLIT),
        seed: args.seed.or(of_run.map(|of_run| of_run.seed)).unwrap_or(0),
    });
    let options = DataOptions {
        task: args.task.clone().or(facts.as_ref().map(|facts| facts.task.clone())),
        // One output without a word is a regression to `transformers` too.
        problem: adapter.problem_type.or((adapter.labels.len() == 1).then_some(ProblemType::Regression)),
        hold_out,
        labels: Some(adapter.labels.clone()),
    };
    let data = TaskData::load(&args.data, &options)?;
    if let (Some(facts), Some(_), false, "train" | "validation") = (&facts, data.held_out, by_hand, &*args.split) {
        facts.check_held_out(&run::folder(&args.adapter), &data)?;
    }
    let result = evaluate(&engine, adapter, &data, &args.split, args.max_length)?;
    let text = if args.json { serde_json::to_string(&result) } else { serde_json::to_string_pretty(&result) };
    print(&text.map_err(|error| Error::Settings(error.to_string()))?)
}

/// To standard output; a reader that went away is no failure of ours.
fn print(text: &str) -> Result<(), Error> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Io { path: PathBuf::from("standard output"), source })
        }
        _ => Ok(()),
    }
}
