//! Decides what a column of labels means: ids, names or numbers. The rules, in the order in which they are tried:
//!
//! | labels | `labels.txt` | meaning of the labels |
//! | --- | --- | --- |
//! | numbers, with `--problem-type regression` | any | values |
//! | whole numbers in any spelling | all names are whole numbers, and every label is a name | names |
//! | whole numbers | other names; as a name, a label has another id than as a number | refused: ambiguous |
//! | whole numbers | one name, that of a regression | values |
//! | whole numbers | other names, or none | ids |
//! | numbers with a fraction | none, or one name | values |
//! | anything else | any | names, in the order of `labels.txt`, or sorted |
//!
//! With `--problem-type single_label_classification`, numbers that cannot be ids are names, too.

use std::collections::BTreeMap;
use std::path::Path;

use polyrank::adapter::ProblemType;
use polyrank::text::records::Records;

use super::labelled::Labelled;
use super::spelling::{is_no_number, number, whole};
use super::{DataError, Example, Target};

/// How the labels of a task are read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Labels {
    /// As numbers; the one output has a name.
    Values { name: String },
    /// As ids. The names are in order of id.
    Ids { names: Vec<String> },
    /// As names, which are in order of id. Files may spell them as numbers with the same value.
    Names { names: Vec<String>, ids: BTreeMap<String, usize>, numbers: BTreeMap<i128, usize> },
}

/// Names of labels that do not come from the rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Listed {
    pub(super) names: Vec<String>,
    /// Their source, for messages: `labels.txt`, or the adapter's labels.
    pub(super) from: &'static str,
}

/// A column with larger ids does not hold classes.
const MOST_CLASSES: usize = 10_000;

impl Labels {
    /// Decides from the rows of `path`, the `listed` names if there are any, and `problem` if the user gave it. Also returns a message
    /// about the decision.
    pub(super) fn decide(
        path: &Path,
        rows: &[Labelled],
        listed: Option<Listed>,
        problem: Option<ProblemType>,
    ) -> Result<(Self, String), DataError> {
        let column = Column::of(path, rows);
        match problem {
            Some(ProblemType::MultiLabelClassification) => Err(DataError::MultiLabel),
            Some(ProblemType::Regression) => {
                column.refuse_other_than_numbers()?;
                Ok(Self::values(listed))
            }
            asked => column.classes_or_values(listed, asked.is_some()),
        }
    }

    fn values(listed: Option<Listed>) -> (Self, String) {
        let read = "numbers read as the values of a regression";
        match listed {
            Some(Listed { mut names, from }) if names.len() == 1 => {
                let name = names.remove(0);
                let read = format!("{read}, named {name} by {from}");
                (Self::Values { name }, read)
            }
            Some(Listed { from, .. }) => {
                (Self::Values { name: "LABEL_0".to_owned() }, format!("{read}, which ignores the names of {from}"))
            }
            None => (Self::Values { name: "LABEL_0".to_owned() }, read.to_owned()),
        }
    }

