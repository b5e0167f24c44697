//! The facts that a run records: its task, data and base.

use std::path::Path;

use polyrank::adapter::{AdapterError, ProblemType};
use polyrank::text::records::ColumnNames;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{FACTS, REPLACING, SHORTER, read};
use crate::data::{Example, HoldOut, Target, TargetUnit, TaskData};
use crate::defaults::TaskSize;
use crate::error::Error;

/// What determines a run besides its settings. A run cannot be continued with other facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Name of the task.
    pub task: String,
    /// Classification or regression.
    pub problem: ProblemType,
    /// Label names in order of id.
    pub labels: Vec<String>,
    /// Fingerprint of the base.
    pub base: String,
    /// The training examples.
    pub train: Part,
    /// The examples by which the best epoch is selected.
    pub validation: Part,
    /// The share of the training file that was held out for validation.
    pub held_out: Option<HoldOut>,
    /// The columns that were read, if they are not the usual ones.
    #[serde(default)]
    pub columns: ColumnNames,
    /// The weight of each class in the loss, in order of id; empty if all are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_weights: Vec<f64>,
    /// The unit in which the targets of a regression were learned; `None` for other tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TargetUnit>,
}

/// A set of examples, identified by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The number of examples.
    pub examples: usize,
    /// The SHA-256 of their texts and labels, in order.
    pub sha256: String,
}

impl Facts {
    /// What the defaults of settings depend on.
    #[must_use]
    pub fn size(&self) -> TaskSize {
        TaskSize { rows: self.train.examples, labels: self.labels.len(), problem: self.problem }
    }

    /// The facts of a run on `data` and on the base with the fingerprint `base`.
    #[must_use]
    pub fn new(data: &TaskData, base: &str) -> Self {
        Self {
            task: data.task.clone(),
            problem: data.problem,
            labels: data.labels.clone(),
            base: base.to_owned(),
            train: Part::new(&data.train),
            validation: Part::new(data.validation.first().map_or(&[], |split| &split.examples)),
            held_out: data.held_out,
            columns: data.columns.clone(),
            class_weights: data.class_weights.clone(),
            unit: data.unit(),
        }
    }

    /// Reads the facts of the run in the folder `run`; `None` if there are none.
    ///
    /// # Errors
    /// The file cannot be read or is malformed.
    pub fn read(run: &Path) -> Result<Option<Self>, Error> {
        read(&run.join(FACTS), |text| serde_json::from_str(text).map_err(|error| error.to_string()))
    }

    /// The facts of the run in the folder `run`, if this run made the adapter; `None` if it is not known which run did.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of_adapter(run: &Path) -> Result<Option<Self>, Error> {
        let replacing: Option<bool> = read(&run.join(REPLACING), |text| Ok(text != SHORTER))?;
        if replacing == Some(true) { Ok(None) } else { Self::read(run) }
    }

    /// Whether the rows held out of `data` are those of this run.
    #[must_use]
    pub fn held_out_of(&self, data: &TaskData) -> bool {
        self.validation == Part::new(data.validation.first().map_or(&[], |split| &split.examples))
    }

    /// Checks that the rows held out of `data` are those of this run, which is in the folder `run`.
    ///
    /// # Errors
    /// The rows differ.
    pub fn check_held_out(&self, run: &Path, data: &TaskData) -> Result<(), Error> {
        if self.held_out_of(data) { Ok(()) } else { Err(Error::HeldOut(run.join(FACTS))) }
    }

    /// Checks that this run, which is in the folder `run`, was on the base with the fingerprint `found`.
    ///
    /// # Errors
    /// It was on another base.
    pub fn check_base(&self, run: &Path, found: &str) -> Result<(), Error> {
        if self.base == found {
            return Ok(());
        }
        let (expected, found) = (self.base.clone(), found.to_owned());
        Err(AdapterError::WrongBase { file: run.join(FACTS), expected, found, names: None }.into())
    }
}

impl Part {
    fn new(examples: &[Example]) -> Self {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for Example { text, pair, target } in examples {
            add(text.as_bytes());
            add(&[u8::from(pair.is_some())]);
            add(pair.as_deref().unwrap_or_default().as_bytes());
            match target {
                Target::Class(class) => add(&(*class as u64).to_le_bytes()),
                Target::Classes(classes) => {
                    add(&classes.iter().flat_map(|class| (*class as u64).to_le_bytes()).collect::<Vec<_>>());
                }
                Target::Value(value) => add(&value.to_le_bytes()),
            }
        }
        Self { examples: examples.len(), sha256: format!("{:x}", hash.finalize()) }
    }
}
