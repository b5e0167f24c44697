//! `polyrank-train evaluate`: prints an adapter's metrics.

use std::path::{Path, PathBuf};

use clap::Args;
use polyrank::adapter::{AdapterInfo, ProblemType};
use polyrank::base::Dataset;
use polyrank::engine::Engine;
use polyrank::logging::printable;
use polyrank::params::{DeviceName, Precision};
use polyrank::text::records::ColumnNames;
use polyrank_training::data::{DataOptions, HoldOut, TaskData};
use polyrank_training::error::Error;
use polyrank_training::method::Export;
use polyrank_training::run::{Facts, Folders};
use polyrank_training::settings::{VALIDATION_SPLIT, source};
use polyrank_training::{evaluate, export};

use super::{cache, eprint, open, print, print_reading};

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train evaluate --adapter adapters/sentiment --data tasks/sentiment
  polyrank-train evaluate --adapter adapters/sentiment --data tasks/sentiment --split test --json
  polyrank-train evaluate --adapter adapters/stars --data more.csv --text-column review --label-column stars";

#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    /// The base: a folder, a hub id or default; ignored if --adapter is a model of its own (method full or bitfit).
    #[arg(long, value_name = "M", default_value = "default")]
    model_id: String,
    /// The folder that train wrote: an adapter, bottlenecks or a model.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder with the task's data, or one file; without train.* and labels.txt, labels are read by the adapter's labels.
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Dataset on the hub, instead of --data.
    #[arg(long, value_name = "ORG/NAME", help_heading = "Data")]
    dataset: Option<String>,
    /// Configuration of the dataset [default: the only one].
    #[arg(long, value_name = "NAME", requires = "dataset", help_heading = "Data")]
    dataset_config: Option<String>,
    /// Branch, tag or commit of the dataset [default: main].
    #[arg(long, value_name = "REVISION", requires = "dataset", help_heading = "Data")]
    dataset_revision: Option<String>,
    /// Split to evaluate on: validation, test, train, or the name of another file.
    #[arg(long, default_value = "validation", help_heading = "Data")]
    split: String,
    /// Name of the task, which decides the metric [default: as in the adapter's run, else the folder's name].
    #[arg(long, help_heading = "Data")]
    task: Option<String>,
    /// Column of the labels [default: as in the adapter's run, else label].
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    label_column: Option<String>,
    /// Column of the texts [default: as in the adapter's run, else sentence, sentence1 or text].
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    text_column: Option<String>,
    /// Column of the second texts [default: as in the adapter's run, else sentence2 or text_pair].
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    text_pair_column: Option<String>,
    /// Maximum number of tokens of a text [default: the base's maximum, as in serving].
    #[arg(long, help_heading = "Data")]
    max_length: Option<usize>,
    /// Share of train that was held out, if there is no validation file [default: as in the adapter's run].
    #[arg(long, help_heading = "Data")]
    validation_split: Option<f64>,
    /// Random seed that chose the held-out rows [default: as in the adapter's run].
    #[arg(long, help_heading = "Data")]
    seed: Option<u64>,
    /// Folder of the adapter's run [default: run in the adapter's folder].
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    run_dir: Option<PathBuf>,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu", help_heading = "Device")]
    device: DeviceName,
    /// Precision of the base's matrix products.
    #[arg(long, value_enum, default_value_t = Precision::F32, help_heading = "Device")]
    dtype: Precision,
    /// Tell precision, recall and F1 of each label, too.
    #[arg(long)]
    per_label: bool,
    /// Print the JSON on one line.
    #[arg(long)]
    json: bool,
}

impl EvaluateArgs {
    /// The dataset on the hub, if one is given.
    fn of_hub(&self) -> Option<Dataset<'_>> {
        let (config, revision) = (self.dataset_config.as_deref(), self.dataset_revision.as_deref());
        self.dataset.as_deref().map(|id| Dataset { id, config, revision })
    }
}

