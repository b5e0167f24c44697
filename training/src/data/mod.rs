//! A task's data: a folder with `train.*`, `validation.*`, perhaps `test.*` and `labels.txt`, or one file.

mod encode;
mod error;
mod labels;
mod rows;
mod spelling;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use polyrank::adapter::ProblemType;
use polyrank::text::rows::ColumnNames;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

pub use encode::encode;
pub use error::DataError;

use self::labels::{Labels, Listed};
use self::rows::Row;

/// What a text should be answered with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The id of a label.
    Class(usize),
    /// A number, in regression.
    Value(f64),
}

/// A labelled text, or pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// Its label.
    pub target: Target,
}

/// A named part of a task's data.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// `validation`, `validation_matched`, ...
    pub name: String,
    /// Its examples, in the file's order.
    pub examples: Vec<Example>,
}

/// How a part of train is set aside where there is no validation file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HoldOut {
    /// Its share of the rows.
    pub share: f64,
    /// Of the choice.
    pub seed: u64,
}

/// A task, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskData {
    /// The folder, or the one file.
    source: PathBuf,
    meaning: Labels,
    /// How the labels were read, for people: `whole numbers read as ids into labels.txt (2 classes)`.
    pub reading: String,
    /// What is odd about the labels, for people.
    pub warnings: Vec<String>,
    /// The columns that were read, where they are not the usual ones.
    pub columns: ColumnNames,
    /// The folder's name, the one file's, or `--task`.
    pub task: String,
    /// Classification or regression.
    pub problem: ProblemType,
    /// Label names in order of id.
    pub labels: Vec<String>,
    /// What is trained on; empty where [`DataOptions::labels`] stood in for it.
    pub train: Vec<Example>,
    /// What is evaluated on; the first is selected on. Empty where there is no file of it and nothing was to be held out.
    pub validation: Vec<Split>,
    /// How it was set aside, where there is no file of it.
    pub held_out: Option<HoldOut>,
}

/// How a folder is to be read.
#[derive(Debug, Clone, Default)]
pub struct DataOptions {
    /// Name of the task; the folder's by default.
    pub task: Option<String>,
    /// Classification or regression, where the labels do not tell.
    pub problem: Option<ProblemType>,
    /// What to set aside of train where there is no validation file. One file without it is all validation where
    /// [`Self::labels`] are known.
    pub hold_out: Option<HoldOut>,
    /// The columns to read, where they are not the usual ones.
    pub columns: ColumnNames,
    /// Names of the labels in order of id, as an adapter knows them: without a train file, which tells them to training, and
    /// without `labels.txt`, the other splits are read by these.
    pub labels: Option<Vec<String>>,
}

/// Files that may hold the validation split, by preference.
const VALIDATION: [&str; 3] = ["validation", "validation_matched", "dev"];
/// Files that hold labelled rows.
const EXTENSIONS: [&str; 5] = ["tsv", "csv", "jsonl", "json", "parquet"];
const TRAIN: &str = "train";
const TEST: &str = "test";

impl TaskData {
    /// Reads the task in the folder `source`, or in the one file of that name.
    ///
    /// # Errors
    /// What is missing or malformed, with its file and line.
    pub fn load(source: &Path, options: &DataOptions) -> Result<Self, DataError> {
        let one = source.is_file();
        if !one && !source.is_dir() {
            return Err(DataError::NoFolder(source.to_owned()));
        }
        if let Some(HoldOut { share, .. }) = options.hold_out
            && !(share > 0.0 && share < 1.0)
        {
            return Err(DataError::Share { share });
        }
        let beside = if one { source.with_file_name("labels.txt") } else { source.join("labels.txt") };
        let listed = labels::listed(&beside)?;
        let known = || options.labels.clone().map(|names| Listed { names, from: "the adapter's labels" });
        let train = if one { Some(source.to_owned()) } else { find(source, TRAIN)? };
        let (path, trained, listed) = match (train, &options.labels) {
            (Some(file), Some(_)) if one && options.hold_out.is_none() => (file, false, listed.or_else(known)),
            (Some(train), _) => (train, true, listed),
            (None, Some(_)) => (any(source)?, false, listed.or_else(known)),
            (None, None) => return Err(DataError::NoTrain(source.to_owned())),
        };
        let test = !one && path.file_stem().is_some_and(|stem| stem == TEST);
        let mut rows = rows::read(&path, &options.columns, test)?;
        let all = if one && !trained { rows.clone() } else { Vec::new() };
        if !trained {
            rows.retain(Row::is_labelled);
        }
        let (labels, reading) = Labels::decide(&path, &rows, listed, options.problem)?;
        let mut data = Self {
            task: options.task.clone().unwrap_or_else(|| task_name(source, one)),
            problem: labels.problem(),
            reading,
            warnings: Vec::new(),
            columns: options.columns.clone(),
            train: if trained { labels.apply(&path, rows)? } else { Vec::new() },
            validation: Vec::new(),
            held_out: None,
            labels: labels.names(),
            source: source.to_owned(),
            meaning: labels,
        };
        if options.labels.is_none() {
            data.check_classes(&path, "every row")?;
            data.warn(&path);
        }
        if one {
            if !trained {
                let examples = data.meaning.apply(&path, all)?;
                data.validation.push(Split { name: VALIDATION[0].to_owned(), examples });
            }
        } else {
            data.read_validation()?;
        }
        if let (true, Some(hold_out)) = (trained && data.validation.is_empty(), options.hold_out) {
            data.hold_out(&path, hold_out)?;
        }
        Ok(data)
    }

