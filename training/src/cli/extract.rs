//! `polyrank-train extract`: writes a fine-tuned classifier as an adapter of its base.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use polyrank::adapter::Adapter;
use polyrank::atomic_file;
use polyrank::base;
use polyrank::engine::Engine;
use polyrank::inspect;
use polyrank::logging::printable;
use polyrank::params::{DeviceName, Precision};
use polyrank::text::records::RecordsError;
use polyrank::text::{Encoded, Limit};
use polyrank_training::data::{DataError, DataOptions, TaskData, Text, Texts};
use polyrank_training::error::{Error, wrong};
use polyrank_training::extract::change::Change;
use polyrank_training::extract::distill::{DistillSettings, Distilled, Taught, distill};
use polyrank_training::extract::effect::{Comparison, Effect, random_texts};
use polyrank_training::extract::report::{
    BudgetReport, ChangeReport, Compared, ExtractReport, LinearsReport, MetricReport,
};
use polyrank_training::extract::{self, Budget, Extraction};
use polyrank_training::fine_tuned::FineTuned;
use polyrank_training::method::Export;
use polyrank_training::settings::{DEFAULT_LENGTH, DataSettings, source};
use polyrank_training::{evaluate, export, run};

use super::layers::Given;
use super::{Base, cache, eprint, open, print, print_reading};

pub(super) const EXAMPLES: &str = "\
Examples:
  polyrank-train extract --model models/sentiment-minilm --output adapters/sentiment
  polyrank-train extract --model-id default --model ORG/NAME --output adapters/name --target-ratio 0.02
  polyrank-train extract --model models/sentiment-minilm --output adapters/sentiment --data tasks/sentiment

With --data, the adapter is then trained for some epochs to give the logits of the fine-tuned model for the training texts. This needs no
labels. If the data has labels, the metrics of the fine-tuned model and of the adapter are printed as well.";

/// The most texts on which logits are compared.
const COMPARED: usize = 512;

/// The group of the flags that give texts.
const TEXTS: &str = "texts";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new(TEXTS).args(["data", "dataset"]).multiple(true))]
pub(super) struct ExtractArgs {
    /// The base: a folder, a hub id or default.
    #[arg(long, value_name = "M", default_value = "default")]
    model_id: String,
    /// The classifier that was fine-tuned from this base: a folder of transformers or a hub id.
    #[arg(long, value_name = "M")]
    model: String,
    /// Folder to write the adapter to; it must be empty or absent.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Most parameters of the deltas, as a share of all parameters of the base, embeddings included; the head is not counted.
    #[arg(long, default_value_t = 0.1, conflicts_with = "target_params")]
    target_ratio: f64,
    /// Most parameters of the deltas, as a number; the head is not counted.
    #[arg(long, value_name = "N")]
    target_params: Option<usize>,
    /// Folder with the task's data, or one file, for distillation and for metrics; labels are not needed.
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Split on which metrics are printed.
    #[arg(long, default_value = "validation", requires = TEXTS, help_heading = "Data")]
    split: String,
    /// Maximum number of tokens of a text in distillation and where logits are compared [default: 128, or the base's maximum if that is
    /// smaller].
    #[arg(long, requires = TEXTS, help_heading = "Data")]
    max_length: Option<usize>,
    #[command(flatten)]
    data_settings: Given<DataSettings>,
    /// Passes over the training texts in distillation; 0 does not distil.
    #[arg(long, default_value_t = 3, requires = TEXTS, help_heading = "Distillation")]
    epochs: usize,
    /// Number of texts in a step.
    #[arg(long, default_value_t = 32, requires = TEXTS, help_heading = "Distillation")]
    batch_size: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 3e-5, requires = TEXTS, help_heading = "Distillation")]
    lr: f64,
    /// What logits are divided by before the softmax.
    #[arg(long, default_value_t = 2.0, requires = TEXTS, help_heading = "Distillation")]
    temperature: f64,
    /// Random seed.
    #[arg(long, default_value_t = 0, requires = TEXTS, help_heading = "Distillation")]
    seed: u64,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu", help_heading = "Device")]
    device: DeviceName,
    /// Print the report as JSON on one line.
    #[arg(long)]
    json: bool,
}

impl ExtractArgs {
    /// Checks the values that depend on nothing else.
    fn check(&self) -> Result<(), Error> {
        if !(self.target_ratio > 0.0 && self.target_ratio <= 1.0) {
            return wrong("--target-ratio", "above 0 and at most 1", self.target_ratio.to_string());
        }
        let data = &self.data_settings.values;
        data.check()?;
        if let Some(weights) = &data.class_weights {
            return wrong("--class-weights", "none, because distillation has no labels", weights);
        }
        if let (None, None, Some(name)) = (&self.data, &data.dataset, self.data_flags().next()) {
            return wrong(
                &format!("--{}", name.replace('_', "-")),
                "--data or --dataset beside it",
                "neither".to_owned(),
            );
        }
        if self.batch_size == 0 {
            return wrong("--batch-size", "1 or more", "0".to_owned());
        }
        for (flag, size) in [("--lr", self.lr), ("--temperature", self.temperature)] {
            if !(size > 0.0 && size.is_finite()) {
                return wrong(flag, "a positive number", size.to_string());
            }
        }
        run::check_empty(&self.output)?;
        // What takes long is not lost because it cannot be written.
        let folder = self.output.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        atomic_file::create(folder, atomic_file::PREFIX).map(drop).map_err(Error::io(folder))
    }

