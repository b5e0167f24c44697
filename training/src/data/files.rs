//! Finds the files of a task's splits, and names the task.

use std::path::{Path, PathBuf};

use super::DataError;

/// The names of files that may hold the validation split, in order of preference.
pub(super) const VALIDATION: [&str; 3] = ["validation", "validation_matched", "dev"];
pub(super) const TRAIN: &str = "train";
pub(super) const TEST: &str = "test";
/// The extensions of files with labelled rows.
const EXTENSIONS: [&str; 5] = ["tsv", "csv", "jsonl", "json", "parquet"];

/// The files of the first existing split other than train.
pub(super) fn any(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    match validation(dir)? {
        Some((_, files)) => Ok(files),
        None => match of_split(dir, TEST)? {
            files if files.is_empty() => Err(DataError::NoData(dir.to_owned())),
            files => Ok(files),
        },
    }
}

/// The name and the files of the split by which the best epoch is selected, if there is one.
pub(super) fn validation(dir: &Path) -> Result<Option<(&'static str, Vec<PathBuf>)>, DataError> {
    for name in VALIDATION {
        let found = of_split(dir, name)?;
        if !found.is_empty() {
            return Ok(Some((name, found)));
        }
    }
    Ok(None)
}

/// The files of a split: `NAME.EXTENSION`, or the parts `NAME-00000-of-00002.EXTENSION` and so on, as the hub has them, in order. None if
/// the split does not exist.
pub(super) fn of_split(dir: &Path, name: &str) -> Result<Vec<PathBuf>, DataError> {
    let mut found: Vec<Vec<PathBuf>> = Vec::new();
    for extension in EXTENSIONS {
        let whole = dir.join(format!("{name}.{extension}"));
        if whole.exists() {
            found.push(vec![whole]);
        }
        found.extend(parts(dir, name, extension)?);
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(DataError::TwoFiles { first: first[0].clone(), second: second[0].clone() }),
        (first, _) => Ok(first.unwrap_or_default()),
    }
}

/// The parts of a split, if there are any. All must be there.
fn parts(dir: &Path, name: &str, extension: &str) -> Result<Option<Vec<PathBuf>>, DataError> {
    let entries = std::fs::read_dir(dir).map_err(|source| DataError::Folder { path: dir.to_owned(), source })?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name();
        let part = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_suffix(extension)?.strip_suffix('.'));
        if let Some(numbers) = part.and_then(part_of) {
            found.push((numbers, entry.path()));
        }
    }
    found.sort();
    let Some(&((_, count), _)) = found.first() else { return Ok(None) };
    match (0..count).find(|&i| found.get(i).is_none_or(|(numbers, _)| *numbers != (i, count))) {
        Some(missing) => Err(DataError::Part(dir.join(format!("{name}-{missing:05}-of-{count:05}.{extension}")))),
        None if found.len() > count => {
            Err(DataError::TwoFiles { first: found[0].1.clone(), second: found[count].1.clone() })
        }
        None => Ok(Some(found.into_iter().map(|(_, path)| path).collect())),
    }
}

/// The number of a part, from 0, and the number of parts, of the end `-00000-of-00002` of a name.
fn part_of(end: &str) -> Option<(usize, usize)> {
    let (part, count) = end.strip_prefix('-')?.split_once("-of-")?;
    let number = |text: &str| if text.len() == 5 { text.parse().ok() } else { None };
    Some((number(part)?, number(count)?)).filter(|(_, count)| *count > 0)
}

/// Whether a file is that of the test split, or a part of it.
pub(super) fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.strip_prefix(TEST).is_some_and(|end| end.is_empty() || part_of(end).is_some())
}

/// The name of the folder; or of the file, unless it is the name of a split.
pub(super) fn task_name(source: &Path, one: bool) -> String {
    let stem = source.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let splits = [TRAIN, TEST, "validation_mismatched"];
    if one && !VALIDATION.iter().chain(&splits).any(|name| *name == stem) {
        return stem;
    }
    let whole = || source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let folder = if one {
        whole().parent().map(Path::to_owned).unwrap_or_default()
    } else if source.file_name().is_some() {
        // If the folder is a link, the link's own name counts.
        source.to_owned()
    } else {
        // For `.`, the folder's real name counts.
        whole()
    };
    folder.file_name().map_or_else(|| "task".to_owned(), |name| name.to_string_lossy().into_owned())
}
