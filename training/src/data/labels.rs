//! What a column of labels means: ids, names or numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use polyrank::adapter::ProblemType;

use super::rows::Row;
use super::{DataError, Example, Target};

/// The labels of a task.
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
    /// Decides by the training rows and `labels.txt`: integers are ids (into `labels.txt` where there is one), other strings are
    /// names in its order or sorted; numbers with a fraction mean regression unless `problem` says else.
    pub(super) fn decide(
        dir: &Path,
        path: &Path,
        rows: &[Row],
        problem: Option<ProblemType>,
    ) -> Result<Self, DataError> {
        let listed = listed(&dir.join("labels.txt"))?;
        let integers = rows.iter().all(|row| row.label.parse::<u64>().is_ok());
        let numbers = rows.iter().all(|row| row.label.parse::<f64>().is_ok());
        match problem {
            Some(ProblemType::Regression) => return Ok(Self::values(listed)),
            Some(ProblemType::MultiLabelClassification) => {
                let reason = "multi_label_classification is not trained yet";
                return Err(DataError::line(path, rows.first().map_or(1, |row| row.line), reason));
            }
            None if numbers && !integers => return Ok(Self::values(listed)),
            _ => {}
        }
        if integers {
            let most = rows.iter().filter_map(|row| row.label.parse::<usize>().ok()).max().unwrap_or(0);
            if most >= MOST_CLASSES {
                let line = rows.first().map_or(1, |row| row.line);
                return Err(DataError::line(path, line, format!("label id {most}: expected ids below {MOST_CLASSES}")));
            }
            let names = listed.unwrap_or_else(|| (0..=most).map(|id| format!("LABEL_{id}")).collect());
            return Ok(Self::Ids { names });
        }
        let names = listed
            .unwrap_or_else(|| rows.iter().map(|row| row.label.clone()).collect::<BTreeSet<_>>().into_iter().collect());
        let ids = names.iter().cloned().enumerate().map(|(id, name)| (name, id)).collect();
        Ok(Self::Names { names, ids })
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
        let example = |row: Row| {
            let target = self.target(&row.label).ok_or_else(|| DataError::UnknownLabel {
                path: path.to_owned(),
                line: row.line,
                label: row.label.clone(),
                expected: self.expected(),
            })?;
            Ok(Example { text: row.text, pair: row.pair, target })
        };
        rows.into_iter().map(example).collect()
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
fn listed(path: &Path) -> Result<Option<Vec<String>>, DataError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let names: Vec<String> =
                text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
            if names.is_empty() {
                return Err(DataError::Empty { path: path.to_owned() });
            }
            Ok(Some(names))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Io { path: path.to_owned(), source }),
    }
}
