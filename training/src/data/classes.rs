//! The names of classes, and how rows spell them.

use std::collections::BTreeMap;
use std::path::Path;

use polyrank::text::records::{ColumnNames, Records};

use super::DataError;
use super::spelling::whole;

/// The classes of a task, and how rows spell them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Classes {
    /// As ids. The names are in order of id.
    Ids { names: Vec<String> },
    /// As names, which are in order of id. Files may spell them as numbers with the same value.
    Names { names: Vec<String>, ids: BTreeMap<String, usize>, numbers: BTreeMap<i128, usize> },
}

impl Classes {
    pub(super) fn named(names: Vec<String>) -> Self {
        let ids = names.iter().cloned().enumerate().map(|(id, name)| (name, id)).collect();
        let mut numbers = BTreeMap::new();
        for (id, value) in names.iter().enumerate().filter_map(|(id, name)| Some((id, whole(name)?))) {
            // Names with the same value, which only differ in their spelling, are not recognised by value.
            numbers.entry(value).and_modify(|known| *known = names.len()).or_insert(id);
        }
        numbers.retain(|_, id| *id < names.len());
        Self::Names { names, ids, numbers }
    }

    /// The names in order of id.
    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::Ids { names } | Self::Names { names, .. } => names,
        }
    }

    /// The id of the class that is spelt `label`.
    pub(super) fn id(&self, label: &str) -> Option<usize> {
        match self {
            Self::Ids { names } => usize::try_from(whole(label)?).ok().filter(|&id| id < names.len()),
            Self::Names { ids, numbers, .. } => ids.get(label).or_else(|| numbers.get(&whole(label)?)).copied(),
        }
    }

    /// What labels may be, for messages.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Ids { names } if names.len() == 1 => {
                "an id from 0 to 0; --problem-type regression reads numbers as values".to_owned()
            }
            Self::Ids { names } => format!("an id from 0 to {}", names.len() - 1),
            Self::Names { names, .. } => joined(names),
        }
    }

    /// The names, or ids, by which data may label a class, for errors.
    pub(super) fn names_or_ids(&self) -> String {
        match self {
            Self::Ids { names } => format!("{}, or {}", joined(names), self.expected()),
            Self::Names { .. } => self.expected(),
        }
    }
}

/// The names, or the first ones and their number.
fn joined(names: &[String]) -> String {
    const MOST: usize = 20;
    if names.len() > MOST {
        format!("{}, ... ({} names)", names[..MOST].join(", "), names.len())
    } else {
        names.join(", ")
    }
}

/// Names of labels that do not come from the rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Listed {
    pub(super) names: Vec<String>,
    /// Their source, for messages: `labels.txt`, the Parquet file, or the adapter's labels.
    pub(super) from: &'static str,
    /// Whether whole numbers in the rows are ids, even if names are whole numbers, too.
    pub(super) ids: bool,
}

/// The names that a Parquet file states for its column of labels, if it does.
pub(super) fn stated(path: &Path, columns: &ColumnNames) -> Result<Option<Listed>, DataError> {
    let names = Records::class_names(path, columns)?.filter(|names| !names.is_empty());
    Ok(names.map(|names| Listed { names, from: "the Parquet file's features", ids: true }))
}

/// The lines of `labels.txt`, if it exists.
pub(super) fn listed(path: &Path) -> Result<Option<Listed>, DataError> {
    if !path.exists() {
        return Ok(None);
    }
    let (mut names, mut blank): (Vec<String>, _) = (Vec::new(), None);
    for row in Records::open(path)? {
        let row = row?;
        match (row.text.trim(), blank) {
            ("", _) => blank = blank.or(Some(row.line)),
            (name, Some(blank)) => {
                let reason =
                    format!("the line is blank, and {name:?} comes after it: each line names the id of its place");
                return Err(DataError::line(path, blank, reason));
            }
            (name, None) if names.iter().any(|known| known == name) => {
                return Err(DataError::line(path, row.line, format!("the label {name:?} is listed twice")));
            }
            (name, None) => names.push(name.to_owned()),
        }
    }
    if names.is_empty() {
        Err(DataError::Empty { path: path.to_owned() })
    } else {
        Ok(Some(Listed { names, from: "labels.txt", ids: false }))
    }
}
