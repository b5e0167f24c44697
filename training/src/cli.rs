//! The command line. Exit codes: 0, 1 for a failure told in one line, 2 for wrong usage.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use polyrank::adapter::{self, ProblemType};
use polyrank::engine::Engine;
use polyrank::inspect::Report;
use polyrank::kernel::prepacked::Precision;
use polyrank::model::{self, Sources};
use polyrank::pages;
use polyrank_training::checkpoint;
use polyrank_training::data::{DataOptions, TaskData};
use polyrank_training::error::Error;
use polyrank_training::evaluate::evaluate;
use polyrank_training::method::{GateRule, LowRank};
use polyrank_training::optim::{Optimizer, StepRule, Threshold};
use polyrank_training::trainer::{MethodName, Settings, Trainer, adapter_of};
use serde::{Deserialize, Serialize};

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
    /// Settings in TOML, by the long flags' names with underscores; flags come first.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Continue from the last checkpoint.
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace what the output folder holds.
    #[arg(long)]
    overwrite: bool,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    #[command(flatten)]
    flags: Flags,
}

/// What may be given by flag or by file.
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flags {
    /// What to train [default: sora].
    #[arg(long)]
    method: Option<MethodName>,
    /// The base: a folder, a hub id or default [default: default].
    #[arg(long, value_name = "M")]
    model_id: Option<String>,
    /// Name of the task, which decides its metric [default: the folder's name].
    #[arg(long)]
    task: Option<String>,
    /// What the labels mean, where they do not tell.
    #[arg(long, value_enum)]
    problem_type: Option<Problem>,
    /// Rank of each site before pruning [default: 8].
    #[arg(long)]
    rank: Option<usize>,
    /// The scale is alpha / rank [default: 16].
    #[arg(long)]
    alpha: Option<f64>,
    /// Adapted modules, comma-separated [default: all linears of a layer].
    #[arg(long, value_delimiter = ',')]
    target_modules: Option<Vec<String>>,
    /// How gates step: the paper's plain gradient step, or Adam's as in its authors' code [default: authors].
    #[arg(long)]
    gate: Option<GateRule>,
    /// Share of the adapter's parameters to keep [default: 0.65].
    #[arg(long, conflicts_with_all = ["xi", "lambda"])]
    target_ratio: Option<f64>,
    /// A constant threshold instead of a ratio.
    #[arg(long, conflicts_with = "lambda")]
    xi: Option<f64>,
    /// The threshold as learning rate times lambda instead of a ratio.
    #[arg(long)]
    lambda: Option<f64>,
    /// The authors' penalty on gates in the loss [default: 10 with --xi and authors' gates, else 0].
    #[arg(long)]
    sparse_lambda: Option<f64>,
    /// Passes over the training data [default: 8].
    #[arg(long)]
    epochs: Option<usize>,
    /// Texts a step [default: 32].
    #[arg(long)]
    batch_size: Option<usize>,
    /// Peak learning rate [default: 1e-3].
    #[arg(long)]
    lr: Option<f64>,
    /// Share of the steps in which the rate rises [default: 0.06].
    #[arg(long)]
    warmup: Option<f64>,
    /// Decay of matrices and head, never of gates [default: 0.01].
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Most of the gradients' norm [default: 1].
    #[arg(long)]
    clip: Option<f64>,
    /// Dropout [default: the base's own rates].
    #[arg(long)]
    dropout: Option<f64>,
    /// Epochs that drop nothing before dropout begins [default: 0].
    #[arg(long, value_name = "EPOCHS")]
    dropout_after: Option<usize>,
    /// What the base's products run in; train on what you serve on [default: f32].
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
    /// Most tokens of a text [default: 128, or what the base takes].
    #[arg(long)]
    max_length: Option<usize>,
    /// Of everything random [default: 0].
    #[arg(long)]
    seed: Option<u64>,
    /// Share of train to hold out where there is no validation file [default: 0.1].
    #[arg(long)]
    validation_split: Option<f64>,
}

#[derive(Debug, Clone, Copy, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Problem {
    #[value(name = "single_label_classification")]
    SingleLabelClassification,
    #[value(name = "regression")]
    Regression,
}

impl From<Problem> for ProblemType {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::SingleLabelClassification => Self::SingleLabelClassification,
            Problem::Regression => Self::Regression,
        }
    }
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// A folder DIR/run/checkpoint-N.
    checkpoint: PathBuf,
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
    /// Folder with the task's data.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Name of the task, which decides its metric [default: the folder's name].
    #[arg(long)]
    task: Option<String>,
    /// validation, test, train, or a split by its file's name.
    #[arg(long, default_value = "validation")]
    split: String,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// What the base's products run in.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Share of train held out, as in training, where there is no validation file.
    #[arg(long, default_value_t = 0.1)]
    validation_split: f64,
    /// Of that choice.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// On one line.
    #[arg(long)]
    json: bool,
}

