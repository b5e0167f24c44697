//! Decides what the labels of a file mean, and applies that to rows. A row has one label or, if all rows have lists or the user says so,
//! any number of labels. The rules for one label, in the order in which they are tried:
//!
//! | labels | names | meaning of the labels |
//! | --- | --- | --- |
//! | numbers, with `--problem-type regression` | any | values |
//! | whole numbers in any spelling | those that a Parquet file states | ids |
//! | whole numbers | all names are whole numbers, and every label is a name | names |
//! | whole numbers | other names; as a name, a label has another id than as a number | refused: ambiguous |
//! | whole numbers | other names, or none | ids |
//! | numbers with a fraction | none, or one name | values |
//! | anything else | any | names, in the order of `labels.txt`, or sorted |
//!
//! With `--problem-type single_label_classification`, and where a row has several labels, numbers that cannot be ids are names, too.

use polyrank::adapter::ProblemType;

use super::classes::{Classes, Listed};
use super::column::Column;
use super::labelled::{Labelled, Spelt};
use super::spelling::{number, whole};
use super::{DataError, Example, Target};

/// How the labels of a task are read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Labels {
    /// As numbers. The one output has a name.
    Values { names: [String; 1] },
    /// As one class a row.
    One(Classes),
    /// As any number of classes a row.
    Several(Classes),
}

impl Labels {
    /// Decides from the training rows, the `listed` names if there are any, and `problem` if the user gave it. Also returns a message
    /// about the decision.
    pub(super) fn decide(
        rows: &[Labelled],
        listed: Option<Listed>,
        problem: Option<ProblemType>,
    ) -> Result<(Self, String), DataError> {
        let several = match problem {
            None => are_lists(rows)?,
            Some(problem) => problem == ProblemType::MultiLabelClassification,
        };
        if several {
            return Self::several(rows, listed);
        }
        let items = rows.iter().map(|row| Ok((row, row.one()?)));
        let column = Column::of(items.collect::<Result<_, DataError>>()?);
        match problem {
            Some(ProblemType::Regression) => {
                column.refuse_other_than_numbers()?;
                Ok(Self::values(listed))
            }
            Some(_) => column.classes(listed).map(|(classes, read)| (Self::One(classes), read)),
            None => match column.classes_or_values(listed.as_ref())? {
                Some((classes, read)) => Ok((Self::One(classes), read)),
                None => Ok(Self::values(listed)),
            },
        }
    }

    fn several(rows: &[Labelled], listed: Option<Listed>) -> Result<(Self, String), DataError> {
        let mut items = Vec::new();
        let mut without = 0;
        for row in rows {
            let labels = row.several()?;
            without += usize::from(labels.is_empty());
            items.extend(labels.into_iter().map(|label| (row, label)));
        }
        if let (None, true, Some(first)) = (&listed, items.is_empty(), rows.first()) {
            return Err(DataError::NoLabels { path: first.path.to_path_buf() });
        }
        let (classes, read) = Column::of(items).classes(listed)?;
        let read = format!("several labels a row, none in {without} of {} rows: {read}", rows.len());
        Ok((Self::Several(classes), read))
    }

    pub(super) fn values(listed: Option<Listed>) -> (Self, String) {
        let read = "numbers read as the values of a regression";
        let (name, read) = match listed {
            Some(Listed { mut names, from, .. }) if names.len() == 1 => {
                let name = names.remove(0);
                let read = format!("{read}, named {name} by {from}");
                (name, read)
            }
            Some(Listed { from, .. }) => ("LABEL_0".to_owned(), format!("{read}, which ignores the names of {from}")),
            None => ("LABEL_0".to_owned(), read.to_owned()),
        };
        (Self::Values { names: [name] }, read)
    }

    pub(super) fn problem(&self) -> ProblemType {
        match self {
            Self::Values { .. } => ProblemType::Regression,
            Self::One(_) => ProblemType::SingleLabelClassification,
            Self::Several(_) => ProblemType::MultiLabelClassification,
        }
    }

