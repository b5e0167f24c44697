//! The command line. Exit codes: 0 for success, 1 for a failure (printed in one line), 2 for flags that do not exist or cannot be read,
//! 130 for a run that a signal stopped.

mod bench;
mod evaluate;
mod extract;
mod interrupt;
mod layers;
mod prune;
mod ranks;
mod report;
mod schedule;
mod sweep;
mod train;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use polyrank::allocator;
use polyrank::base::{self, Sources};
use polyrank::command_line::{self, Ignored};
use polyrank::engine::Engine;
use polyrank::inspect::Report;
use polyrank::logging::{in_one_line, log_to_stderr, printable};
use polyrank::params::{DeviceName, Precision};
use polyrank_training::data::TaskData;
use polyrank_training::error::Error;
use polyrank_training::evaluate::Parameters;
use polyrank_training::export;
use polyrank_training::method::Export;
use polyrank_training::run::Facts;
use polyrank_training::settings::Settings;

const EXAMPLES: &str = "\
Examples:
  polyrank-train train --data tasks/sentiment --output adapters/sentiment
  polyrank-train train --data reviews.csv --text-column review --label-column stars --output adapters/stars
  polyrank-train train --data tasks/sentiment --output adapters/sentiment --resume
  polyrank-train evaluate --adapter adapters/sentiment --data tasks/sentiment --split test
  polyrank-train sweep examples/sweep/paper.toml --data-root data/glue --output runs/table1
  polyrank-train report runs/table1 --output reports/table1
  polyrank-train extract --model models/sentiment-minilm --output adapters/sentiment";

/// The variables that only this program has.
const VARIABLES: &str = "POLYRANK_TRAIN_*  Settings of a run, such as POLYRANK_TRAIN_RANK; train --help names them";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  polyrank-train completions bash > ~/.local/share/bash-completion/completions/polyrank-train
  polyrank-train completions fish > ~/.config/fish/completions/polyrank-train.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  polyrank-train man ~/.local/share/man/man1 && man polyrank-train-train";

/// Trains, prunes, extracts and evaluates adapters for polyrank.
#[derive(Debug, Parser)]
#[command(name = "polyrank-train", version, about, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train an adapter on a task's data, prune it and write it.
    #[command(after_help = train::EXAMPLES)]
    Train(Box<train::TrainArgs>),
    /// Train in stages with rising thresholds (SoRA's Algorithm 1), and write an adapter for each.
    #[command(after_help = schedule::EXAMPLES)]
    Schedule(Box<schedule::ScheduleArgs>),
    /// Prune a checkpoint exactly and write it as an adapter.
    #[command(after_help = prune::EXAMPLES)]
    Prune(prune::PruneArgs),
    /// Print an adapter's metrics on a split as JSON.
    #[command(after_help = evaluate::EXAMPLES)]
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Run tasks x methods x ranks x seeds from one file.
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(sweep::SweepArgs),
    /// Write tables and figures about runs.
    #[command(after_help = report::EXAMPLES)]
    Report(report::ReportArgs),
    /// Write a fine-tuned transformers classifier as an adapter of its base.
    #[command(after_help = extract::EXAMPLES)]
    Extract(Box<extract::ExtractArgs>),
    /// Print the speed of training steps on random texts as JSON.
    #[command(hide = true)]
    Bench(Box<bench::BenchArgs>),
    /// Print a completion script for a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// bash, zsh, fish, ...
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command.
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// Folder to write to; it is created if it does not exist.
        dir: PathBuf,
    },
}

