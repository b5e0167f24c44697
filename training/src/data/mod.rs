//! A task's data: a folder with `train.*`, `validation.*`, perhaps `test.*` and `labels.txt`.

mod error;
mod labels;
mod rows;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use polyrank::adapter::ProblemType;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

pub use error::DataError;

use self::labels::Labels;
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
    dir: PathBuf,
    meaning: Labels,
    /// The folder's name, or `--task`.
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
    /// What to set aside of train where there is no validation file.
    pub hold_out: Option<HoldOut>,
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
    /// Reads the task in the folder `dir`.
    ///
    /// # Errors
    /// What is missing or malformed, with its file and line.
    pub fn load(dir: &Path, options: &DataOptions) -> Result<Self, DataError> {
        if !dir.is_dir() {
            return Err(DataError::NoFolder(dir.to_owned()));
        }
        let listed = labels::listed(&dir.join("labels.txt"))?;
        let (path, trained, listed) = match (find(dir, TRAIN)?, &options.labels) {
            (Some(train), _) => (train, true, listed),
            (None, Some(names)) => (any(dir)?, false, listed.or_else(|| Some(names.clone()))),
            (None, None) => return Err(DataError::NoTrain(dir.to_owned())),
        };
        let mut rows = rows::read(&path)?;
        if !trained {
            rows.retain(Row::is_labelled);
        }
        let labels = Labels::decide(&path, &rows, listed, options.problem)?;
        let mut data = Self {
            task: options.task.clone().unwrap_or_else(|| folder_name(dir)),
            problem: labels.problem(),
            train: if trained { labels.apply(&path, rows)? } else { Vec::new() },
            validation: Vec::new(),
            held_out: None,
            labels: labels.names(),
            dir: dir.to_owned(),
            meaning: labels,
        };
        if options.labels.is_none() {
            data.check_classes(&path, "every row")?;
        }
        for name in VALIDATION {
            if data.validation.is_empty()
                && let Some(split) = data.read(name)?
            {
                data.validation.push(split);
            }
        }
        if data.validation.first().is_some_and(|split| split.name == "validation_matched") {
            let mismatched = data.read("validation_mismatched")?;
            data.validation.extend(mismatched);
        }
        if let Some(HoldOut { share, .. }) = options.hold_out
            && !(share > 0.0 && share < 1.0)
        {
            return Err(DataError::Share { share });
        }
        if let (true, Some(hold_out)) = (trained && data.validation.is_empty(), options.hold_out) {
            data.hold_out(&path, hold_out)?;
        }
        Ok(data)
    }

    /// The split called `name`; `validation` is the one selected on, whatever its file. `test`, and others by their files' names, are
    /// read here only: nothing else may depend on them.
    ///
    /// # Errors
    /// A split that is not there or has no labels, and what is malformed in the test file.
    pub fn split(&self, name: &str) -> Result<Cow<'_, [Example]>, DataError> {
        let missing = || DataError::NoSplit { folder: self.dir.clone(), split: name.to_owned() };
        match name {
            TRAIN if !self.train.is_empty() => Ok(Cow::Borrowed(&self.train)),
            name => {
                let named = self.validation.iter().find(|split| split.name == name);
                match named.or(self.validation.first().filter(|_| name == VALIDATION[0])) {
                    Some(split) => Ok(Cow::Borrowed(&split.examples)),
                    // The name of a file beside the others, not a path.
                    None if name == TRAIN || name.contains(['/', '\\']) => Err(missing()),
                    None => Ok(Cow::Owned(self.read(name)?.ok_or_else(missing)?.examples)),
                }
            }
        }
    }

    /// The split in a file of its own; `None` where there is none, or without a single label, as GLUE's test files are.
    fn read(&self, name: &str) -> Result<Option<Split>, DataError> {
        let Some(path) = find(&self.dir, name)? else { return Ok(None) };
        let rows = rows::read(&path)?;
        if name == TEST && !rows.iter().any(Row::is_labelled) {
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

fn folder_name(dir: &Path) -> String {
    // A link's own name, and the real one of `.`.
    let whole = || dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let named = if dir.file_name().is_some() { dir.to_owned() } else { whole() };
    named.file_name().map_or_else(|| "task".to_owned(), |name| name.to_string_lossy().into_owned())
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
