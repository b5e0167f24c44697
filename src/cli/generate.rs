//! `polyrank completions` and `polyrank man`: files that are generated from the description of the command line.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use polyrank::command_line;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell to write the script for
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  polyrank completions bash > ~/.local/share/bash-completion/completions/polyrank
  polyrank completions zsh > ~/.zfunc/_polyrank
  polyrank completions fish > ~/.config/fish/completions/polyrank.fish";

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder to write to; it is created if it does not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  polyrank man ~/.local/share/man/man1 && man polyrank-serve";

pub(super) fn completions(args: &CompletionsArgs, command: &mut Command) -> Result<(), Failure> {
    Ok(command_line::print_completions(args.shell, command)?)
}

pub(super) fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    command_line::write_manual(command, &args.dir).map_err(|error| format!("{}: {error}", args.dir.display()).into())
}