/// What a run needs besides its settings to be pruned later: written to `run/task.json`.
#[derive(Debug, Serialize, Deserialize)]
struct TaskFacts {
    labels: Vec<String>,
    problem: ProblemType,
}

pub(crate) fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false).init();
    let result = match Cli::parse().command {
        Command::Train(args) => train(&args),
        Command::Prune(args) => prune(&args),
        Command::Evaluate(args) => run_evaluate(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn device(name: &str) -> Result<Device, Error> {
    let wrong = || Error::Settings(format!("--device: expected cpu, cuda or cuda:N, found {name:?}"));
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") if !name.contains(':') => Ok(Device::Cpu),
        ("cuda", index) => Ok(Device::new_cuda(index.parse().map_err(|_| wrong())?)?),
        _ => Err(wrong()),
    }
}

/// The base, pulled if it is missing.
fn open(model_id: &str, device_name: &str, dtype: Precision) -> Result<Engine, Error> {
    let (dir, cache) = (model::ensure(model_id)?, Sources::from_env()?.home);
    let engine = Engine::prepacked(&dir, &device(device_name)?, dtype, Some(cache))?;
    pages::keep();
    Ok(engine)
}

/// Settings from flags, then the file, then defaults.
fn settings(args: &TrainArgs) -> Result<(Settings, Flags), Error> {
    let file = match &args.config {
        None => Flags::default(),
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?;
            toml::from_str(&text).map_err(|error| Error::Malformed { path: path.clone(), reason: error.to_string() })?
        }
    };
    let flags = args.flags.clone();
    // A threshold by flag replaces whatever the file says of it.
    let steered = flags.target_ratio.is_some() || flags.xi.is_some() || flags.lambda.is_some();
    let (ratio, xi, lambda) = match steered {
        true => (flags.target_ratio, flags.xi, flags.lambda),
        false => (file.target_ratio, file.xi, file.lambda),
    };
    if [ratio.is_some(), xi.is_some(), lambda.is_some()].into_iter().filter(|given| *given).count() > 1 {
        return Err(Error::Settings("target_ratio, xi and lambda exclude each other".to_owned()));
    }
    let method = flags.method.or(file.method).unwrap_or(MethodName::Sora);
    let gate = flags.gate.or(file.gate).unwrap_or(GateRule::Authors);
    let penalty = if xi.is_some() && gate == GateRule::Authors { 10.0 } else { 0.0 };
    let settings = Settings {
        method,
        model_id: flags.model_id.clone().or(file.model_id).unwrap_or_else(|| "default".to_owned()),
        rank: flags.rank.or(file.rank).unwrap_or(8),
        alpha: flags.alpha.or(file.alpha).unwrap_or(16.0),
        target_modules: flags.target_modules.clone().or(file.target_modules).unwrap_or_default(),
        gate,
        target_ratio: if xi.is_none() && lambda.is_none() { Some(ratio.unwrap_or(0.65)) } else { None },
        xi,
        lambda,
        sparse_lambda: flags.sparse_lambda.or(file.sparse_lambda).unwrap_or(penalty),
        epochs: flags.epochs.or(file.epochs).unwrap_or(8),
        batch_size: flags.batch_size.or(file.batch_size).unwrap_or(32),
        lr: flags.lr.or(file.lr).unwrap_or(1e-3),
        warmup: flags.warmup.or(file.warmup).unwrap_or(0.06),
        weight_decay: flags.weight_decay.or(file.weight_decay).unwrap_or(0.01),
        clip: flags.clip.or(file.clip).unwrap_or(1.0),
        dropout: flags.dropout.or(file.dropout),
        dropout_after: flags.dropout_after.or(file.dropout_after).unwrap_or(0),
        dtype: flags.dtype.or(file.dtype).unwrap_or_default(),
        max_length: flags.max_length.or(file.max_length).unwrap_or(0),
        seed: flags.seed.or(file.seed).unwrap_or(0),
    };
    let data = Flags {
        task: flags.task.or(file.task),
        problem_type: flags.problem_type.or(file.problem_type),
        validation_split: flags.validation_split.or(file.validation_split),
        ..Flags::default()
    };
    Ok((settings, data))
}

