//! Rows are pairs of texts, or single texts.

use std::path::{Path, PathBuf};

use super::DataError;

/// Whether rows are pairs or single texts. A file may have both, where second texts are absent in some rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowKind {
    path: PathBuf,
    pairs: bool,
}

impl RowKind {
    /// The kind of the rows of the file `path`, which have second texts where `pairs` says so. `None` if some have and others do not.
    pub(super) fn of(path: &Path, mut pairs: impl Iterator<Item = bool>) -> Option<Self> {
        let first = pairs.next()?;
        pairs.all(|pair| pair == first).then(|| Self { path: path.to_owned(), pairs: first })
    }

    /// Checks that the rows of the file `path` are not of another kind than the training rows.
    pub(super) fn check(train: Option<&Self>, path: &Path, pairs: impl Iterator<Item = bool>) -> Result<(), DataError> {
        match (train, Self::of(path, pairs)) {
            (Some(Self { path: train, pairs: expected }), Some(Self { path, pairs })) if pairs != *expected => {
                Err(DataError::Pairs { path, train: train.clone(), pairs })
            }
            _ => Ok(()),
        }
    }
}
