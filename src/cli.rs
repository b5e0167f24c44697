//! The command line. Exit codes: 0, 1 for a failure told in one line, 2 for wrong usage.

mod bench;
mod classify;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod units;

use std::error::Error as StdError;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use clap::{Args, Parser, Subcommand};
use polyrank::adapter;
use polyrank::device::DeviceName;
use polyrank::engine::Engine;
use polyrank::inspect::Report;
use polyrank::kernel::prepacked::Precision;
use polyrank::model::{self, Sources};
use polyrank::pages;
use tracing_subscriber::EnvFilter;

/// Any failure; each carries its own operands.
type Failure = Box<dyn StdError + Send + Sync>;

/// One frozen encoder, many task adapters, each layer its own rank.
#[derive(Debug, Parser)]
#[command(name = "polyrank", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a base, or an adapter, into the cache and print its folder.
    Pull {
        /// `default`, a hub id (ORG/NAME, or ORG/NAME@REVISION) or a folder.
        #[arg(value_name = "MODEL")]
        model: Option<String>,
        /// An adapter's hub id instead.
        #[arg(long, value_name = "ID", conflicts_with = "model")]
        adapter: Option<String>,
    },
    /// Serve the adapters of a folder over HTTP.
    #[cfg(feature = "server")]
    Serve(serve::ServeArgs),
    /// Classify texts with one adapter: one JSON line a text.
    Classify(classify::ClassifyArgs),
    /// Measure throughput and latency over a folder of adapters.
    Bench(bench::BenchArgs),
    /// Print an adapter's ranks, parameters, base and labels.
    Inspect(InspectArgs),
}

/// The base and where it computes.
#[derive(Debug, Args)]
struct BaseArgs {
    /// The base: a folder, a hub id or `default`.
    #[arg(long, env = "POLYRANK_MODEL_ID", value_name = "M", default_value = "default")]
    model_id: String,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, env = "POLYRANK_DEVICE", default_value = "cpu")]
    device: DeviceName,
    /// What the base's products run in; bf16 and int8 on the CPU only.
    #[arg(long, env = "POLYRANK_DTYPE", value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
}

impl BaseArgs {
    /// The base, pulled if it is missing.
    fn open(&self) -> Result<Engine, Failure> {
        let device = self.device.open()?;
        let cache = Sources::from_env()?.home;
        let engine = Engine::prepacked(&model::ensure(&self.model_id)?, &device, self.dtype, Some(cache))?;
        pages::keep();
        Ok(engine)
    }
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// The adapter's folder.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Check it against this base as well: a folder, a hub id or `default`.
    #[arg(long, value_name = "M")]
    model_id: Option<String>,
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough of it.
        Err(failure) if is_broken_pipe(&*failure) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "error: {}", chain(&*failure));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    #[cfg(feature = "server")]
    let json_logs = matches!(&command, Command::Serve(args) if args.json_output);
    #[cfg(not(feature = "server"))]
    let json_logs = false;
    log_to_stderr(json_logs);
    match command {
        Command::Pull { model, adapter } => {
            let dir = match adapter {
                Some(id) => model::pull_adapter(&id)?,
                None => model::pull(model.as_deref())?,
            };
            print(format_args!("{}", dir.display()))
        }
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::serve(args),
        Command::Classify(args) => classify::classify(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Inspect(args) => inspect(&args),
    }
}

/// `RUST_LOG` chooses what is told; by default, information of ours and warnings of others.
fn log_to_stderr(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,polyrank=info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A log that nobody reads any more, a closed pipe, must not take the process down with it.
    let logs = logs.log_internal_errors(false);
    match json {
        true => logs.json().init(),
        false => logs.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
    }
}

fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let report = match &args.model_id {
        Some(base) => {
            let engine = Engine::open(&model::ensure(base)?, &Device::Cpu)?;
            Report::new(engine.layout(), &engine.load_adapter(&args.dir)?)
        }
        None => {
            let (layout, adapter) = adapter::peek(&args.dir)?;
            Report::new(&layout, &adapter)
        }
    };
    match args.json {
        true => print(format_args!("{}", serde_json::to_string(&report)?)),
        false => print(format_args!("{report}")),
    }
}

fn print(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

fn causes<'a>(failure: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(failure), |&error| error.source())
}

fn is_broken_pipe(failure: &(dyn StdError + 'static)) -> bool {
    causes(failure).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The failure and its causes in one line; a cause that its effect already tells is left out.
fn chain(failure: &(dyn StdError + 'static)) -> String {
    let mut line = String::new();
    for cause in causes(failure).map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}
