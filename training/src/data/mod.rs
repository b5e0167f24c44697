//! A task's data: a folder with `train.*`, `validation.*`, and optionally `test.*` and `labels.txt`; or one file.

mod encode;
mod error;
mod labelled;
mod labels;
mod spelling;
mod unlabelled;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use polyrank::adapter::ProblemType;
use polyrank::text::records::ColumnNames;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

pub use encode::encode;
pub use error::DataError;
pub use unlabelled::{Text, Texts};

use self::labelled::Labelled;
use self::labels::{Labels, Listed};

/// The expected answer to a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The id of a label.
    Class(usize),
    /// A number, for a regression.
    Value(f64),
}

/// A text or pair with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The label.
    pub target: Target,
}

/// A named part of a task's data.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// `validation`, `validation_matched`, ...
    pub name: String,
    /// The split's examples, in the file's order.
    pub examples: Vec<Example>,
}

/// How a part of the training rows is held out if there is no validation file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HoldOut {
    /// The share of the rows that is held out.
    pub share: f64,
    /// The random seed that chooses the rows.
    pub seed: u64,
}

/// A task's data, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskData {
    /// The folder, or the one file.
    source: PathBuf,
    meaning: Labels,
    /// How the labels were read, for the user: `whole numbers read as ids into labels.txt (2 classes)`.
    pub reading: String,
    /// Warnings about the labels, for the user.
    pub warnings: Vec<String>,
    /// The columns that were read, if they are not the usual ones.
    pub columns: ColumnNames,
    /// The name of the task: the folder's or file's name, or `--task`.
    pub task: String,
    /// Classification or regression.
    pub problem: ProblemType,
    /// Label names in order of id.
    pub labels: Vec<String>,
    /// The training examples; empty if [`DataOptions::labels`] replaced them.
    pub train: Vec<Example>,
    /// The validation splits. The best epoch is selected by the first. Empty if there is no validation file and nothing was held out.
    pub validation: Vec<Split>,
    /// How the validation split was held out, if there is no file of it.
    pub held_out: Option<HoldOut>,
}

/// Options for reading a task's data.
#[derive(Debug, Clone, Default)]
pub struct DataOptions {
    /// The name of the task; by default the folder's name.
    pub task: Option<String>,
    /// Classification or regression, if the labels are not to decide.
    pub problem: Option<ProblemType>,
    /// What to hold out of the training rows if there is no validation file. If this is `None`, and [`Self::labels`] are known, a single
    /// file is used for validation as a whole.
    pub hold_out: Option<HoldOut>,
    /// The columns to read, if they are not the usual ones.
    pub columns: ColumnNames,
    /// An adapter's label names, in order of id. They are used to read the other splits if there are neither a training file nor
    /// `labels.txt`.
    pub labels: Option<Vec<String>>,
}

/// The names of files that may hold the validation split, in order of preference.
const VALIDATION: [&str; 3] = ["validation", "validation_matched", "dev"];
/// The extensions of files with labelled rows.
const EXTENSIONS: [&str; 5] = ["tsv", "csv", "jsonl", "json", "parquet"];
const TRAIN: &str = "train";
const TEST: &str = "test";

impl TaskData {
    /// Reads the task in the folder or file `source`.
    ///
    /// # Errors
    /// A part of the data is missing or malformed. The error names the file and line.
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
        let mut rows = labelled::read(&path, &options.columns, test)?;
        let all = if one && !trained { rows.clone() } else { Vec::new() };
        if !trained {
            rows.retain(Labelled::is_labelled);
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

    /// Reads the validation files of a folder, if there are any.
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

    /// Adds warnings about the classes of the training rows.
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
                "no row of {} has {count} of the {all} classes: {named}{more}; each still gets an output",
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

    /// The split `name`. `validation` is the split by which the best epoch is selected, whatever its file is called. `test` and other
    /// files are read only here, so that training cannot depend on them.
    ///
    /// # Errors
    /// The split does not exist or has no labels, or its file is malformed.
    pub fn split(&self, name: &str) -> Result<Cow<'_, [Example]>, DataError> {
        let missing = || DataError::NoSplit { folder: self.source.clone(), split: name.to_owned() };
        match name {
            TRAIN if !self.train.is_empty() => Ok(Cow::Borrowed(&self.train)),
            name => {
                let named = self.validation.iter().find(|split| split.name == name);
                match named.or(self.validation.first().filter(|_| name == VALIDATION[0])) {
                    Some(split) => Ok(Cow::Borrowed(&split.examples)),
                    // The name must be that of a file in the folder, not a path.
                    None if name == TRAIN || name.contains(['/', '\\']) || self.source.is_file() => Err(missing()),
                    None => Ok(Cow::Owned(self.read(name)?.ok_or_else(missing)?.examples)),
                }
            }
        }
    }

    /// Reads a split from its own file. `None` if there is no file, or if it has no labels, as GLUE's test files.
    fn read(&self, name: &str) -> Result<Option<Split>, DataError> {
        let Some(path) = find(&self.source, name)? else { return Ok(None) };
        let rows = labelled::read(&path, &self.columns, name == TEST)?;
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
        self.check_classes(path, "every row that is not held out")
    }
}

/// The name of the folder; or of the file, unless it is the name of a split.
fn task_name(source: &Path, one: bool) -> String {
    let stem = source.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let splits = [TRAIN, TEST, "validation_mismatched"];
    if one && !VALIDATION.iter().chain(&splits).any(|name| *name == stem) {
        return stem;
    }
    let whole = || source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let folder = if one {
        whole().parent().map(Path::to_owned).unwrap_or_default()
    } else if source.file_name().is_some() {
        // If the folder is a link, the link's own name counts.
        source.to_owned()
    } else {
        // For `.`, the folder's real name counts.
        whole()
    };
    folder.file_name().map_or_else(|| "task".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The first existing file of a split other than train.
fn any(dir: &Path) -> Result<PathBuf, DataError> {
    for name in VALIDATION.into_iter().chain([TEST]) {
        if let Some(path) = find(dir, name)? {
            return Ok(path);
        }
    }
    Err(DataError::NoData(dir.to_owned()))
}

/// The file of a split.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>, DataError> {
    let mut found =
        EXTENSIONS.iter().map(|extension| dir.join(format!("{name}.{extension}"))).filter(|path| path.exists());
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(DataError::TwoFiles { first, second }),
        (first, _) => Ok(first),
    }
}
