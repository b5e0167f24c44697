//! What the command lines of `polyrank` and `polyrank-train` share: which variables of the environment count, suggestions for
//! misspelt names, and the files that are generated from the description of a command line.

mod environment;
mod suggestion;

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

pub use self::environment::{Ignored, tolerant};
pub use self::suggestion::suggestion;

/// The variables that both programs have, for their help.
const ENVIRONMENT: &str = "\
Environment:
  POLYRANK_HOME     Folder of pulled bases [default: the platform's folder for caches]
  HF_ENDPOINT       Address of the hub
  HF_TOKEN          Token sent to the hub
  HF_HUB_OFFLINE    1 never asks the hub
  RAYON_NUM_THREADS Threads [default: all cores]
  RUST_LOG          What is logged [default: warn,polyrank=info]";

/// The command line, whose help ends with the variables of both programs and `own`, a line for those that only this one has.
#[must_use]
pub fn with_environment(command: Command, own: &str) -> Command {
    let before = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command.after_help(format!("{before}\n\n{ENVIRONMENT}\n  {own}"))
}

/// The command line without the values of environment variables, which its help would show: they may be secrets, and manual pages must
/// not depend on the machine on which they are written. A negative number is the value of its flag, which says what it expects, and no
/// unknown flag.
#[must_use]
pub fn without_values(command: Command) -> Command {
    command.mut_subcommands(|command| {
        command.mut_args(|arg| {
            let takes = arg.get_action().takes_values();
            arg.hide_env_values(true).allow_negative_numbers(takes)
        })
    })
}

/// Writes a completion script for `shell` to standard output.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_completions(shell: Shell, command: &mut Command) -> io::Result<()> {
    let name = command.get_name().to_owned();
    // The generator panics if it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    io::stdout().lock().write_all(&script)
}

/// Writes a manual page for the program and one for each command to the folder `dir`, which is created if it does not exist.
///
/// # Errors
/// A file cannot be written.
pub fn write_manual(command: Command, dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)
}