    /// The names of the outputs.
    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::Values { names } => names,
            Self::One(classes) | Self::Several(classes) => classes.names(),
        }
    }

    /// The classes; `None` for a regression.
    pub(super) fn classes(&self) -> Option<&Classes> {
        match self {
            Self::Values { .. } => None,
            Self::One(classes) | Self::Several(classes) => Some(classes),
        }
    }

    /// Whether a row of a test file has a label. GLUE's test files have none, or -1, which may be a class in other files.
    pub(super) fn is_labelled(&self, row: &Labelled) -> bool {
        let Spelt::One(label) = &row.label else { return true };
        let is_class = || self.classes().is_some_and(|classes| classes.id(label).is_some());
        !label.is_empty() && (whole(label) != Some(-1) || is_class())
    }

    /// Turns rows into examples, with the meaning of their labels.
    pub(super) fn apply(&self, rows: Vec<Labelled>) -> Result<Vec<Example>, DataError> {
        let targets = rows.iter().map(|row| self.target(row)).collect::<Result<Vec<_>, _>>();
        let targets = targets.map_err(|error| self.preferred(&rows, error))?;
        let example = |(row, target): (Labelled, Target)| Example { text: row.text, pair: row.pair, target };
        Ok(rows.into_iter().zip(targets).map(example).collect())
    }

    /// The error of the first row with an unknown label. If labels are ids, it is preferably for a name, because one name makes all
    /// labels names.
    fn preferred(&self, rows: &[Labelled], first: DataError) -> DataError {
        let is_name =
            |error: &DataError| matches!(error, DataError::UnknownLabel { label, .. } if whole(label).is_none());
        let mut errors = rows.iter().filter_map(|row| self.target(row).err());
        if matches!(first, DataError::UnknownLabel { .. }) { errors.find(is_name).unwrap_or(first) } else { first }
    }

    fn target(&self, row: &Labelled) -> Result<Target, DataError> {
        let id = |classes: &Classes, label: &str| {
            classes.id(label).ok_or_else(|| DataError::unknown(row, label, &classes.expected()))
        };
        match self {
            Self::Values { .. } => {
                let label = row.one()?;
                // The model computes in f32.
                let value = number(label).filter(|value| (*value as f32).is_finite());
                value.map(Target::Value).ok_or_else(|| DataError::unknown(row, label, "a finite number"))
            }
            Self::One(classes) => id(classes, row.one()?).map(Target::Class),
            Self::Several(classes) => {
                let labels = row.several()?;
                let mut ids = labels.iter().map(|label| id(classes, label)).collect::<Result<Vec<_>, _>>()?;
                ids.sort_unstable();
                match ids.windows(2).find(|two| two[0] == two[1]) {
                    Some(two) => Err(row.wrong(format!(
                        "labels [{}]: {} is there twice; expected the names or ids of the row's labels, each once",
                        labels.join(", "),
                        classes.names()[two[0]]
                    ))),
                    None => Ok(Target::Classes(ids)),
                }
            }
        }
    }
}

/// Whether the rows have lists of labels. A list in one row means lists in all rows, except those without a label.
fn are_lists(rows: &[Labelled]) -> Result<bool, DataError> {
    const HINT: &str =
        "; several labels a row are lists in all rows, or need --problem-type multi_label_classification";
    let list = rows.iter().enumerate().find_map(|(i, row)| match &row.label {
        Spelt::Many(labels) => Some((i, row, labels)),
        Spelt::One(_) => None,
    });
    let cell = rows.iter().position(|row| matches!(&row.label, Spelt::One(label) if !label.is_empty()));
    match (list, cell) {
        (Some((list, row, labels)), Some(cell)) if cell < list => Err(row.several_in(labels, HINT)),
        (Some((_, row, _)), Some(cell)) => {
            Err(rows[cell].wrong(format!("one label: expected a list of labels, as in line {}", row.line)))
        }
        (list, _) => Ok(list.is_some()),
    }
}