pub(crate) fn main() -> ExitCode {
    let (command_line, ignored) = command_line::tolerant(command());
    let cli = Cli::from_arg_matches(&command_line.get_matches()).unwrap_or_else(|error| error.exit());
    log_to_stderr(false);
    base::report_bus_errors(false);
    ignored.iter().for_each(Ignored::log);
    let result = match cli.command {
        Command::Train(args) => train::train(&args),
        Command::Schedule(args) => schedule::schedule(&args),
        Command::Prune(args) => prune::prune(&args),
        Command::Evaluate(args) => evaluate::evaluate(&args),
        Command::Sweep(args) => sweep::sweep(&args),
        Command::Report(args) => report::report(&args),
        Command::Extract(args) => extract::extract(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Completions { shell } => printed(command_line::print_completions(shell, &mut command())),
        Command::Man { dir } => command_line::write_manual(command(), &dir).map_err(Error::io(&dir)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ Error::Stopped { .. }) => {
            eprint(interrupt::resume_message(&error, interrupt::arguments()));
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(Error::SweepStopped { finished, all }) => {
            eprint(interrupt::continue_message(finished, all, interrupt::arguments()));
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            eprint(format_args!("error: {}", in_one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The description of the command line. `extract` reads data as `train` does, but refuses weights of classes, and takes nothing from the
/// variables, which are settings of a run.
fn command() -> clap::Command {
    let of_extract = |extract: clap::Command| {
        extract.mut_args(|arg| arg.env(None::<&str>)).mut_arg("class_weights", |weights| weights.hide(true))
    };
    command_line::without_values(command_line::with_environment(Cli::command(), VARIABLES))
        .mut_subcommand("extract", of_extract)
        .mut_subcommand("schedule", schedule::without_what_it_refuses)
}

/// A base and its folder.
struct Base {
    dir: PathBuf,
    engine: Engine,
}

/// Opens the base, which is downloaded if it is missing.
fn open(model_id: &str, device: DeviceName, dtype: Precision) -> Result<Base, Error> {
    let dir = base::ensure(model_id)?;
    let engine = Engine::prepacked(&dir, &device.open().map_err(polyrank::engine::Error::from)?, dtype, cache())?;
    allocator::retain_pages();
    Ok(Base { dir, engine })
}

/// The cache of prepacked weights. A base in a folder can be used without one.
fn cache() -> Option<PathBuf> {
    Sources::from_env().ok().map(|sources| sources.home)
}

/// Prints how the labels were read, and the warnings about them.
fn print_reading(data: &TaskData) {
    eprint(format_args!("labels: {}", printable(&data.reading)));
    if !data.class_weights.is_empty() {
        let weight = |(name, weight): (&String, &f64)| format!("{name} {weight:.4}");
        let weights: Vec<String> = data.labels.iter().zip(&data.class_weights).map(weight).collect();
        eprint(format_args!("class weights: {}", printable(&weights.join(", "))));
    }
    data.warnings.iter().for_each(|warning| eprint(format_args!("warning: {}", printable(warning))));
}

/// Prunes the checkpoint, writes what it holds, and prints the ranks of an adapter, or the number of parameters of another method.
fn export(base: &Base, settings: &Settings, facts: &Facts, checkpoint: &Path, output: &Path) -> Result<(), Error> {
    let engine = &base.engine;
    let (export, progress) = export::from_checkpoint(checkpoint, engine, settings, facts)?;
    export::write(output, engine, &export, &base.dir)?;
    let summary = match &export {
        // The counts are those of the log, and not those of the written files.
        Export::Adapter(adapter) if adapter.delta_parameters() == 0 => {
            let report = Report::new(engine.layout(), adapter);
            format!("{report}\nno rank is left; the files hold one without effect, because PEFT's format needs one")
        }
        Export::Adapter(_) => Report::new(engine.layout(), &engine.load_adapter(output)?).to_string(),
        Export::Model(_) | Export::Bottlenecks(_) => {
            let Parameters { adapter, head } = Parameters::of(&export);
            format!("{adapter} trained parameters, and {head} of the head")
        }
    };
    print(&format!("{summary}\nwritten to {}, as it was {progress}", output.display()))
}

/// Prints a line to standard error, for the user.
fn eprint(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), Error> {
    printed(writeln!(std::io::stdout(), "{text}"))
}

/// The result of writing to standard output. It is not an error if the program that reads it has ended.
fn printed(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io(Path::new("standard output"))(source))
        }
        _ => Ok(()),
    }
}
