//! Refuses training rows from which nothing can be learnt, and warns of unusual ones.

use std::collections::BTreeSet;
use std::path::Path;

use polyrank::adapter::{LONGEST_NAMES, MOST_LABELS, ProblemType};

use super::{DataError, TaskData};

impl TaskData {
    /// Refuses more labels, or longer names, than an adapter can have.
    pub(super) fn check_labels(&self, path: &Path) -> Result<(), DataError> {
        let bytes = self.labels.iter().map(String::len).sum();
        let limits = [("labels", MOST_LABELS, self.labels.len()), ("bytes of names", LONGEST_NAMES, bytes)];
        match limits.into_iter().find(|(_, most, found)| found > most) {
            Some((what, most, found)) => Err(DataError::Labels { path: path.to_owned(), what, most, found }),
            None => Ok(()),
        }
    }

    /// Refuses training rows that all have the same label or labels. `rows` says which rows are left.
    pub(super) fn check_classes(&self, path: &Path, rows: &'static str) -> Result<(), DataError> {
        let Some(first) = self.train.first().filter(|_| self.problem != ProblemType::Regression) else { return Ok(()) };
        if self.train.iter().any(|example| example.target != first.target) {
            return Ok(());
        }
        let names: Vec<&str> = first.target.classes().iter().map(|&id| &*self.labels[id]).collect();
        Err(DataError::OneClass {
            path: path.to_owned(),
            rows,
            labels: match (self.problem, &*names) {
                (ProblemType::SingleLabelClassification, [name]) => format!("the label {name:?}"),
                _ => format!("the labels {names:?}"),
            },
        })
    }

    /// Adds warnings about the classes of the training rows, without those that are held out or cut off.
    pub(super) fn warn(&mut self, path: &Path) {
        const MOST: usize = 5;
        if self.problem == ProblemType::Regression {
            return;
        }
        let seen: BTreeSet<usize> = self.train.iter().flat_map(|example| example.target.classes()).copied().collect();
        let (rows, all) = (self.train.len(), self.labels.len());
        if seen.len() < all {
            let absent: Vec<&str> = (0..all).filter(|id| !seen.contains(id)).map(|id| &*self.labels[id]).collect();
            let more = if absent.len() > MOST { ", ..." } else { "" };
            let (count, named) = (absent.len(), absent[..absent.len().min(MOST)].join(", "));
            self.warnings.push(format!(
                "no training row of {} has {count} of the {all} classes: {named}{more}; each still gets an output",
                path.display()
            ));
        }
        if rows >= 20 && 2 * seen.len() > rows {
            self.warnings.push(format!(
                "{}: {rows} rows have {} different labels: is that the column of labels?",
                path.display(),
                seen.len()
            ));
        }
    }
}
