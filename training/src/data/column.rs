//! The rules by which the labels of a file are ids, names or values.

use std::collections::BTreeSet;

use super::DataError;
use super::classes::{Classes, Listed};
use super::labelled::Labelled;
use super::spelling::{is_no_number, number, whole};

/// A column with larger ids does not hold classes.
const MOST_CLASSES: usize = 10_000;

/// The labels of a file before their meaning is decided. A row that has several labels has several items.
pub(super) struct Column<'a> {
    items: Vec<(&'a Labelled, &'a str)>,
    /// All labels as whole numbers; `None` if one of them is not a whole number.
    whole: Option<Vec<i128>>,
}

impl<'a> Column<'a> {
    /// The column of labels that have each its row.
    pub(super) fn of(items: Vec<(&'a Labelled, &'a str)>) -> Self {
        let whole = items.iter().map(|(_, label)| whole(label)).collect();
        Self { items, whole }
    }

    /// Whether all labels are numbers, except those that programs write for a missing number.
    fn is_numeric(&self) -> bool {
        let known = |label: &str| number(label).is_some();
        self.items.iter().any(|(_, label)| known(label))
            && self.items.iter().all(|(_, label)| known(label) || is_no_number(label))
    }

    pub(super) fn refuse_other_than_numbers(&self) -> Result<(), DataError> {
        match self.items.iter().find(|(_, label)| number(label).is_none()) {
            Some(&(row, label)) => Err(DataError::unknown(row, label, "a finite number")),
            None => Ok(()),
        }
    }

    /// Decides between classes and values, for which it returns `None`.
    pub(super) fn classes_or_values(&self, listed: Option<&Listed>) -> Result<Option<(Classes, String)>, DataError> {
        let one_name = |listed: &Listed| listed.names.len() == 1 && number(&listed.names[0]).is_none();
        if self.has_numbers(listed) {
            self.refuse_other_than_numbers()?;
            if self.whole.is_none() && listed.is_none_or(one_name) {
                return Ok(None);
            }
        }
        self.ids_or_names(listed.cloned(), false).map(Some)
    }

    /// Reads the labels as classes, because the user asked for classes or because a row has several.
    pub(super) fn classes(&self, listed: Option<Listed>) -> Result<(Classes, String), DataError> {
        if self.has_numbers(listed.as_ref()) {
            self.refuse_other_than_numbers()?;
        }
        self.ids_or_names(listed, true)
    }

    /// Whether the labels are numbers that are not all names with the same spelling.
    fn has_numbers(&self, listed: Option<&Listed>) -> bool {
        let all_named =
            |listed: &Listed| self.items.iter().all(|(_, label)| listed.names.iter().any(|name| name == label));
        self.is_numeric() && !listed.is_some_and(all_named)
    }

    fn ids_or_names(&self, listed: Option<Listed>, asked: bool) -> Result<(Classes, String), DataError> {
        match (&self.whole, listed) {
            (Some(values), Some(listed)) => self.ids_or_listed(values, listed),
            (Some(values), None) => self.ids(values, asked),
            (None, Some(Listed { names, from, .. })) => {
                let read = format!("names, in the order of {from} ({} classes)", names.len());
                Ok((Classes::named(names), read))
            }
            (None, None) => {
                let names = self.sorted();
                let read = format!("names, sorted ({} classes)", names.len());
                Ok((Classes::named(names), read))
            }
        }
    }

    /// Decides whether whole numbers are ids or names, where there are names. A label may be ambiguous.
    fn ids_or_listed(&self, values: &[i128], listed: Listed) -> Result<(Classes, String), DataError> {
        let (count, from) = (listed.names.len(), listed.from);
        let as_ids = format!("whole numbers read as ids into {from} ({count} classes)");
        if listed.ids {
            return Ok((Classes::Ids { names: listed.names }, as_ids));
        }
        let by_name = Classes::named(listed.names.clone());
        let all_named = self.items.iter().all(|(_, label)| by_name.id(label).is_some());
        if all_named && listed.names.iter().all(|name| whole(name).is_some()) {
            return Ok((by_name, format!("whole numbers read as the names of {from} ({count} classes)")));
        }
        // A label that is one class as an id and another as a name.
        let two = |(&item, &value): (&(&'a Labelled, &'a str), &i128)| {
            Some((item, by_name.id(item.1).filter(|&id| id as i128 != value)?))
        };
        if let Some(((row, label), named)) = self.items.iter().zip(values).find_map(two) {
            return Err(DataError::Ambiguous {
                path: row.path.to_path_buf(),
                line: row.line,
                label: label.to_owned(),
                from,
                named,
                count,
            });
        }
        Ok((Classes::Ids { names: listed.names }, as_ids))
    }

    /// Decides what whole numbers mean if there are no names.
    fn ids(&self, values: &[i128], asked: bool) -> Result<(Classes, String), DataError> {
        let fits = |value: &i128| usize::try_from(*value).is_ok_and(|id| id < MOST_CLASSES);
        match self.items.iter().zip(values).find(|(_, value)| !fits(value)) {
            None => {
                let count = values.iter().max().map_or(0, |most| *most as usize + 1);
                let names = (0..count).map(|id| format!("LABEL_{id}")).collect();
                Ok((Classes::Ids { names }, format!("whole numbers read as ids without names ({count} classes)")))
            }
            Some(_) if asked => {
                let names = self.sorted();
                let read = format!("whole numbers read as names, sorted ({} classes)", names.len());
                Ok((Classes::named(names), read))
            }
            Some(((row, label), _)) => Err(row.wrong(format!(
                "label {label}: expected an id from 0 to {}; remove rows without a label; if the labels are names, give labels.txt or \
                 --problem-type single_label_classification; for a regression, give --problem-type regression",
                MOST_CLASSES - 1
            ))),
        }
    }

    /// The different labels, sorted. Numbers with equal values count once, without a fraction or an exponent; but where some have leading
    /// zeros, such as postcodes, all are names as they are spelt.
    fn sorted(&self) -> Vec<String> {
        let is_code =
            |label: &str| label.len() > 1 && label.starts_with('0') && label.bytes().all(|c| c.is_ascii_digit());
        match &self.whole {
            Some(values) if !self.items.iter().any(|(_, label)| is_code(label)) => {
                let values: BTreeSet<i128> = values.iter().copied().collect();
                values.into_iter().map(|value| value.to_string()).collect()
            }
            _ => {
                let names: BTreeSet<&str> = self.items.iter().map(|(_, label)| *label).collect();
                names.into_iter().map(str::to_owned).collect()
            }
        }
    }
}
