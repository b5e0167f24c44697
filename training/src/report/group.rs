//! Runs that differ only in their seed form a group. A group's label has the settings in which it differs from others.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Command, FromArgMatches};
use serde::Serialize;
use toml::{Table, Value};

use super::Statistic;
use super::trained::{Exported, TrainedRun, text};
use crate::settings::{DataSettings, MethodName, RunSettings, Settings};

/// Settings that do not distinguish runs: a seed, a path to the base (its fingerprint counts), and those with a place of their own.
/// Neither do those of how a run is carried out.
const APART: [&str; 6] = ["seed", "model_id", "method", "rank", "target_modules", "max_train_samples"];
/// Settings whose default follows from the rank. They distinguish runs of one rank.
const OF_RANK: [&str; 2] = ["init_rank", "export_rank"];
/// The names of methods as papers write them, in the order of the SoRA paper's table 1. Other methods come last, under their own name.
const METHODS: [(&str, &str); 7] = [
    ("full", "Full fine-tuning"),
    ("adapter", "Adapter"),
    ("bitfit", "BitFit"),
    ("lora", "LoRA"),
    ("adalora", "AdaLoRA"),
    ("dylora", "DyLoRA"),
    ("sora", "SoRA"),
];
/// GLUE's tasks in the order of the paper's table 1. Other tasks come last.
const TASKS: [&str; 9] = ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"];
const ALL_MODULES: &str = "all linears";

/// Runs of one task that differ only in their seed.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) task: &'a str,
    pub(super) kind: Kind,
    pub(super) runs: Vec<(&'a str, &'a TrainedRun, &'a Exported)>,
}

/// What a group's runs have in common, apart from the task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// The place of the method in tables.
    pub(super) place: usize,
    pub(super) method: String,
    /// The settings in which groups of one method differ, without rank and modules: `lr 0.001`.
    pub(super) rest: String,
    /// The adapted modules.
    pub(super) modules: String,
    /// The rank before pruning; `None` for methods without ranks.
    pub(super) rank: Option<usize>,
}

impl Kind {
    /// The label in tables and figures. It has the adapted modules, unless these are all.
    pub(super) fn label(&self) -> String {
        let rank = self.rank.map(|rank| format!("r = {rank}"));
        let modules = Some(self.modules.clone()).filter(|modules| modules != ALL_MODULES);
        let parts = [rank, modules, Some(self.rest.clone()).filter(|rest| !rest.is_empty())];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let method = shown(&self.method);
        if parts.is_empty() { method.to_owned() } else { format!("{method}, {}", parts.join(", ")) }
    }

    /// The label without the rank.
    pub(super) fn without_rank(&self) -> String {
        Self { rank: None, ..self.clone() }.label()
    }
}

/// The method's name as papers write it.
pub(super) fn shown(method: &str) -> &str {
    METHODS.iter().find(|(name, _)| *name == method).map_or(method, |(_, shown)| shown)
}

/// The place of the task in tables, and its name. GLUE's tasks may be spelt in any case, but other spellings are other tasks.
fn task_place(task: &str) -> (usize, &str) {
    let lower = task.to_lowercase();
    (TASKS.iter().position(|name| *name == lower).unwrap_or(TASKS.len()), task)
}

/// The tasks of the groups, in the order of tables.
pub(super) fn tasks<'a>(groups: &[Group<'a>]) -> Vec<&'a str> {
    let mut tasks: Vec<&str> = groups.iter().map(|group| group.task).collect();
    tasks.sort_by_key(|&task| task_place(task));
    tasks.dedup();
    tasks
}

impl Group<'_> {
    /// The mean of a value over the runs that have it.
    pub(super) fn mean(&self, value: impl Fn(&TrainedRun, &Exported) -> Option<f64>) -> Option<Statistic> {
        let values: Vec<f64> = self.runs.iter().filter_map(|(_, run, exported)| value(run, exported)).collect();
        Statistic::of(&values)
    }

    /// The metric that selects epochs, on the validation split, in percent.
    pub(super) fn score(&self) -> Option<Statistic> {
        self.mean(|_, exported| exported.metric().map(|(_, value)| 100.0 * value))
    }

    /// The name of that metric.
    pub(super) fn metric(&self) -> &str {
        self.runs.iter().find_map(|(_, _, exported)| exported.metric()).map_or("", |(name, _)| name)
    }
}

