//! A task's data: a folder with `train.*`, `validation.*`, and optionally `test.*` and `labels.txt`; or one file.
//!
//! | file | idea |
//! | --- | --- |
//! | `example` | texts with their labels |
//! | `files` | finds the files of each split, and names the task |
//! | `found` | the files that decide what the labels mean |
//! | `hold_out` | holds out a part of the training rows |
//! | `labelled` | reads rows, whose labels keep their spelling |
//! | `labels` | decides what the labels mean, and applies that to rows |
//! | `column` | the rules of that decision |
//! | `classes` | the names of classes, and how rows spell them |
//! | `spelling` | numbers as files spell them |
//! | `row_kind` | pairs of texts, or single texts |
//! | `checks` | refuses or warns of unusual training rows |
//! | `unit` | the unit in which a regression is learned |
//! | `weights` | the weights of classes in the loss |
//! | `encode` | tokenizes examples |
//! | `unlabelled` | reads the texts alone |
//! | `error` | what may be wrong with the data |

mod checks;
mod classes;
mod column;
mod encode;
mod error;
mod example;
mod files;
mod found;
mod hold_out;
mod labelled;
mod labels;
mod row_kind;
mod spelling;
mod unit;
mod unlabelled;
mod weights;

use std::borrow::Cow;
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use polyrank::adapter::ProblemType;
use polyrank::text::records::ColumnNames;

pub use encode::encode;
pub use error::DataError;
pub use example::{Example, Split, Target};
pub use hold_out::HoldOut;
pub use unit::TargetUnit;
pub use unlabelled::{Text, Texts};

use self::files::{TEST, TRAIN, VALIDATION};
use self::found::Found;
use self::labelled::Labelled;
use self::labels::Labels;
use self::row_kind::RowKind;
use crate::defaults::TaskSize;

/// A task's data, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskData {
    /// The folder, or the one file.
    source: PathBuf,
    meaning: Labels,
    /// What the training rows are.
    kind: Option<RowKind>,
    /// How the labels were read, for the user: `whole numbers read as ids into labels.txt (2 classes)`.
    pub reading: String,
    /// Warnings about the labels, for the user.
    pub warnings: Vec<String>,
    /// The columns that were read, if they are not the usual ones.
    pub columns: ColumnNames,
    /// The name of the task: the folder's or file's name, or `--task`.
    pub task: String,
    /// The name of the folder or file.
    pub folder: String,
    /// One label a row, several labels a row, or a regression.
    pub problem: ProblemType,
    /// Label names in order of id.
    pub labels: Vec<String>,
    /// The weight of each class in the loss; empty if all are equal.
    pub class_weights: Vec<f64>,
    /// The training examples; empty if [`DataOptions::labels`] replaced them.
    pub train: Vec<Example>,
    /// The validation splits. The best epoch is selected by the first. Empty if there is no validation file and nothing was held out.
    pub validation: Vec<Split>,
    /// How the validation split was held out, if there is no file of it.
    pub held_out: Option<HoldOut>,
}

/// Options for reading a task's data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DataOptions {
    /// The name of the task; by default the folder's name.
    pub task: Option<String>,
    /// One label a row, several labels a row, or a regression, if the labels are not to decide.
    pub problem: Option<ProblemType>,
    /// The weights of the classes in the loss: `balanced`, or `NAME=W,NAME=W`. All are equal by default.
    pub class_weights: Option<String>,
    /// What to hold out of the training rows if there is no validation file. If this is `None`, and [`Self::labels`] are known, a single
    /// file is used for validation as a whole.
    pub hold_out: Option<HoldOut>,
    /// The columns to read, if they are not the usual ones.
    pub columns: ColumnNames,
    /// An adapter's label names, in order of id. They are used to read the other splits if there are neither a training file nor
    /// `labels.txt`.
    pub labels: Option<Vec<String>>,
    /// The number of training rows to keep, from the first one that is not held out.
    pub max_train_samples: Option<NonZeroUsize>,
}

impl TaskData {
    /// What the defaults of settings depend on.
    #[must_use]
    pub fn size(&self) -> TaskSize {
        TaskSize { rows: self.train.len(), labels: self.labels.len(), problem: self.problem }
    }

