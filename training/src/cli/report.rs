//! `polyrank-train report`: tables and figures about runs.

use std::path::PathBuf;

use clap::Args;
use polyrank_training::error::Error;
use polyrank_training::report;

use super::eprint;

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train report runs/table1 --output reports/table1
  polyrank-train report runs --output reports/all

RUNS may hold outputs of train, of sweep and of schedule, and folders of --run-dir, at any depth. Of runs that are gone, a sweep's
results.jsonl is enough. The report is report.md, with each table as CSV and each figure as SVG and PNG beside it:
  runs.csv               every run
  table1 to table4       methods by tasks; ranks; target modules; seconds an epoch: as in the SoRA paper
  compression            parameters against what is kept of the metric, over the stages of schedules
  ranks-METHOD           layers by modules, for each task
  training-TASK          loss, threshold and mean rank over the steps";

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Folder of runs.
    runs: PathBuf,
    /// Folder to write the report to. Files of an earlier report are replaced, and no others.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// Runs the command.
pub(super) fn report(args: &ReportArgs) -> Result<(), Error> {
    let written = report::write(&args.runs, &args.output)?;
    for note in &written.notes {
        eprint(format_args!("note: {note}"));
    }
    eprint(format_args!("{} runs, {} files in {}", written.runs, written.files, args.output.display()));
    Ok(())
}