/// The groups of `runs`, in the order of tables.
pub(super) fn groups(runs: &[(String, TrainedRun)]) -> Vec<Group<'_>> {
    let differences = Differences::of(runs);
    let mut groups: BTreeMap<(_, Kind), Group<'_>> = BTreeMap::new();
    for (name, run) in runs {
        let Some(exported) = &run.exported else { continue };
        let kind = differences.kind(run, exported);
        let key = (task_place(&run.task), kind.clone());
        let group = groups.entry(key).or_insert_with(|| Group { task: &run.task, kind, runs: Vec::new() });
        group.runs.push((name, run, exported));
    }
    groups.into_values().collect()
}

/// What varies among the runs of a tree.
struct Differences {
    /// The defaults of settings, for runs from before a setting existed.
    defaults: Table,
    /// The settings that vary among runs of one method on a task, by (task, setting). Runs on other numbers of examples are apart
    /// already, and have other default settings.
    varying: BTreeSet<(String, String)>,
    /// The largest number of training examples of each task. Runs on fewer are groups of their own.
    examples: BTreeMap<String, usize>,
    /// The name of each base, by fingerprint, if there are several.
    bases: BTreeMap<String, String>,
}

impl Differences {
    fn of(runs: &[(String, TrainedRun)]) -> Self {
        let mut differences =
            Self { defaults: defaults(), varying: BTreeSet::new(), examples: BTreeMap::new(), bases: bases(runs) };
        let carried_out = RunSettings::augment_args(Command::new("run"));
        let apart = |name: &str| APART.contains(&name) || carried_out.get_arguments().any(|arg| arg.get_id() == name);
        let tasks: BTreeSet<String> = runs.iter().map(|(_, run)| run.task.clone()).collect();
        let names: BTreeSet<&String> = runs.iter().flat_map(|(_, run)| run.settings.keys()).collect();
        for name in names.into_iter().filter(|name| !apart(name)) {
            let of = |run: &TrainedRun| OF_RANK.contains(&name.as_str()).then(|| run.setting("rank"));
            for task in &tasks {
                let of_task = runs.iter().filter(|(_, run)| run.task == *task && concerns(run, name));
                let settings = of_task.map(|(_, run)| {
                    ((run.setting("method"), &run.base, run.examples, of(run)), differences.setting(run, name))
                });
                // A run that was made longer was not trained as a new one with its settings is.
                if varies(settings) || name == "extended_from" {
                    differences.varying.insert((task.clone(), name.clone()));
                }
            }
        }
        for (_, run) in runs {
            let most = differences.examples.entry(run.task.clone()).or_default();
            *most = run.examples.max(*most);
        }
        differences
    }

    /// A setting as text; `None` if it has no value. Runs of one task differ in `task` only by the metric that it chooses.
    fn setting(&self, run: &TrainedRun, name: &str) -> Option<String> {
        if name == "task" {
            return run.exported.as_ref().and_then(Exported::metric).map(|(metric, _)| metric.to_owned());
        }
        run.settings.get(name).or_else(|| self.defaults.get(name)).map(text)
    }

    fn kind(&self, run: &TrainedRun, exported: &Exported) -> Kind {
        let method = run.setting("method");
        let mut rest: Vec<String> = Vec::new();
        rest.extend(self.bases.get(&run.base).cloned());
        if self.examples.get(&run.task).is_some_and(|most| run.examples < *most) {
            rest.push(format!("{} examples", run.examples));
        }
        for (_, name) in self.varying.iter().filter(|(task, name)| *task == run.task && concerns(run, name)) {
            let shown = if name == "task" { "metric".to_owned() } else { name.replace('_', " ") };
            rest.extend(self.setting(run, name).map(|value| format!("{shown} {value}")));
        }
        let modules = run.settings.get("target_modules").and_then(Value::as_array);
        let modules = modules.filter(|modules| !modules.is_empty());
        let modules = modules
            .map_or_else(|| ALL_MODULES.to_owned(), |modules| modules.iter().map(text).collect::<Vec<_>>().join(", "));
        let rank = run.settings.get("rank").and_then(Value::as_integer).and_then(|rank| usize::try_from(rank).ok());
        Kind {
            place: METHODS.iter().position(|(name, _)| *name == method).unwrap_or(METHODS.len()),
            method,
            rest: rest.join(", "),
            modules,
            rank: rank.filter(|_| exported.paper.is_some()),
        }
    }
}