/// Whether `output` may be written: absent, empty, or given up by a flag. Nothing is touched before this.
fn claim(args: &TrainArgs) -> Result<PathBuf, Error> {
    let output = &args.output;
    let io = |source| Error::Io { path: output.clone(), source };
    let full = output.is_dir() && fs::read_dir(output).map_err(io)?.next().is_some();
    if full && !args.resume && !args.overwrite {
        return Err(Error::OutputExists(output.clone()));
    }
    if full && args.overwrite {
        for name in ["adapter_config.json", "adapter_model.safetensors", "config.json"] {
            match fs::remove_file(output.join(name)) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(io(source)),
                _ => {}
            }
        }
        if output.join("run").exists() {
            fs::remove_dir_all(output.join("run")).map_err(io)?;
        }
    }
    let run = output.join("run");
    fs::create_dir_all(&run).map_err(io)?;
    Ok(run)
}

fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn train(args: &TrainArgs) -> Result<(), Error> {
    let (mut settings, of_data) = settings(args)?;
    settings.check()?;
    let options = DataOptions {
        task: of_data.task,
        problem: of_data.problem_type.map(Into::into),
        validation_split: of_data.validation_split.unwrap_or(0.1),
        seed: settings.seed,
    };
    let data = TaskData::load(&args.data, &options)?;
    let engine = open(&settings.model_id, &args.device, settings.dtype)?;
    if settings.max_length == 0 {
        settings.max_length = engine.max_length().min(128);
    }
    settings.modules(&engine)?;
    let run = claim(args)?;
    let config = run.join("config.toml");
    let text = toml::to_string(&settings)
        .map_err(|error| Error::Malformed { path: config.clone(), reason: error.to_string() })?;
    if args.resume && config.exists() {
        let before = fs::read_to_string(&config).map_err(|source| Error::Io { path: config.clone(), source })?;
        if before != text {
            return Err(Error::Settings(format!("--resume: {} says other settings than this call", config.display())));
        }
    }
    write_text(&config, &text)?;
    let facts = TaskFacts { labels: data.labels.clone(), problem: data.problem };
    write_text(&run.join("task.json"), &serde_json::to_string(&facts).unwrap_or_default())?;
    let trainer = Trainer::new(&settings, &engine, &data, args.resume.then_some(&run))?;
    let best = trainer.run(&run)?;
    export(&engine, &settings, &facts, &best, &args.output)
}

/// Prunes the checkpoint and writes the adapter; prints its ranks.
fn export(
    engine: &Engine,
    settings: &Settings,
    facts: &TaskFacts,
    checkpoint: &Path,
    output: &Path,
) -> Result<(), Error> {
    let method = LowRank::new(engine.layout(), &settings.low_rank(engine, facts.labels.len())?, engine.device())?;
    let rule =
        StepRule { weight_decay: 0.0, eps: 1e-8, clip: None, gate: settings.gate, threshold: Threshold::Xi(0.0) };
    checkpoint::load(checkpoint, &mut Optimizer::new(method.trainables(), rule))?;
    let adapter = adapter_of(&method, engine, &facts.labels, facts.problem, &settings.model_id)?;
    fs::create_dir_all(output).map_err(|source| Error::Io { path: output.to_owned(), source })?;
    adapter::write(output, engine.layout(), &adapter)?;
    print(&format!("{}\nwritten to {}", Report::new(engine.layout(), &adapter), output.display()))
}

fn prune(args: &PruneArgs) -> Result<(), Error> {
    let run = args.checkpoint.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let read = |name: &str| {
        let path = run.join(name);
        fs::read_to_string(&path).map(|text| (path.clone(), text)).map_err(|source| Error::Io { path, source })
    };
    let (path, text) = read("config.toml")?;
    let settings: Settings =
        toml::from_str(&text).map_err(|error| Error::Malformed { path, reason: error.to_string() })?;
    let (path, text) = read("task.json")?;
    let facts: TaskFacts =
        serde_json::from_str(&text).map_err(|error| Error::Malformed { path, reason: error.to_string() })?;
    if args.output.is_dir() && fs::read_dir(&args.output).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Settings(format!("{} is not empty", args.output.display())));
    }
    let engine = Engine::open(&model::ensure(&settings.model_id)?, &Device::Cpu)?;
    export(&engine, &settings, &facts, &args.checkpoint, &args.output)
}

fn run_evaluate(args: &EvaluateArgs) -> Result<(), Error> {
    let engine = open(&args.model_id, &args.device, args.dtype)?;
    let adapter = engine.load_adapter(&args.adapter)?;
    let options = DataOptions {
        task: args.task.clone(),
        problem: adapter.problem_type,
        validation_split: args.validation_split,
        seed: args.seed,
    };
    let result = evaluate(&engine, adapter, &TaskData::load(&args.data, &options)?, &args.split)?;
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