/// Runs the command.
pub(super) fn evaluate(args: &EvaluateArgs) -> Result<(), Error> {
    let source = source(args.data.as_deref(), args.of_hub())?;
    let (engine, export, recorded) = opened(args)?;
    let run = Folders::new(&args.adapter, args.run_dir.as_deref()).run;
    let facts = Facts::of_adapter(&run)?;
    let data = data_of(args, &source, export.info(), &run, facts.as_ref())?;
    print_reading(&data);
    let mut result = evaluate::evaluate(&engine, &export, &data, &args.split, args.max_length)?;
    if args.split == "validation" {
        for split in data.validation.iter().skip(1) {
            let also = evaluate::evaluate(&engine, &export, &data, &split.name, args.max_length)?;
            result.also.insert(also.split, also.metrics);
        }
    }
    if !args.per_label {
        result.per_label.clear();
    }
    result.parameters = recorded.unwrap_or(result.parameters);
    result.warnings.iter().for_each(|warning| eprint(format_args!("warning: {}", printable(warning))));
    let text = if args.json { serde_json::to_string(&result) } else { serde_json::to_string_pretty(&result) };
    print(&text.map_err(Error::json("the metrics"))?)
}

/// The engine, what a method left in the adapter's folder, and the numbers of parameters that a model's folder records. A model is
/// its own base.
fn opened(args: &EvaluateArgs) -> Result<(Engine, Export, Option<evaluate::Parameters>), Error> {
    if export::is_model(&args.adapter) {
        let device = args.device.open().map_err(polyrank::engine::Error::from)?;
        let (engine, export, parameters) = export::read_model(&args.adapter, &device, args.dtype, cache())?;
        return Ok((engine, export, Some(parameters)));
    }
    let engine = open(&args.model_id, args.device, args.dtype)?.engine;
    let export = export::read(&args.adapter, &engine)?;
    Ok((engine, export, None))
}

/// The data to evaluate on, read as the adapter's run read its own.
fn data_of(
    args: &EvaluateArgs,
    source: &Path,
    info: &AdapterInfo,
    run: &Path,
    facts: Option<&Facts>,
) -> Result<TaskData, Error> {
    let of_run = facts.and_then(|facts| facts.held_out);
    let by_hand = args.validation_split.is_some() || args.seed.is_some();
    let hold_out = (by_hand || of_run.is_some()).then(|| HoldOut {
        share: args.validation_split.or(of_run.map(|of_run| of_run.share)).unwrap_or(VALIDATION_SPLIT),
        seed: args.seed.or(of_run.map(|of_run| of_run.seed)).unwrap_or(0),
    });
    let of_hub = args.of_hub().map(|dataset| dataset.task().to_owned());
    let columns = facts.map(|facts| facts.columns.clone()).unwrap_or_default();
    let options = DataOptions {
        task: args.task.clone().or(facts.map(|facts| facts.task.clone())).or(of_hub),
        // For `transformers`, too, an adapter with one output and no problem type is a regression.
        problem: info.problem_type.or((info.labels.len() == 1).then_some(ProblemType::Regression)),
        hold_out,
        columns: ColumnNames {
            label: args.label_column.clone().or(columns.label),
            text: args.text_column.clone().or(columns.text),
            pair: args.text_pair_column.clone().or(columns.pair),
        },
        class_weights: None,
        labels: Some(info.labels.clone()),
        max_train_samples: None,
    };
    if facts.is_none() && !by_hand && source.is_file() && args.split == "validation" {
        eprint(format_args!(
            "{}: all rows are evaluated, also those that the adapter was trained on, if there are any; it has no run in {} that says which \
             rows were held out",
            source.display(),
            run.display()
        ));
    }
    let (Some(facts), Some(_), false) = (facts, of_run, by_hand) else {
        return Ok(TaskData::load(source, &options)?);
    };
    if source.is_file() {
        // The file may be the one that the run trained on, or one with other rows.
        return match TaskData::load(source, &options) {
            Ok(data) if facts.held_out_of(&data) => Ok(data),
            _ => {
                let data = TaskData::load(source, &DataOptions { hold_out: None, ..options })?;
                eprint(format_args!(
                    "{}: these are not exactly the rows of which the adapter's run held out a share; all of them are evaluated, \
                     also those that it trained on, if there are any",
                    source.display()
                ));
                Ok(data)
            }
        };
    }
    let data = TaskData::load(source, &options)?;
    if data.held_out.is_some() && matches!(&*args.split, "train" | "validation") {
        facts.check_held_out(run, &data)?;
    }
    Ok(data)
}