    fn named(names: Vec<String>) -> Self {
        let ids = names.iter().cloned().enumerate().map(|(id, name)| (name, id)).collect();
        let mut numbers = BTreeMap::new();
        for (id, value) in names.iter().enumerate().filter_map(|(id, name)| Some((id, whole(name)?))) {
            // Names with the same value, which only differ in their spelling, are not recognised by value.
            numbers.entry(value).and_modify(|known| *known = names.len()).or_insert(id);
        }
        numbers.retain(|_, id| *id < names.len());
        Self::Names { names, ids, numbers }
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

    /// Whether a row of a test file has a label. GLUE's test files have none, or -1, which may be a class in other files.
    pub(super) fn is_label(&self, label: &str) -> bool {
        let minus_one = whole(label) == Some(-1);
        !label.is_empty() && !(minus_one && (matches!(self, Self::Values { .. }) || self.target(label).is_none()))
    }

    /// Turns rows into examples, with the meaning of their labels.
    pub(super) fn apply(&self, path: &Path, rows: Vec<Labelled>) -> Result<Vec<Example>, DataError> {
        let targets: Option<Vec<Target>> = rows.iter().map(|row| self.target(&row.label)).collect();
        let Some(targets) = targets else { return Err(self.unknown(path, &rows)) };
        let example = |(row, target): (Labelled, Target)| Example { text: row.text, pair: row.pair, target };
        Ok(rows.into_iter().zip(targets).map(example).collect())
    }

    /// The error for the first unknown label. If labels are ids, it is preferably for a name, because one name makes all labels names.
    fn unknown(&self, path: &Path, rows: &[Labelled]) -> DataError {
        let unknown = rows.iter().filter(|row| self.target(&row.label).is_none());
        let row = unknown.min_by_key(|row| (whole(&row.label).is_some(), row.line));
        DataError::UnknownLabel {
            path: path.to_owned(),
            line: row.map_or(0, |row| row.line),
            label: row.map_or_else(String::new, |row| row.label.clone()),
            expected: self.expected(),
        }
    }

    fn target(&self, label: &str) -> Option<Target> {
        match self {
            Self::Values { .. } => number(label).map(Target::Value),
            Self::Ids { names } => {
                let id = usize::try_from(whole(label)?).ok();
                id.filter(|&id| id < names.len()).map(Target::Class)
            }
            Self::Names { ids, numbers, .. } => {
                let id = ids.get(label).or_else(|| numbers.get(&whole(label)?));
                id.copied().map(Target::Class)
            }
        }
    }

    fn expected(&self) -> String {
        const MOST: usize = 20;
        match self {
            Self::Values { .. } => "a finite number".to_owned(),
            Self::Ids { names } => format!("an id from 0 to {}", names.len() - 1),
            Self::Names { names, .. } if names.len() > MOST => {
                format!("{}, ... ({} names)", names[..MOST].join(", "), names.len())
            }
            Self::Names { names, .. } => names.join(", "),
        }
    }
}

/// The labels of a file before their meaning is decided.
struct Column<'a> {
    path: &'a Path,
    rows: &'a [Labelled],
    /// All labels as whole numbers; `None` if one of them is not a whole number.
    whole: Option<Vec<i128>>,
}

impl<'a> Column<'a> {
    fn of(path: &'a Path, rows: &'a [Labelled]) -> Self {
        Self { path, rows, whole: rows.iter().map(|row| whole(&row.label)).collect() }
    }

    /// Whether all labels are numbers, except those that programs write for a missing number.
    fn is_numeric(&self) -> bool {
        let known = |row: &Labelled| number(&row.label).is_some();
        self.rows.iter().any(known) && self.rows.iter().all(|row| known(row) || is_no_number(&row.label))
    }