    /// Reads the task in the folder or file `source`.
    ///
    /// # Errors
    /// A part of the data is missing or malformed. The error names the file and line.
    pub fn load(source: &Path, options: &DataOptions) -> Result<Self, DataError> {
        let one = source.is_file();
        if !one && !source.is_dir() {
            return Err(DataError::unusable(source));
        }
        options.hold_out.map_or(Ok(()), HoldOut::check)?;
        let Found { files: found, trained, listed } = Found::of(source, options)?;
        let test = !one && files::is_test(&found[0]);
        let mut rows = labelled::read(&found, &options.columns, test)?;
        if test && rows.iter().all(Labelled::is_blank) {
            return Err(DataError::Unlabelled { path: found[0].clone() });
        }
        let all = if one && !trained { rows.clone() } else { Vec::new() };
        let kind = if trained { RowKind::of(&found[0], rows.iter().map(|row| row.pair.is_some())) } else { None };
        if !trained {
            rows.retain(Labelled::is_labelled);
        }
        let (labels, reading) = Labels::decide(&rows, listed, options.problem)?;
        let folder = files::task_name(source, one);
        let mut data = Self {
            task: options.task.clone().unwrap_or_else(|| folder.clone()),
            folder,
            problem: labels.problem(),
            reading,
            warnings: Vec::new(),
            columns: options.columns.clone(),
            train: if trained { labels.apply(rows)? } else { Vec::new() },
            validation: Vec::new(),
            held_out: None,
            labels: labels.names().to_vec(),
            class_weights: Vec::new(),
            source: source.to_owned(),
            meaning: labels,
            kind,
        };
        if options.labels.is_none() {
            data.check_labels(&found[0])?;
            data.check_classes(&found[0], "every row")?;
        }
        if one {
            if !trained {
                let examples = data.meaning.apply(all)?;
                data.validation.push(Split { name: VALIDATION[0].to_owned(), examples });
            }
        } else {
            data.read_validation()?;
        }
        if let (true, Some(hold_out)) = (trained && data.validation.is_empty(), options.hold_out) {
            data.hold_out(&found[0], hold_out)?;
        }
        if let Some(most) = options.max_train_samples.filter(|most| most.get() < data.train.len()) {
            data.train.truncate(most.get());
            data.check_classes(&found[0], "every row up to --max-train-samples")?;
        }
        if options.labels.is_none() {
            data.warn(&found[0]);
        }
        if let Some(asked) = &options.class_weights {
            data.class_weights = weights::resolve(asked, &data.meaning, &data.train)?;
        }
        Ok(data)
    }

    /// The unit in which the targets are learned, of a regression.
    #[must_use]
    pub fn unit(&self) -> Option<TargetUnit> {
        (self.problem == ProblemType::Regression).then(|| TargetUnit::of(&self.train))
    }

    /// Reads the validation files of a folder, if there are any.
    fn read_validation(&mut self) -> Result<(), DataError> {
        if let Some((name, _)) = files::validation(&self.source)? {
            self.validation.extend(self.read(name)?);
        }
        if self.validation.first().is_some_and(|split| split.name == "validation_matched") {
            let mismatched = self.read("validation_mismatched")?;
            self.validation.extend(mismatched);
        }
        Ok(())
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
        let found = files::of_split(&self.source, name)?;
        if found.is_empty() {
            return Ok(None);
        }
        let rows = labelled::read(&found, &self.columns, name == TEST)?;
        if name == TEST && !rows.iter().any(|row| self.meaning.is_labelled(row)) {
            return Ok(None);
        }
        RowKind::check(self.kind.as_ref(), &found[0], rows.iter().map(|row| row.pair.is_some()))?;
        Ok(Some(Split { name: name.to_owned(), examples: self.meaning.apply(rows)? }))
    }

    fn hold_out(&mut self, path: &Path, hold_out: HoldOut) -> Result<(), DataError> {
        let examples = hold_out.take(&mut self.train, path)?;
        let trained: HashSet<_> = self.train.iter().map(|row| (&row.text, &row.pair)).collect();
        let seen = examples.iter().filter(|row| trained.contains(&(&row.text, &row.pair))).count();
        if seen > 0 {
            self.warnings.push(format!(
                "{}: {seen} of the {} held out rows have texts that are also in the rest, so that validation is too good; remove \
                 repeated rows, or give a validation file",
                path.display(),
                examples.len()
            ));
        }
        self.validation.push(Split { name: "validation".to_owned(), examples });
        self.held_out = Some(hold_out);
        self.check_classes(path, "every row that is not held out")
    }
}
