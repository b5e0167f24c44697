//! The texts of a task without their labels, for what needs no labels.

use std::path::{Path, PathBuf};

use polyrank::text::records::{LabelColumn, Records};

use super::files::{self, TRAIN, of_split};
use super::{DataError, DataOptions, HoldOut, RowKind, TaskData};

/// A text, or a pair of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}

/// The texts of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// The training texts.
    pub train: Vec<Text>,
    /// The texts to select on.
    pub validation: Vec<Text>,
}

impl Texts {
    /// The texts of a task that was read with its labels.
    #[must_use]
    pub fn of(data: &TaskData) -> Self {
        let text = |example: &super::Example| Text { text: example.text.clone(), pair: example.pair.clone() };
        let validation = data.validation.first().map(|split| split.examples.iter().map(text).collect());
        Self { train: data.train.iter().map(text).collect(), validation: validation.unwrap_or_default() }
    }

    /// Reads the texts of the folder or file `source`; a column of labels is not read. Without a validation file, a share of the
    /// training texts is held out.
    ///
    /// # Errors
    /// A file is missing, malformed or empty, or the share to hold out leaves one side empty.
    pub fn load(source: &Path, options: &DataOptions) -> Result<Self, DataError> {
        let one = source.is_file();
        if !one && !source.is_dir() {
            return Err(DataError::unusable(source));
        }
        options.hold_out.map_or(Ok(()), HoldOut::check)?;
        let files = if one { vec![source.to_owned()] } else { of_split(source, TRAIN)? };
        let Some(path) = files.first().cloned() else { return Err(DataError::NoTrain(source.to_owned())) };
        let mut texts = Self { train: read(&files, options)?, validation: Vec::new() };
        if !one && let Some((_, files)) = files::validation(source)? {
            texts.validation = read(&files, options)?;
            let train = RowKind::of(&path, pairs(&texts.train));
            RowKind::check(train.as_ref(), &files[0], pairs(&texts.validation))?;
        }
        if let (true, Some(hold_out)) = (texts.validation.is_empty(), options.hold_out) {
            texts.validation = hold_out.take(&mut texts.train, &path)?;
        }
        if let Some(most) = options.max_train_samples {
            texts.train.truncate(most.get());
        }
        Ok(texts)
    }
}

/// Whether each text is one of a pair.
fn pairs(texts: &[Text]) -> impl Iterator<Item = bool> {
    texts.iter().map(|text| text.pair.is_some())
}

/// The texts of all rows of a split's files.
fn read(files: &[PathBuf], options: &DataOptions) -> Result<Vec<Text>, DataError> {
    let mut texts = Vec::new();
    for path in files {
        for row in Records::select(path, &options.columns, LabelColumn::Optional)? {
            let row = row?;
            texts.push(Text { text: row.text, pair: row.pair });
        }
    }
    match files.first() {
        Some(path) if texts.is_empty() => Err(DataError::Empty { path: path.clone() }),
        _ => Ok(texts),
    }
}
