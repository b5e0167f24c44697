//! Holds out a part of the training rows.

use std::collections::HashSet;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::DataError;

/// How a part of the training rows is held out if there is no validation file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HoldOut {
    /// The share of the rows that is held out.
    pub share: f64,
    /// The random seed that chooses the rows.
    pub seed: u64,
}

impl HoldOut {
    /// Checks that the share is between 0 and 1.
    pub(super) fn check(self) -> Result<(), DataError> {
        let Self { share, .. } = self;
        if share > 0.0 && share < 1.0 { Ok(()) } else { Err(DataError::Share { share }) }
    }

    /// Takes the held out rows of the file `path` out of `rows`. Both parts keep their order.
    pub(super) fn take<T>(self, rows: &mut Vec<T>, path: &Path) -> Result<Vec<T>, DataError> {
        let Self { share, seed } = self;
        let held = (rows.len() as f64 * share).round() as usize;
        if held == 0 || held >= rows.len() {
            return Err(DataError::Split { path: path.to_owned(), share, rows: rows.len() });
        }
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let held: HashSet<usize> = order[..held].iter().copied().collect();
        let (taken, left): (Vec<_>, Vec<_>) = rows.drain(..).enumerate().partition(|(i, _)| held.contains(i));
        rows.extend(left.into_iter().map(|(_, row)| row));
        Ok(taken.into_iter().map(|(_, row)| row).collect())
    }
}
