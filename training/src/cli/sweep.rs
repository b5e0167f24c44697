//! `polyrank-train sweep`: runs tasks x methods x ranks x seeds from one file.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use polyrank_training::error::Error;
use polyrank_training::sweep::{self, Capacity, Job, Spec};

use super::{eprint, interrupt, print};

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train sweep examples/sweep/paper.toml --data-root data/glue --output runs/table1
  polyrank-train sweep examples/sweep/paper.toml --data-root data/glue --output runs/table1 --cores 16 --at-once 4
  polyrank-train sweep examples/sweep/paper.toml --data-root data/glue --output runs/table1 --list > jobs.jsonl

A sweep's file has tasks, methods, ranks and seeds, and any setting of train:
  data_root = \"data/glue\"
  output = \"runs/table1\"
  tasks = [\"mrpc\", \"rte\"]
  methods = [\"sora\", \"lora\"]
  ranks = [8]
  seeds = [0, 21, 42]
  lr = [5e-4, 1e-3]            # several values are several runs
  [method.sora]                # only for a method; [task.NAME] likewise, with data = PATH
  target_ratio = 0.65
  [variant.qv]                 # settings that belong together; each run has one variant
  target_modules = [\"query\", \"value\"]
  ranks = [24]
Stronger sections replace weaker ones: a variant's, a task's, a method's, the top.

Each run is the folder OUTPUT/TASK/METHOD-rRANK[-SETTINGS]-sSEED, its messages are in the file of the same name with .log, and
OUTPUT/results.jsonl has a line for each finished run. The same command again continues: finished runs are kept, also those that the
commands of --list ran. With other settings or data than a run was started with, also with more epochs, the run fails and stays as it is:
give another --output, or remove its folder. Ctrl-C stops the runs after their current step.";

#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// The sweep's file.
    #[arg(value_name = "SWEEP.toml")]
    file: PathBuf,
    /// Folder of the runs [default: output in the file].
    #[arg(long, value_name = "RUNS")]
    output: Option<PathBuf>,
    /// Folder of the tasks' folders [default: data_root in the file].
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Cores for all runs together [default: all].
    #[arg(long, value_name = "N")]
    cores: Option<NonZeroUsize>,
    /// Number of runs at the same time, which share the cores evenly.
    #[arg(long, value_name = "N", default_value = "1")]
    at_once: NonZeroUsize,
    /// Print the runs as JSON lines with name, command and output, in order to run them elsewhere, and run nothing.
    #[arg(long)]
    list: bool,
}

/// Runs the command.
pub(super) fn sweep(args: &SweepArgs) -> Result<(), Error> {
    let spec = Spec::read(&args.file)?;
    let output = args.output.clone().or_else(|| spec.output.clone());
    let output = output.ok_or_else(|| Error::malformed(&args.file, "expected --output RUNS, or output in the file"))?;
    let jobs = sweep::expand(&spec, &output, args.data_root.as_deref())?;
    if args.list {
        return list(&jobs);
    }
    let cores = args.cores.map_or_else(std::thread::available_parallelism, Ok);
    let cores = cores.map_err(|source| Error::Settings(format!("--cores: {source}")))?;
    let stop = interrupt::flag()?;
    let summary = sweep::run(&spec, &jobs, &output, Capacity { cores, at_once: args.at_once }, &stop)?;
    let (finished, all) = (summary.finished, summary.all);
    eprint(format_args!("{finished} of {all} runs are finished; results are in {}", output.display()));
    summary.failed.iter().for_each(|(name, reason)| eprint(format_args!("failed: {name}: {reason}")));
    match summary.failed.len() {
        _ if summary.stopped => Err(Error::SweepStopped { finished, all }),
        0 => Ok(()),
        failed => Err(Error::FailedRuns { failed, all }),
    }
}

/// Prints the runs. One that the sweep itself would refuse is reported as failed instead: its command would make a run longer.
fn list(jobs: &[Job]) -> Result<(), Error> {
    let (mut failed, all) = (0, jobs.len());
    for job in jobs {
        match sweep::check_length(job) {
            Ok(()) => print(&serde_json::to_string(job).map_err(Error::json(&job.name))?)?,
            Err(error) => {
                eprint(format_args!("failed: {}: {error}", job.name));
                failed += 1;
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(Error::FailedRuns { failed, all }) }
}