    /// Reads the validation files of a folder, where there are any.
    fn read_validation(&mut self) -> Result<(), DataError> {
        for name in VALIDATION {
            if self.validation.is_empty()
                && let Some(split) = self.read(name)?
            {
                self.validation.push(split);
            }
        }
        if self.validation.first().is_some_and(|split| split.name == "validation_matched") {
            let mismatched = self.read("validation_mismatched")?;
            self.validation.extend(mismatched);
        }
        Ok(())
    }

    /// Says what is odd about the classes of the rows that are trained on.
    fn warn(&mut self, path: &Path) {
        const MOST: usize = 5;
        if self.problem == ProblemType::Regression {
            return;
        }
        let mut seen = vec![false; self.labels.len()];
        for example in &self.train {
            if let Target::Class(id) = example.target {
                seen[id] = true;
            }
        }
        let (rows, different) = (self.train.len(), seen.iter().filter(|seen| **seen).count());
        if different < seen.len() {
            let absent: Vec<&str> =
                self.labels.iter().zip(&seen).filter(|(_, seen)| !**seen).map(|(name, _)| name.as_str()).collect();
            let more = if absent.len() > MOST { ", ..." } else { "" };
            let (count, named) = (absent.len(), absent[..absent.len().min(MOST)].join(", "));
            let all = seen.len();
            self.warnings.push(format!(
                "no row of {} has {count} of the {all} classes: {named}{more}; they get an output each all the same",
                path.display()
            ));
        }
        if rows >= 20 && 2 * different > rows {
            self.warnings.push(format!(
                "{}: {rows} rows have {different} different labels: is that the column of labels?",
                path.display()
            ));
        }
    }

    /// The split called `name`; `validation` is the one selected on, whatever its file. `test`, and others by their files' names, are
    /// read here only: nothing else may depend on them.
    ///
    /// # Errors
    /// A split that is not there or has no labels, and what is malformed in the test file.
    pub fn split(&self, name: &str) -> Result<Cow<'_, [Example]>, DataError> {
        let missing = || DataError::NoSplit { folder: self.source.clone(), split: name.to_owned() };
        match name {
            TRAIN if !self.train.is_empty() => Ok(Cow::Borrowed(&self.train)),
            name => {
                let named = self.validation.iter().find(|split| split.name == name);
                match named.or(self.validation.first().filter(|_| name == VALIDATION[0])) {
                    Some(split) => Ok(Cow::Borrowed(&split.examples)),
                    // The name of a file beside the others, not a path.
                    None if name == TRAIN || name.contains(['/', '\\']) || self.source.is_file() => Err(missing()),
                    None => Ok(Cow::Owned(self.read(name)?.ok_or_else(missing)?.examples)),
                }
            }
        }
    }

    /// The split in a file of its own; `None` where there is none, or without a single label, as GLUE's test files are.
    fn read(&self, name: &str) -> Result<Option<Split>, DataError> {
        let Some(path) = find(&self.source, name)? else { return Ok(None) };
        let rows = rows::read(&path, &self.columns, name == TEST)?;
        if name == TEST && !rows.iter().any(|row| self.meaning.is_label(&row.label)) {
            return Ok(None);
        }
        Ok(Some(Split { name: name.to_owned(), examples: self.meaning.apply(&path, rows)? }))
    }

    fn check_classes(&self, path: &Path, rows: &'static str) -> Result<(), DataError> {
        let first = self.train.first().map(|example| example.target);
        match first {
            Some(Target::Class(id)) if self.train.iter().all(|example| example.target == Target::Class(id)) => {
                Err(DataError::OneClass { path: path.to_owned(), rows, label: self.labels[id].clone() })
            }
            _ => Ok(()),
        }
    }

    fn hold_out(&mut self, path: &Path, hold_out: HoldOut) -> Result<(), DataError> {
        let HoldOut { share, seed } = hold_out;
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let held = (self.train.len() as f64 * share).round() as usize;
        if held == 0 || held >= self.train.len() {
            let rows = self.train.len();
            return Err(DataError::Split { path: path.to_owned(), share, rows });
        }
        let mut held = order[..held].to_vec();
        held.sort_unstable();
        let examples = held.iter().map(|&i| self.train[i].clone()).collect();
        let mut i = 0;
        self.train.retain(|_| {
            i += 1;
            held.binary_search(&(i - 1)).is_err()
        });
        self.validation.push(Split { name: "validation".to_owned(), examples });
        self.held_out = Some(hold_out);
        self.check_classes(path, "every row that the validation split leaves")
    }
}

/// The name of the folder, or of the one file where that is no split's.
fn task_name(source: &Path, one: bool) -> String {
    let stem = source.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let splits = [TRAIN, TEST, "validation_mismatched"];
    if one && !VALIDATION.iter().chain(&splits).any(|name| *name == stem) {
        return stem;
    }
    let whole = || source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let folder = match one {
        true => whole().parent().map(Path::to_owned).unwrap_or_default(),
        // A link's own name, and the real one of `.`.
        false => {
            if source.file_name().is_some() {
                source.to_owned()
            } else {
                whole()
            }
        }
    };
    folder.file_name().map_or_else(|| "task".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The first file there is of a split that is not trained on.
fn any(dir: &Path) -> Result<PathBuf, DataError> {
    for name in VALIDATION.into_iter().chain([TEST]) {
        if let Some(path) = find(dir, name)? {
            return Ok(path);
        }
    }
    Err(DataError::NoData(dir.to_owned()))
}

/// The one file of a split.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>, DataError> {
    let mut found =
        EXTENSIONS.iter().map(|extension| dir.join(format!("{name}.{extension}"))).filter(|path| path.exists());
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(DataError::TwoFiles { first, second }),
        (first, _) => Ok(first),
    }
}
