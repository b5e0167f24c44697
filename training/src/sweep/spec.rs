//! The file of a sweep.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::flags::Flags;
use crate::error::Error;
use crate::settings::DATASET;
use crate::toml_file;
use polyrank::command_line::suggestion;

/// The keys that only the top of the file has.
const TOP: [&str; 7] = ["output", "data_root", "tasks", "methods", "method", "task", "variant"];
/// The keys of every section besides the settings of `train`.
const LISTS: [&str; 2] = ["ranks", "seeds"];
/// The settings that have a list of their own, or whose name is a section's.
const REPLACED: [(&str, &str); 4] = [("method", "methods"), ("rank", "ranks"), ("seed", "seeds"), ("task", "tasks")];

/// A sweep as its file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The file.
    pub path: PathBuf,
    /// The folder of the runs.
    pub output: Option<PathBuf>,
    /// The folder of the tasks' folders.
    pub data_root: Option<PathBuf>,
    /// Names of the tasks.
    pub(super) tasks: Vec<String>,
    /// Names of the methods.
    pub(super) methods: Vec<String>,
    /// What holds for all runs.
    pub(super) all: Section,
    pub(super) by_method: Vec<(String, Section)>,
    pub(super) by_task: Vec<(String, Section)>,
    /// Named settings that belong together, such as modules with their rank. Each run has one of them, if there are any.
    pub(super) variants: Vec<(String, Section)>,
}

/// What some runs have in common. `None` leaves it to weaker sections.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Section {
    /// The ranks. An empty list stands for runs without a rank.
    pub(super) ranks: Option<Vec<u64>>,
    pub(super) seeds: Option<Vec<u64>>,
    /// The folder of a task's data.
    pub(super) data: Option<PathBuf>,
    /// The values of settings, by name.
    pub(super) settings: Vec<(String, Vec<Value>)>,
}

impl Section {
    /// These entries, where those of `stronger` replace them.
    pub(super) fn under(mut self, stronger: &Self) -> Self {
        self.settings.retain(|(name, _)| !stronger.settings.iter().any(|(other, _)| other == name));
        self.settings.extend(stronger.settings.iter().cloned());
        self.settings.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            ranks: stronger.ranks.clone().or(self.ranks),
            seeds: stronger.seeds.clone().or(self.seeds),
            data: stronger.data.clone().or(self.data),
            settings: self.settings,
        }
    }
}

impl Spec {
    /// Reads the file of a sweep.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML, or a key is unknown or has a value that it cannot have.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let table = toml_file::read(path)?;
        Reader { flags: Flags::new() }.spec(path, &table).map_err(|reason| Error::malformed(path, reason))
    }
}

/// Reads the parts of the file. Errors are texts, to which the file is added.
struct Reader {
    flags: Flags,
}

impl Reader {
    fn spec(&self, path: &Path, table: &Table) -> Result<Spec, String> {
        let tasks = names(table, "tasks")?;
        let methods = names(table, "methods")?;
        let folder = |key: &str| table.get(key).map(|value| path_of(key, value)).transpose();
        let mut all = table.clone();
        all.retain(|key, _| !TOP.contains(&key));
        let variants = sections(table, "variant")?;
        if let Some((name, _)) = variants.iter().find(|(name, _)| !is_name(name)) {
            return Err(format!("[variant.{name}]: {NAME}"));
        }
        Ok(Spec {
            path: path.to_owned(),
            output: folder("output")?,
            data_root: folder("data_root")?,
            all: self.section("", &all)?,
            by_method: self.known_sections(table, "method", &methods)?,
            by_task: self.known_sections(table, "task", &tasks)?,
            variants: variants
                .into_iter()
                .map(|(name, table)| Ok((name.clone(), self.section(&format!("[variant.{name}] "), table)?)))
                .collect::<Result<_, String>>()?,
            tasks,
            methods,
        })
    }

