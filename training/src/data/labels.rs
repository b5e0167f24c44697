//! What a column of labels means: ids, names or numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use polyrank::adapter::ProblemType;
use polyrank::text::rows::Rows;

use super::rows::Row;
use super::{DataError, Example, Target};

/// The labels of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Labels {
    /// Numbers, under one name.
    Values { name: String },
    /// Names in order of id. Integers in files are ids.
    Ids { names: Vec<String> },
    /// Names in order of id, as they stand in files.
    Names { names: Vec<String>, ids: BTreeMap<String, usize> },
}

/// More classes than this is a column of something else.
const MOST_CLASSES: usize = 10_000;

impl Labels {
    /// Decides by the rows of `path` and the `listed` names, where there are any: integers are ids (into these names), other
    /// strings are names in their order or sorted; numbers with a fraction mean regression unless `problem` says else.
    pub(super) fn decide(
        path: &Path,
        rows: &[Row],
        listed: Option<Vec<String>>,
        problem: Option<ProblemType>,
    ) -> Result<Self, DataError> {
        let integers = rows.iter().all(|row| row.label.parse::<i64>().is_ok());
        let numbers = rows.iter().all(|row| row.label.parse::<f64>().is_ok());
        match problem {
            Some(ProblemType::Regression) => return Ok(Self::values(listed)),
            Some(ProblemType::MultiLabelClassification) => {
                let reason = "an adapter of multi_label_classification cannot be judged: a row has one label";
                return Err(DataError::line(path, rows.first().map_or(1, |row| row.line), reason));
            }
            None if numbers && !integers => return Ok(Self::values(listed)),
            _ => {}
        }
        if integers {
            return Self::ids(path, rows, listed);
        }
        let names = match listed {
            Some(names) => names,
            None => rows.iter().map(|row| row.label.clone()).collect::<BTreeSet<_>>().into_iter().collect(),
        };
        let ids = names.iter().cloned().enumerate().map(|(id, name)| (name, id)).collect();
        Ok(Self::Names { names, ids })
    }

    fn ids(path: &Path, rows: &[Row], listed: Option<Vec<String>>) -> Result<Self, DataError> {
        let mut most = 0;
        for row in rows {
            match row.label.parse::<usize>() {
                Ok(id) if id < MOST_CLASSES => most = most.max(id),
                _ => {
                    let reason = format!(
                        "label {}: expected an id from 0 and below {MOST_CLASSES}; a row without a label does not belong here, and numbers \
                         are trained on with --problem-type regression",
                        row.label
                    );
                    return Err(DataError::line(path, row.line, reason));
                }
            }
        }
        Ok(Self::Ids { names: listed.unwrap_or_else(|| (0..=most).map(|id| format!("LABEL_{id}")).collect()) })
    }

    fn values(listed: Option<Vec<String>>) -> Self {
        let name = listed.and_then(|names| names.into_iter().next());
        Self::Values { name: name.unwrap_or_else(|| "LABEL_0".to_owned()) }
    }

    pub(super) fn problem(&self) -> ProblemType {
        match self {
            Self::Values { .. } => ProblemType::Regression,
            Self::Ids { .. } | Self::Names { .. } => ProblemType::SingleLabelClassification,
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Values { name } => vec![name.clone()],
            Self::Ids { names } | Self::Names { names, .. } => names.clone(),
        }
    }

    /// Rows with their labels understood.
    pub(super) fn apply(&self, path: &Path, rows: Vec<Row>) -> Result<Vec<Example>, DataError> {
        let targets: Option<Vec<Target>> = rows.iter().map(|row| self.target(&row.label)).collect();
        let Some(targets) = targets else { return Err(self.unknown(path, &rows)) };
        let example = |(row, target): (Row, Target)| Example { text: row.text, pair: row.pair, target };
        Ok(rows.into_iter().zip(targets).map(example).collect())
    }

    /// The first label that is not known; among ids a name rather, by which all of them are taken for names.
    fn unknown(&self, path: &Path, rows: &[Row]) -> DataError {
        let unknown = rows.iter().filter(|row| self.target(&row.label).is_none());
        let row = unknown.min_by_key(|row| (row.label.parse::<i64>().is_ok(), row.line));
        DataError::UnknownLabel {
            path: path.to_owned(),
            line: row.map_or(0, |row| row.line),
            label: row.map_or_else(String::new, |row| row.label.clone()),
            expected: self.expected(),
        }
    }

    fn target(&self, label: &str) -> Option<Target> {
        match self {
            Self::Values { .. } => label.parse().ok().filter(|value: &f64| value.is_finite()).map(Target::Value),
            Self::Ids { names } => label.parse().ok().filter(|&id| id < names.len()).map(Target::Class),
            Self::Names { ids, .. } => ids.get(label).copied().map(Target::Class),
        }
    }

    fn expected(&self) -> String {
        match self {
            Self::Values { .. } => "a finite number".to_owned(),
            Self::Ids { names } => format!("an id from 0 to {}", names.len() - 1),
            Self::Names { names, .. } => names.join(", "),
        }
    }
}

/// The lines of `labels.txt`, where there is one.
pub(super) fn listed(path: &Path) -> Result<Option<Vec<String>>, DataError> {
    if !path.exists() {
        return Ok(None);
    }
    let mut names: Vec<String> = Vec::new();
    for row in Rows::open(path)? {
        let row = row?;
        match row.text.trim() {
            "" => {}
            name if names.iter().any(|known| known == name) => {
                return Err(DataError::line(path, row.line, format!("the label {name:?} stands here a second time")));
            }
            name => names.push(name.to_owned()),
        }
    }
    if names.is_empty() { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(Some(names)) }
}