/// Whether a setting had an effect on the run. Earlier versions recorded some settings of other methods, too. The share to hold out has
/// none beside a validation split.
fn concerns(run: &TrainedRun, setting: &str) -> bool {
    let held_out = run.data.as_ref().is_none_or(|data| data.held_out.is_some());
    MethodName::has(&run.setting("method"), setting) && (setting != "validation_split" || held_out)
}

/// Whether a key has several values.
fn varies<K: Ord, V: PartialEq>(entries: impl Iterator<Item = (K, V)>) -> bool {
    let mut first: BTreeMap<K, V> = BTreeMap::new();
    for (key, value) in entries {
        match first.get(&key) {
            Some(other) if *other != value => return true,
            Some(_) => {}
            None => drop(first.insert(key, value)),
        }
    }
    false
}

/// The name of each base, by fingerprint: the last part of the path with which a run was begun. Bases with one name have the begin of
/// their fingerprint, too. Empty if there is only one base.
fn bases(runs: &[(String, TrainedRun)]) -> BTreeMap<String, String> {
    let mut bases: BTreeMap<String, String> = BTreeMap::new();
    for (_, run) in runs {
        let model = run.setting("model_id");
        let name = || model.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        bases.entry(run.base.clone()).or_insert_with(name);
    }
    if bases.len() < 2 {
        return BTreeMap::new();
    }
    let names: Vec<String> = bases.values().cloned().collect();
    for (fingerprint, name) in &mut bases {
        if names.iter().filter(|other| *other == name).count() > 1 {
            let digits = fingerprint.rsplit(':').next().unwrap_or_default();
            *name = format!("{name} {}", digits.get(..8).unwrap_or(digits));
        }
    }
    bases
}

/// The settings of a run and of its data that have a default of their own.
fn defaults() -> Table {
    let mut all = default_of::<Settings>();
    all.extend(default_of::<DataSettings>());
    all
}

fn default_of<T: Args + FromArgMatches + Serialize>() -> Table {
    let command = T::augment_args(Command::new("defaults").no_binary_name(true)).mut_args(|arg| arg.env(None));
    let matches = command.try_get_matches_from([""; 0]).ok();
    let settings = matches.and_then(|matches| T::from_arg_matches(&matches).ok());
    settings.and_then(|settings| Table::try_from(settings).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::run;
    use super::super::trained::TrainedOn;
    use super::*;

    #[test]
    fn settings_without_effect_do_not_split_seeds() {
        let of = |seed: usize, more: &str| {
            let settings = format!("method = \"lora\"\nrank = 8\nseed = {seed}\n{more}");
            let (name, mut run) = run("reviews", &settings, 0.8, &[]);
            run.data = Some(TrainedOn { train: "a".into(), validation: "b".into(), held_out: None });
            (name, run)
        };
        let runs = [of(0, ""), of(1, "task = \"reviews\""), of(2, "validation_split = 0.2")];
        assert_eq!(groups(&runs).iter().map(|group| group.runs.len()).collect::<Vec<_>>(), [3]);
    }

    /// The name of a task may choose another metric, which is no seed of the first.
    #[test]
    fn runs_with_another_metric_are_apart() {
        let [first, (name, mut other)] = ["", "task = \"reviews\""]
            .map(|more| run("reviews", &format!("method = \"lora\"\nrank = 8\nseed = 0\n{more}"), 0.8, &[]));
        if let Some(exported) = &mut other.exported {
            exported.metrics = serde_json::Map::from_iter([("matthews".to_owned(), 0.1.into())]);
        }
        let runs = [first, (name, other)];
        let labels: Vec<String> = groups(&runs).iter().map(|group| group.kind.label()).collect();
        assert_eq!(labels, ["LoRA, metric accuracy", "LoRA, metric matthews"]);
    }

    #[test]
    fn tasks_whose_names_differ_in_case_are_two() {
        let of = |task: &str| run(task, "method = \"lora\"\nrank = 8\nseed = 0", 0.8, &[]);
        let runs = [of("reviews"), of("Reviews"), of("RTE")];
        let groups = groups(&runs);
        assert_eq!(tasks(&groups), ["RTE", "Reviews", "reviews"]);
        assert!(groups.iter().all(|group| group.runs.len() == 1));
    }
}
