//! `polyrank completions` and `polyrank man`: files that are generated from the description of the command line.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

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
    let name = command.get_name().to_owned();
    // The generator panics if it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, name, &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}

/// Writes a manual page for the program and one for each command.
pub(super) fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    let write = |dir: &Path| fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
    write(&args.dir).map_err(|error| format!("{}: {error}", args.dir.display()).into())
}
