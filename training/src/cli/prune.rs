//! `polyrank-train prune`: writes a checkpoint as an adapter.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::Args;
use polyrank::base;
use polyrank::engine::Engine;
use polyrank_training::error::Error;
use polyrank_training::{checkpoint, run};

use super::{Base, export};

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train prune adapters/intent/run/checkpoint-64 --output adapters/intent-64

A run keeps its best checkpoint and its last, or all of them with --keep-checkpoints. What is written is what the run would have written,
had it ended there.";

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// The folder checkpoint-N of a run.
    checkpoint: PathBuf,
    /// The base, if it is no longer where the run found it.
    #[arg(long, value_name = "M")]
    model_id: Option<String>,
    /// Folder to write the adapter to; it must be empty or absent.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// Runs the command.
pub(super) fn prune(args: &PruneArgs) -> Result<(), Error> {
    // The parent of a path such as `.` is known only from the absolute path.
    let checkpoint = args.checkpoint.canonicalize().unwrap_or_else(|_| args.checkpoint.clone());
    let run = checkpoint.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    if !checkpoint.join("state.json").is_file() {
        return Err(no_checkpoint(&args.checkpoint));
    }
    let (mut settings, facts) = run::recorded(&run)?;
    if let Some(model_id) = &args.model_id {
        settings.model_id.clone_from(model_id);
    }
    run::check_empty(&args.output)?;
    let dir = base::ensure(&settings.model_id)?;
    let engine = Engine::open(&dir, &Device::Cpu)?;
    facts.check_base(&run, engine.base_fingerprint())?;
    let _output = run::LockedOutput::new(&args.output)?;
    run::check_empty(&args.output)?;
    export(&Base { dir, engine }, &settings, &facts, &checkpoint, &args.output)
}

/// The error for a folder that is no checkpoint. It names one if the folder is that of an adapter with its run.
fn no_checkpoint(dir: &Path) -> Error {
    let last = checkpoint::last(&dir.join("run")).ok().flatten();
    Error::NotCheckpoint { dir: dir.to_owned(), last }
}