    fn refuse_other_than_numbers(&self) -> Result<(), DataError> {
        match self.rows.iter().find(|row| number(&row.label).is_none()) {
            Some(row) => Err(DataError::UnknownLabel {
                path: self.path.to_owned(),
                line: row.line,
                label: row.label.clone(),
                expected: "a finite number".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Decides between classes and values. `asked` is true if the user asked for classes.
    fn classes_or_values(&self, listed: Option<Listed>, asked: bool) -> Result<(Labels, String), DataError> {
        let one_name = |listed: &Listed| listed.names.len() == 1 && number(&listed.names[0]).is_none();
        let differ = self.rows.iter().any(|row| row.label != self.rows[0].label);
        let numeric = self.is_numeric() && !listed.as_ref().is_some_and(|listed| self.all_named(listed));
        if numeric {
            self.refuse_other_than_numbers()?;
            let values = match &listed {
                Some(listed) => one_name(listed) && (differ || self.whole.is_none()),
                None => self.whole.is_none(),
            };
            if values && !asked {
                return Ok(Labels::values(listed));
            }
        }
        match (&self.whole, listed) {
            (Some(values), Some(listed)) => self.ids_or_names(values, listed),
            (Some(values), None) => self.ids(values, asked),
            (None, Some(Listed { names, from })) => {
                let read = format!("names, in the order of {from} ({} classes)", names.len());
                Ok((Labels::named(names), read))
            }
            (None, None) => {
                let names = self.sorted();
                let read = format!("names, sorted ({} classes)", names.len());
                Ok((Labels::named(names), read))
            }
        }
    }

    /// Whether every label is in `listed` with the same spelling.
    fn all_named(&self, listed: &Listed) -> bool {
        self.rows.iter().all(|row| listed.names.contains(&row.label))
    }

    /// Decides whether whole numbers are ids or names, where there are names. A label may be ambiguous.
    fn ids_or_names(&self, values: &[i128], listed: Listed) -> Result<(Labels, String), DataError> {
        let by_name = Labels::named(listed.names.clone());
        let count = listed.names.len();
        let place = |row: &Labelled| match by_name.target(&row.label) {
            Some(Target::Class(id)) => Some(id),
            _ => None,
        };
        let all_named = self.rows.iter().all(|row| place(row).is_some());
        if all_named && listed.names.iter().all(|name| whole(name).is_some()) {
            return Ok((by_name, format!("whole numbers read as the names of {} ({count} classes)", listed.from)));
        }
        // A label that is one class as an id and another as a name.
        let two = |(row, &value): (&'a Labelled, &i128)| Some((row, place(row).filter(|&id| id as i128 != value)?));
        if let Some((row, named)) = self.rows.iter().zip(values).find_map(two) {
            return Err(DataError::Ambiguous {
                path: self.path.to_owned(),
                line: row.line,
                label: row.label.clone(),
                from: listed.from,
                named,
                count,
            });
        }
        let read = format!("whole numbers read as ids into {} ({count} classes)", listed.from);
        Ok((Labels::Ids { names: listed.names }, read))
    }

    /// Decides what whole numbers mean if there are no names.
    fn ids(&self, values: &[i128], asked: bool) -> Result<(Labels, String), DataError> {
        let fits = |value: &i128| usize::try_from(*value).is_ok_and(|id| id < MOST_CLASSES);
        match self.rows.iter().zip(values).find(|(_, value)| !fits(value)) {
            None => {
                let count = values.iter().max().map_or(0, |most| *most as usize + 1);
                let names = (0..count).map(|id| format!("LABEL_{id}")).collect();
                Ok((Labels::Ids { names }, format!("whole numbers read as ids without names ({count} classes)")))
            }
            Some(_) if asked => {
                let names = self.sorted();
                let read = format!("whole numbers read as names, sorted ({} classes)", names.len());
                Ok((Labels::named(names), read))
            }
            Some((row, _)) => {
                let reason = format!(
                    "label {}: expected an id from 0 to {}; remove rows without a label; if the labels are names, give \
                     labels.txt or --problem-type single_label_classification; for a regression, give --problem-type regression",
                    row.label,
                    MOST_CLASSES - 1
                );
                Err(DataError::line(self.path, row.line, reason))
            }
        }
    }

    /// The different labels, sorted. Numbers with equal values count once, with their first spelling.
    fn sorted(&self) -> Vec<String> {
        let Some(values) = &self.whole else {
            let mut names: Vec<String> = self.rows.iter().map(|row| row.label.clone()).collect();
            names.sort_unstable();
            names.dedup();
            return names;
        };
        let values: std::collections::BTreeSet<i128> = values.iter().copied().collect();
        values.into_iter().map(|value| value.to_string()).collect()
    }
}

/// The lines of `labels.txt`, if it exists.
pub(super) fn listed(path: &Path) -> Result<Option<Listed>, DataError> {
    if !path.exists() {
        return Ok(None);
    }
    let mut names: Vec<String> = Vec::new();
    for row in Records::open(path)? {
        let row = row?;
        match row.text.trim() {
            "" => {}
            name if names.iter().any(|known| known == name) => {
                return Err(DataError::line(path, row.line, format!("the label {name:?} is listed twice")));
            }
            name => names.push(name.to_owned()),
        }
    }
    if names.is_empty() {
        Err(DataError::Empty { path: path.to_owned() })
    } else {
        Ok(Some(Listed { names, from: "labels.txt" }))
    }
}
