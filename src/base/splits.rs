//! Finds a dataset's splits among the files of a repository, by the names that the library `datasets` goes by: `train.csv`,
//! `data/train-00000-of-00002.parquet`, `CONFIG/validation.jsonl`, `CONFIG/test/0000.parquet`.

use std::collections::BTreeMap;

/// The formats, the preferred one first.
const EXTENSIONS: [&str; 5] = ["parquet", "jsonl", "json", "csv", "tsv"];

/// The words for each split, the first of which is the name of its file in a task's folder.
const SPLITS: [&[&str]; 7] = [
    &["train", "training"],
    &["validation", "valid", "val", "dev"],
    &["validation_matched"],
    &["validation_mismatched"],
    &["test", "testing", "eval", "evaluation"],
    &["test_matched"],
    &["test_mismatched"],
];

/// The name of a configuration whose files are not in a folder of their own.
const DEFAULT: &str = "default";

/// What to fetch of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) config: String,
    /// The files in the repository, each with its name in a task's folder.
    pub(super) files: Vec<(String, String)>,
}

/// Plans what to fetch of the configuration `asked`, or of the only one.
///
/// # Errors
/// A message, if there is no such configuration, or no training split.
pub(super) fn plan(files: &[String], asked: Option<&str>) -> Result<Plan, String> {
    let mut configs: BTreeMap<String, BTreeMap<(usize, &'static str), Vec<&str>>> = BTreeMap::new();
    for file in files {
        if let Some(Found { config, split, format }) = found(file) {
            configs.entry(config).or_default().entry((format, split)).or_default().push(file);
        }
    }
    // A configuration is of use with a training split. Its files in another format are copies.
    let train = |of: &BTreeMap<(usize, &'static str), Vec<&str>>| {
        of.keys().find(|(_, split)| *split == SPLITS[0][0]).map(|(format, _)| *format)
    };
    configs.retain(|_, of| train(of).is_some());
    let names = configs.keys().cloned().collect::<Vec<_>>().join(", ");
    let config = match asked {
        Some(asked) if configs.contains_key(asked) => asked,
        Some(_) if configs.is_empty() => return Err(no_train(files)),
        Some(asked) => return Err(format!("--dataset-config: expected one of {names}, found {asked}")),
        None if configs.len() == 1 || configs.contains_key(DEFAULT) => {
            configs.keys().find(|name| *name == DEFAULT || configs.len() == 1).map_or(DEFAULT, String::as_str)
        }
        None if configs.is_empty() => return Err(no_train(files)),
        None => return Err(format!("it has several configurations; give --dataset-config, one of {names}")),
    };
    let of = &configs[config];
    let format = train(of).unwrap_or_default();
    let mut planned = Vec::new();
    for ((_, split), files) in of.iter().filter(|((other, _), _)| *other == format) {
        let (extension, mut files) = (EXTENSIONS[format], files.clone());
        files.sort_unstable();
        for (i, file) in files.iter().enumerate() {
            let part = if files.len() == 1 { String::new() } else { format!("-{i:05}-of-{:05}", files.len()) };
            planned.push(((*file).to_owned(), format!("{split}{part}.{extension}")));
        }
    }
    Ok(Plan { config: config.to_owned(), files: planned })
}

fn no_train(files: &[String]) -> String {
    const MOST: usize = 8;
    let more = if files.len() > MOST { ", ..." } else { "" };
    let names = files.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("expected a training split in .parquet, .jsonl, .json, .csv or .tsv, found {names}{more}")
}

/// The part of a dataset that a file holds.
struct Found {
    config: String,
    /// The split's file name in a task's folder.
    split: &'static str,
    /// The index of the format in [`EXTENSIONS`].
    format: usize,
}

fn found(path: &str) -> Option<Found> {
    let (stem, extension) = path.rsplit_once('.')?;
    let format = EXTENSIONS.iter().position(|known| extension.eq_ignore_ascii_case(known))?;
    let mut folders: Vec<&str> = stem.split('/').collect();
    let name = folders.pop()?;
    // The split is the file's name, or that of its folder.
    let split = match split_of(name) {
        Some(split) => split,
        None => split_of(folders.pop()?)?,
    };
    if folders.first() == Some(&"data") {
        folders.remove(0);
    }
    let config = if folders.is_empty() { DEFAULT.to_owned() } else { folders.join("/") };
    Some(Found { config, split, format })
}

/// The split that a name means, which may be followed by the number of a part and a checksum.
fn split_of(name: &str) -> Option<&'static str> {
    let hex = |end: &str| end.len() == 16 && end.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = name.rsplit_once('-').filter(|(_, end)| hex(end)).map_or(name, |(name, _)| name);
    let part = name.rsplit_once("-of-").filter(|(_, count)| number(count));
    let name =
        part.and_then(|(rest, _)| rest.rsplit_once('-').filter(|(_, part)| number(part))).map_or(name, |of| of.0);
    SPLITS.iter().find(|words| words.contains(&name)).map(|words| words[0])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn planned(files: &[&str], asked: Option<&str>) -> Result<(String, Vec<String>), String> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let plan = plan(&files, asked)?;
        Ok((plan.config, plan.files.into_iter().map(|(from, to)| format!("{from} > {to}")).collect()))
    }

    #[test]
    fn finds_splits_by_the_names_of_files_and_folders() {
        type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a str, &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            (
                &["README.md", "train.csv", "dev.csv", "testing.csv", "unsupervised.csv"],
                None,
                "default",
                &["testing.csv > test.csv", "train.csv > train.csv", "dev.csv > validation.csv"],
            ),
            (
                &[
                    "data/train-00001-of-00002-0123456789abcdef.parquet",
                    "data/train-00000-of-00002-fedcba9876543210.parquet",
                ],
                Some("default"),
                "default",
                &[
                    "data/train-00000-of-00002-fedcba9876543210.parquet > train-00000-of-00002.parquet",
                    "data/train-00001-of-00002-0123456789abcdef.parquet > train-00001-of-00002.parquet",
                ],
            ),
            (
                &[
                    "mnli/train-00000-of-00001.parquet",
                    "mnli/validation_matched-00000-of-00001.parquet",
                    "ax/test-00000-of-00001.parquet",
                    "cola/train-00000-of-00001.parquet",
                ],
                Some("mnli"),
                "mnli",
                &[
                    "mnli/train-00000-of-00001.parquet > train.parquet",
                    "mnli/validation_matched-00000-of-00001.parquet > validation_matched.parquet",
                ],
            ),
            // The layout of the hub's converted copies.
            (
                &["plain_text/train/0000.parquet", "plain_text/train/0001.parquet", "plain_text/test/0000.parquet"],
                None,
                "plain_text",
                &[
                    "plain_text/test/0000.parquet > test.parquet",
                    "plain_text/train/0000.parquet > train-00000-of-00002.parquet",
                    "plain_text/train/0001.parquet > train-00001-of-00002.parquet",
                ],
            ),
            // Parquet is preferred, and other configurations than the default must be asked for.
            (
                &["train.jsonl", "train.parquet", "val.jsonl", "raw/train.csv"],
                None,
                "default",
                &["train.parquet > train.parquet"],
            ),
            (&["data/en/train.jsonl"], None, "en", &["data/en/train.jsonl > train.jsonl"]),
        ];
        for (files, asked, config, expected) in cases {
            let (found, files) = planned(files, *asked).unwrap();
            assert_eq!(
                (&*found, &*files),
                (*config, &expected.iter().map(|&file| file.to_owned()).collect::<Vec<_>>()[..])
            );
        }
    }

    #[test]
    fn errors_name_what_there_is() {
        let two = ["cola/train.csv", "rte/train.csv", "ax/test.csv"];
        assert_eq!(
            planned(&two, None).unwrap_err(),
            "it has several configurations; give --dataset-config, one of cola, rte"
        );
        assert_eq!(planned(&two, Some("ax")).unwrap_err(), "--dataset-config: expected one of cola, rte, found ax");
        for asked in [None, Some("a")] {
            let message = planned(&["README.md", "train.csv.gz", "my_train.csv"], asked).unwrap_err();
            assert!(
                message.starts_with("expected a training split in .parquet,")
                    && message.ends_with("found README.md, train.csv.gz, my_train.csv"),
                "{message}"
            );
        }
    }
}