    /// The settings of the data that flags give, without those that count without data, too.
    fn data_flags(&self) -> impl Iterator<Item = &str> {
        self.data_settings.flags().filter(|name| !["task", "problem_type"].contains(name))
    }

    /// The folder or file of the data, if any is given.
    fn source(&self) -> Result<Option<PathBuf>, Error> {
        let dataset = self.data_settings.values.of_hub();
        if self.data.is_none() && dataset.is_none() {
            Ok(None)
        } else {
            source(self.data.as_deref(), dataset).map(Some)
        }
    }

    fn budget(&self, engine: &Engine) -> usize {
        self.target_params.map_or(Budget::Share(self.target_ratio), Budget::Parameters).parameters(engine)
    }

    fn distillation(&self) -> DistillSettings {
        let Self { epochs, batch_size, lr, temperature, seed, .. } = *self;
        DistillSettings { epochs, batch_size, lr, temperature, seed }
    }
}

/// The texts of `--data`, and the task if its rows have labels.
struct Data {
    train: Vec<Encoded>,
    validation: Vec<Encoded>,
    task: Option<TaskData>,
}

/// The metrics of a classifier, in the order of their names.
type Scores = Vec<(&'static str, f64)>;

/// Runs the command.
pub(super) fn extract(args: &ExtractArgs) -> Result<(), Error> {
    args.check()?;
    let base = open(&args.model_id, args.device, Precision::F32)?;
    let (engine, fine) = (&base.engine, open_fine_tuned(args, &base)?);
    let data = args.source()?.map(|path| read(args, &path, engine, &fine)).transpose()?;
    // The labels of the data are compared with those of the model before any work is done.
    let (of_fine, warnings) = scores(args, data.as_ref(), &fine.engine, &fine.export())?;
    warnings.iter().for_each(|warning| eprint(format_args!("warning: {}", printable(warning))));
    let _output = run::LockedOutput::new(&args.output)?;
    run::check_empty(&args.output)?;
    let budget = args.budget(engine);
    let extraction = extract::extract((&base.dir, engine), &fine, budget, &args.model_id)?;
    let comparison = Comparison::new(&fine, compared(args, data.as_ref(), engine)?)?;
    let (changes, all_lost) = reverted(engine, &extraction, &comparison)?;
    let cut = Export::Adapter(extraction.adapter.clone());
    let of_extracted = scores(args, data.as_ref(), engine, &cut)?.0;
    let extracted = comparison.adapter(engine, &extraction.adapter)?;
    let linears = LinearsReport::new(engine.layout(), &extraction);
    let distilled = match &data {
        Some(data) if args.epochs > 0 => {
            let distilled = distilled(args, data, engine, &fine, extraction.adapter.clone());
            Some(distilled.or_else(|error| {
                // What took most of the time is not lost with it.
                export::write(&args.output, engine, &cut, &base.dir)?;
                eprint(format_args!("{} has the adapter as it was before distillation", args.output.display()));
                Err(error)
            })?)
        }
        _ => None,
    };
    let adapter = distilled.as_ref().map_or(&extraction.adapter, |distilled| &distilled.adapter);
    let last = Export::Adapter(adapter.clone());
    let of_distilled = scores(args, data.as_ref(), engine, &last)?.0;
    export::write(&args.output, engine, &last, &base.dir)?;
    let metric = |i: usize| MetricReport {
        split: args.split.clone(),
        metric: of_fine[i].0,
        fine_tuned: of_fine[i].1,
        extracted: of_extracted[i].1,
        distilled: distilled.as_ref().map(|_| of_distilled[i].1),
    };
    let report = ExtractReport {
        // The report is on the written files, because PEFT's format needs at least one rank.
        adapter: inspect::Report::new(engine.layout(), &engine.load_adapter(&args.output)?),
        budget: BudgetReport { parameters: budget, base_parameters: extract::base_parameters(engine) },
        linears,
        changes,
        all_lost,
        compared_on: Compared { data: data.is_some(), texts: comparison.texts() },
        extracted,
        distilled: distilled.as_ref().map(|_| comparison.adapter(engine, adapter)).transpose()?,
        distilled_epoch: distilled.as_ref().map(|distilled| distilled.best.epoch),
        metrics: (0..of_fine.len()).map(metric).collect(),
    };
    if args.json {
        return print(&serde_json::to_string(&report).map_err(Error::json("the report"))?);
    }
    print(&format!("{report}\nwritten to {}", args.output.display()))
}

/// Opens the fine-tuned model, which is downloaded if it is missing, after its shape is compared with the base's.
fn open_fine_tuned(args: &ExtractArgs, base: &Base) -> Result<FineTuned, Error> {
    let dir = base::ensure(&args.model)?;
    extract::check_shape(base.engine.config(), &dir)?;
    let fine = FineTuned::open(&dir, base.engine.backend().clone(), Precision::F32, cache())?;
    match args.data_settings.values.problem_type {
        Some(problem) => fine.with_problem(problem),
        None => Ok(fine),
    }
}

/// Reads the data, with its labels if it has a column of them.
fn read(args: &ExtractArgs, path: &Path, engine: &Engine, fine: &FineTuned) -> Result<Data, Error> {
    let options = args.data_settings.values.options(args.seed);
    let options = DataOptions { problem: Some(fine.problem()), class_weights: None, ..options };
    let (texts, task) = match TaskData::load(path, &options) {
        Ok(data) => {
            print_reading(&data);
            (Texts::of(&data), Some(data))
        }
        // The column is missing. If the user named it, that is an error.
        Err(DataError::Records(RecordsError::Column { path: file, column, .. }))
            if column == "label" && args.data_settings.values.label_column.is_none() =>
        {
            eprint(format_args!("labels: none are used; {} has no column label", file.display()));
            (Texts::load(path, &options)?, None)
        }
        // Rows without labels may have a mark in their place, such as GLUE's -1.
        Err(error @ DataError::OneClass { .. }) => {
            eprint(format_args!("labels: none are used; {}", printable(&error.to_string())));
            (Texts::load(path, &options)?, None)
        }
        Err(error) => return Err(error.into()),
    };
    let longest = args.max_length.unwrap_or_else(|| engine.max_length().min(DEFAULT_LENGTH));
    let limit = Limit { max_length: Some(longest), truncate: true, side: None };
    let encode = |Text { text, pair }: &Text| Ok(engine.encode(text, pair.as_deref(), &limit)?);
    let encoded = |texts: &[Text]| texts.iter().map(encode).collect::<Result<Vec<_>, Error>>();
    Ok(Data { train: encoded(&texts.train)?, validation: encoded(&texts.validation)?, task })
}

/// The metrics of an adapter on the split of `--split`, in the order of their names, and the warnings about them; none without labels.
fn scores(
    args: &ExtractArgs,
    data: Option<&Data>,
    engine: &Engine,
    export: &Export,
) -> Result<(Scores, Vec<String>), Error> {
    let Some(task) = data.and_then(|data| data.task.as_ref()) else { return Ok((Vec::new(), Vec::new())) };
    let evaluation = evaluate::evaluate(engine, export, task, &args.split, None)?;
    Ok((evaluation.metrics.into_iter().collect(), evaluation.warnings))
}

/// The texts on which logits are compared: validation texts of the data, or random ones.
fn compared(args: &ExtractArgs, data: Option<&Data>, engine: &Engine) -> Result<Vec<Encoded>, Error> {
    match data {
        Some(Data { validation, .. }) => Ok(validation[..validation.len().min(COMPARED)].to_vec()),
        None => random_texts(engine, args.seed),
    }
}

/// What every kind of change that the adapter cannot carry does to the logits, and what all of them do together.
fn reverted(
    base: &Engine,
    extraction: &Extraction,
    comparison: &Comparison<'_>,
) -> Result<(Vec<ChangeReport>, Option<Effect>), Error> {
    let lost = extract::lost(&extraction.changes);
    let report = |change: &Change| {
        let revert = lost.contains(&change.kind).then(|| comparison.reverted(base, &[change.kind]));
        Ok(ChangeReport { change: *change, reverted: revert.transpose()? })
    };
    let changes = extraction.changes.iter().map(report).collect::<Result<_, Error>>()?;
    let all = if lost.is_empty() { None } else { Some(comparison.reverted(base, &lost)?) };
    Ok((changes, all))
}

/// Distils the fine-tuned model into the extracted adapter.
fn distilled(
    args: &ExtractArgs,
    data: &Data,
    base: &Engine,
    fine: &FineTuned,
    start: Adapter,
) -> Result<Distilled, Error> {
    let teacher = fine.export();
    let answers = |texts: &[Encoded]| evaluate::logits(&fine.engine, &teacher, texts);
    let (train, validation) = (answers(&data.train)?, answers(&data.validation)?);
    let taught =
        [Taught { texts: &data.train, logits: &train }, Taught { texts: &data.validation, logits: &validation }];
    distill(base, start, taught, &args.distillation(), &mut |epoch| eprint(epoch))
}
