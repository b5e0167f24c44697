//! The command line. Exit codes: 0, 1 for a failure told in one line, 2 for wrong usage.

mod bench;
mod classify;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod units;

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::{Args, Parser, Subcommand};
use polyrank::adapter;
use polyrank::allocator;
use polyrank::base::{self, Sources};
use polyrank::engine::Engine;
use polyrank::inspect::{Comparison, Report};
use polyrank::logging::{causes, in_one_line, log_to_stderr};
use polyrank::params::DeviceName;
use polyrank::params::Layout;
use polyrank::params::Precision;
use serde::Serialize;

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
    /// Print an adapter's ranks, parameters, base and labels, or compare several adapters.
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
        // A folder may be served where there is no cache.
        let cache = Sources::from_env().ok().map(|sources| sources.home);
        let engine = Engine::prepacked(&base::ensure(&self.model_id)?, &device, self.dtype, cache)?;
        allocator::retain_pages();
        Ok(engine)
    }
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// The adapter's folder; two or more are compared side by side.
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Check each against this base as well: a folder, a hub id or `default`.
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
            let _ = writeln!(io::stderr(), "error: {}", in_one_line(&*failure));
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
                Some(id) => base::pull_adapter(&id)?,
                None => base::pull(model.as_deref())?,
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

fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let engine = match &args.model_id {
        Some(base) => Some(Engine::open(&base::ensure(base)?, &Device::Cpu)?),
        None => None,
    };
    let look = |dir: &Path| -> Result<(Layout, Report), Failure> {
        let (layout, adapter) = match &engine {
            Some(engine) => (engine.layout().clone(), engine.load_adapter(dir)?),
            None => adapter::peek(dir)?,
        };
        let report = Report::new(&layout, &adapter);
        Ok((layout, report))
    };
    if let [dir] = &*args.dirs {
        return show(&look(dir)?.1, args.json);
    }
    let mut adapters = Vec::new();
    for dir in &args.dirs {
        let (layout, report) = look(dir)?;
        adapters.push((dir.clone(), layout, report));
    }
    show(&Comparison::new(adapters)?, args.json)
}

fn show<T: Display + Serialize>(found: &T, json: bool) -> Result<(), Failure> {
    if json { print(format_args!("{}", serde_json::to_string(found)?)) } else { print(format_args!("{found}")) }
}

fn print(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

fn is_broken_pipe(failure: &(dyn StdError + 'static)) -> bool {
    causes(failure).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