    /// The sections `[kind.NAME]`, whose names must be among `names`.
    fn known_sections(&self, table: &Table, kind: &str, names: &[String]) -> Result<Vec<(String, Section)>, String> {
        let read = |(name, table): (&String, &Table)| {
            if !names.contains(name) {
                let known = names.join(", ");
                return Err(format!("[{kind}.{name}]: expected one of {kind}s = {known}{}", suggestion(name, names)));
            }
            Ok((name.clone(), self.section(&format!("[{kind}.{name}] "), table)?))
        };
        sections(table, kind)?.into_iter().map(read).collect()
    }

    /// The section that an error calls `place`.
    fn section(&self, place: &str, table: &Table) -> Result<Section, String> {
        let mut section = Section::default();
        for (key, value) in table {
            let named = |reason: String| format!("{place}{key}: {reason}");
            match key.as_str() {
                "ranks" => section.ranks = Some(numbers(value).map_err(named)?),
                "seeds" => section.seeds = Some(numbers(value).map_err(named)?),
                "data" if place.starts_with("[task.") => section.data = Some(path_of(key, value)?),
                _ => {
                    self.check_key(place, key)?;
                    section.settings.push((key.clone(), self.flags.values(key, value).map_err(named)?));
                }
            }
        }
        Ok(section)
    }

    /// Refuses a key that is not a setting of `train`, or that has a list of its own. A dataset on the hub is none: the command of each
    /// run has `--data`.
    fn check_key(&self, place: &str, key: &str) -> Result<(), String> {
        // A task's section may say by which name its metric is known.
        let as_task = key == "task" && place.starts_with("[task.");
        if let Some((_, list)) = REPLACED.iter().find(|(name, _)| *name == key && !as_task) {
            return Err(format!("{place}{key}: expected a list called {list}"));
        }
        if DATASET.contains(&key) {
            return Err(format!("{place}{key}: expected a folder for each task: data_root, or data in [task.NAME]"));
        }
        let mut names = self.flags.names();
        names.retain(|name| !DATASET.contains(name));
        if names.contains(&key) {
            return Ok(());
        }
        let top: &[&str] = if place.is_empty() { &TOP } else { &[] };
        let all: Vec<&str> = top.iter().chain(&LISTS).copied().chain(names).collect();
        Err(format!("{place}unknown key {key}{}", suggestion(key, &all)))
    }
}

/// What is expected of a name that becomes part of a folder's name.
const NAME: &str = "expected a name of letters, digits, '-', '_' and '.', which does not begin with '.'";

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

/// The list of names `key`, without duplicates.
fn names(table: &Table, key: &str) -> Result<Vec<String>, String> {
    let list = table.get(key).and_then(Value::as_array);
    let list = list.filter(|list| !list.is_empty()).ok_or_else(|| format!("{key}: expected a list of names"))?;
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    for value in list {
        let name = value.as_str().filter(|name| is_name(name));
        let name = name.ok_or_else(|| format!("{key}: {NAME}, found {value}"))?;
        if names.iter().any(|other| other == name) {
            return Err(format!("{key}: {name} is there twice"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// A list of different whole numbers.
fn numbers(value: &Value) -> Result<Vec<u64>, String> {
    let expected = || format!("expected a list of whole numbers, found {value}");
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(expected)?;
    let mut numbers = Vec::with_capacity(list.len());
    for value in list {
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok()).ok_or_else(expected)?;
        if numbers.contains(&number) {
            return Err(format!("{number} is there twice"));
        }
        numbers.push(number);
    }
    Ok(numbers)
}

fn path_of(key: &str, value: &Value) -> Result<PathBuf, String> {
    value.as_str().map(PathBuf::from).ok_or_else(|| format!("{key}: expected a path, found {value}"))
}

/// The sections `[kind.NAME]`.
fn sections<'a>(table: &'a Table, kind: &str) -> Result<Vec<(&'a String, &'a Table)>, String> {
    let Some(value) = table.get(kind) else { return Ok(Vec::new()) };
    let all = value.as_table().ok_or_else(|| format!("{kind}: expected sections [{kind}.NAME], found {value}"))?;
    let section = |(name, value): (&'a String, &'a Value)| {
        let table = value.as_table();
        table.map(|table| (name, table)).ok_or_else(|| format!("{kind}.{name}: expected a section [{kind}.NAME]"))
    };
    all.iter().map(section).collect()
}
