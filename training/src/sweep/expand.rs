//! The runs of a sweep. Their names depend on the file alone, so that a later call finds the runs of an earlier one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polyrank::params::DeviceName;
use serde::Serialize;
use serde_json::Map;
use toml::Value;

use super::flags::Flags;
use super::spec::{Section, Spec};
use crate::error::Error;
use crate::settings::{DataSettings, MethodName, Settings};
use polyrank::command_line::suggestion;

/// A run of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// Its name: the task, and the last part of its folder.
    pub name: String,
    /// The command that runs it, with relative paths as in the sweep's file. It may be repeated: a run continues, and a finished one
    /// is only checked.
    pub command: Vec<String>,
    /// The folder of its adapter.
    pub output: PathBuf,
    /// What the results say about it.
    #[serde(skip)]
    pub(super) facts: JobFacts,
    /// The data that it is trained on.
    #[serde(skip)]
    pub(super) data: PathBuf,
    /// How its data is read.
    #[serde(skip)]
    pub(super) reading: DataSettings,
    /// What the sweep's file says about the run, without the defaults that depend on the data and the base.
    #[serde(skip)]
    pub(super) settings: Settings,
    /// Where it is computed.
    #[serde(skip)]
    pub(super) device: DeviceName,
}

/// What identifies a run among the others of its sweep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct JobFacts {
    pub(super) task: String,
    pub(super) method: String,
    pub(super) rank: Option<u64>,
    pub(super) seed: u64,
    /// The values of the settings of which the sweep has several.
    pub(super) varying: Map<String, serde_json::Value>,
}

/// All runs of the sweep, whose folders are in `runs`; those of each task's data are in `data_root`. The runs of the first seed come
/// first, so that every cell of a table has a value early.
///
/// # Errors
/// A task has no folder of data, a setting has a value that `train` refuses, or two runs have the same name.
pub fn expand(spec: &Spec, runs: &Path, data_root: Option<&Path>) -> Result<Vec<Job>, Error> {
    let expander = Expander { spec, runs, data_root, flags: Flags::new() };
    expander.jobs().map_err(|reason| Error::malformed(&spec.path, reason))
}

struct Expander<'a> {
    spec: &'a Spec,
    runs: &'a Path,
    data_root: Option<&'a Path>,
    flags: Flags,
}

/// A run whose settings are still in parts.
struct Draft<'a> {
    task: &'a str,
    method: &'a str,
    variant: Option<&'a str>,
    data: &'a Path,
    rank: Option<u64>,
    seed: u64,
    /// Each setting's value, and whether there are several of them.
    settings: Vec<(&'a str, &'a Value, bool)>,
}

impl Expander<'_> {
    fn jobs(&self) -> Result<Vec<Job>, String> {
        let mut jobs = Vec::new();
        for task in &self.spec.tasks {
            for method in &self.spec.methods {
                for variant in self.variants(method) {
                    self.add_jobs(task, method, variant, &mut jobs)?;
                }
            }
        }
        jobs.sort_by_key(|(place, _)| *place);
        let jobs: Vec<Job> = jobs.into_iter().map(|(_, job)| job).collect();
        let mut seen: BTreeMap<&str, &Job> = BTreeMap::new();
        for job in &jobs {
            if seen.insert(&job.name, job).is_some() {
                return Err(format!("two runs are called {}: their names do not show how they differ", job.name));
            }
        }
        Ok(jobs)
    }

    /// The variants for a method. Those without settings for it would give equal runs, so that they are one `None`, as no variant is.
    fn variants(&self, method: &str) -> Vec<Option<&(String, Section)>> {
        let has_settings = |variant: &&(String, Section)| concerns(&variant.1, method);
        let all = self.spec.variants.iter().map(|variant| Some(variant).filter(has_settings));
        let mut variants: Vec<_> = all.collect();
        let mut has_none = false;
        variants.retain(|variant| variant.is_some() || !std::mem::replace(&mut has_none, true));
        if variants.is_empty() { vec![None] } else { variants }
    }

    /// Adds the runs of one task, method and variant, each with the place of its seed.
    fn add_jobs(
        &self,
        task: &str,
        method: &str,
        variant: Option<&(String, Section)>,
        jobs: &mut Vec<(usize, Job)>,
    ) -> Result<(), String> {
        let section = self.section(task, method, variant)?;
        let data = self.data(task, section.data.as_deref())?;
        // Otherwise a run's task is called after the folder of its data, and two tasks may have folders of one name.
        let own_name = (section.data.is_some() && !section.settings.iter().any(|(key, _)| key == "task"))
            .then(|| Value::from(task));
        let defaults = self.flags.read(&[])?.settings;
        let ranks = section.ranks.unwrap_or_else(|| vec![defaults.rank as u64]);
        let ranks: Vec<Option<u64>> = if ranks.is_empty() { vec![None] } else { ranks.into_iter().map(Some).collect() };
        let seeds = section.seeds.unwrap_or_else(|| vec![defaults.seed]);
        let variant = variant.map(|(name, _)| name.as_str());
        for mut settings in product(&section.settings) {
            settings.extend(own_name.iter().map(|name| ("task", name, false)));
            for &rank in &ranks {
                for (place, &seed) in seeds.iter().enumerate() {
                    let settings = settings.clone();
                    let draft = Draft { task, method, variant, data: &data, rank, seed, settings };
                    jobs.push((place, self.job(&draft)?));
                }
            }
        }
        Ok(())
    }

    /// All that the file says about the runs of one task, method and variant: the variant over the task, over the method, over `[all]`.
    fn section(&self, task: &str, method: &str, variant: Option<&(String, Section)>) -> Result<Section, String> {
        let spec = self.spec;
        let section = spec.all.clone().under(&of_method(&spec.by_method, method)?).under(&named(&spec.by_task, task));
        let mut section = variant.map_or(section.clone(), |(_, variant)| section.under(variant));
        // What holds for several methods may have settings that one of them lacks.
        section.settings.retain(|(setting, _)| MethodName::has(method, setting));
        if !MethodName::has(method, "rank") {
            section.ranks = Some(Vec::new());
        }
        Ok(section)
    }

    /// The folder of the task's data.
    fn data(&self, task: &str, given: Option<&Path>) -> Result<PathBuf, String> {
        match (given, self.data_root.or(self.spec.data_root.as_deref())) {
            (Some(data), _) => Ok(data.to_owned()),
            (None, Some(root)) => Ok(root.join(task)),
            (None, None) => Err(format!("task {task}: expected data_root, --data-root, or data in [task.{task}]")),
        }
    }

    fn job(&self, draft: &Draft<'_>) -> Result<Job, String> {
        let Draft { task, method, variant, data, rank, seed, ref settings } = *draft;
        let mut last = method.to_owned();
        last += &rank.map_or(String::new(), |rank| format!("-r{rank}"));
        last += &variant.map_or(String::new(), |variant| format!("-{variant}"));
        for (setting, value, _) in settings.iter().filter(|(_, _, varies)| *varies) {
            last += &format!("-{setting}={}", for_path(&crate::report::text(value)));
        }
        last += &format!("-s{seed}");
        let name = format!("{task}/{last}");
        let named = |reason: String| format!("{name}: {reason}");
        let mut arguments = vec!["--method".to_owned(), method.to_owned()];
        if let Some(rank) = rank {
            arguments.extend(["--rank".to_owned(), rank.to_string()]);
        }
        arguments.extend(["--seed".to_owned(), seed.to_string()]);
        for (setting, value, _) in settings {
            let reason = |reason| named(format!("{setting}: {reason}"));
            arguments.extend(self.flags.arguments(setting, value).map_err(reason)?);
        }
        let read = self.flags.read(&arguments).map_err(named)?;
        let output = self.runs.join(task).join(last);
        let mut command: Vec<String> = ["polyrank-train", "train", "--data"].map(str::to_owned).into();
        command.extend([data.display().to_string(), "--output".to_owned(), output.display().to_string()]);
        command.extend(arguments);
        command.push("--resume".to_owned());
        let mut varying: Map<_, _> =
            variant.map(|variant| ("variant".to_owned(), variant.into())).into_iter().collect();
        for (setting, value, _) in settings.iter().filter(|(_, _, varies)| *varies) {
            varying.insert((*setting).to_owned(), serde_json::to_value(value).unwrap_or_default());
        }
        let facts = JobFacts { task: task.to_owned(), method: method.to_owned(), rank, seed, varying };
        Ok(Job {
            name,
            command,
            output,
            facts,
            data: data.to_owned(),
            reading: read.data,
            settings: read.settings,
            device: read.run.device,
        })
    }
}

/// Checks that the data of all runs is there. A list of runs for other machines does not need it.
///
/// # Errors
/// A folder is missing.
pub(super) fn check_data(spec: &Path, jobs: &[Job]) -> Result<(), Error> {
    let Some(job) = jobs.iter().find(|job| !job.data.exists()) else { return Ok(()) };
    let (task, data) = (&job.facts.task, job.data.display());
    let beside: Vec<String> = match job.data.parent().map(std::fs::read_dir) {
        Some(Ok(entries)) => {
            entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect()
        }
        _ => Vec::new(),
    };
    Err(Error::malformed(spec, format!("task {task}: {data} does not exist{}", suggestion(task, &beside))))
}

/// Checks that all runs can be computed on their devices. A list of runs may be for machines with other devices.
///
/// # Errors
/// The precision of a run has no effect on its device.
pub(super) fn check_devices(spec: &Path, jobs: &[Job]) -> Result<(), Error> {
    let check = |job: &Job| {
        let checked = job.settings.check_on(job.device);
        checked.map_err(|error| Error::malformed(spec, format!("{}: {error}", job.name)))
    };
    jobs.iter().try_for_each(check)
}

fn named(sections: &[(String, Section)], name: &str) -> Section {
    sections.iter().find(|(other, _)| other == name).map(|(_, section)| section.clone()).unwrap_or_default()
}

/// The section of a method, whose settings must be the method's own.
fn of_method(sections: &[(String, Section)], method: &str) -> Result<Section, String> {
    let section = named(sections, method);
    let ranks = section.ranks.as_ref().filter(|ranks| !ranks.is_empty()).map(|_| ("rank", "ranks"));
    let settings = section.settings.iter().map(|(setting, _)| (setting.as_str(), setting.as_str()));
    match settings.chain(ranks).find(|(setting, _)| !MethodName::has(method, setting)) {
        Some((setting, key)) => {
            let methods: Vec<String> =
                MethodName::with(setting).into_iter().flatten().map(|method| method.name()).collect();
            Err(format!("[method.{method}] {key}: expected with the method {}", methods.join(" or ")))
        }
        None => Ok(section),
    }
}

/// Whether a section says anything about the runs of a method, which lacks some settings.
fn concerns(section: &Section, method: &str) -> bool {
    let Section { ranks, seeds, data, settings } = section;
    let rank = ranks.is_some() && MethodName::has(method, "rank");
    rank || seeds.is_some() || data.is_some() || settings.iter().any(|(setting, _)| MethodName::has(method, setting))
}

/// All combinations of the settings' values.
fn product(settings: &[(String, Vec<Value>)]) -> Vec<Vec<(&str, &Value, bool)>> {
    settings.iter().fold(vec![Vec::new()], |done, (name, values)| {
        let add = |value| {
            move |mut head: Vec<_>| {
                head.push((name.as_str(), value, values.len() > 1));
                head
            }
        };
        done.into_iter().flat_map(|head| values.iter().map(move |value| add(value)(head.clone()))).collect()
    })
}

/// A setting's value as part of a folder's name. Of a path, the last part is enough.
fn for_path(text: &str) -> String {
    let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.chars().map(|c| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::{Job, expand};
    use crate::error::Error;
    use crate::sweep::Spec;

    fn jobs(text: &str) -> Result<Vec<Job>, Error> {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("sweep.toml");
        std::fs::write(&path, text).unwrap();
        expand(&Spec::read(&path)?, Path::new("runs"), None)
    }

    fn names(text: &str) -> Vec<String> {
        jobs(text).unwrap().into_iter().map(|job| job.name).collect()
    }

    const BASIC: &str = "data_root = \"data\"\ntasks = [\"a\", \"b\"]\nmethods = [\"sora\", \"lora\"]\n";

    #[test]
    fn first_seed_of_everything_comes_first() {
        let found = names(&format!("{BASIC}ranks = [2, 4]\nseeds = [7, 0]"));
        let of = |seed: u64| {
            ["a/sora-r2", "a/sora-r4", "a/lora-r2", "a/lora-r4", "b/sora-r2", "b/sora-r4", "b/lora-r2", "b/lora-r4"]
                .map(|name| format!("{name}-s{seed}"))
        };
        assert_eq!(found, [of(7), of(0)].concat());
        // The defaults are train's.
        assert_eq!(names(BASIC), ["a/sora-r8-s0", "a/lora-r8-s0", "b/sora-r8-s0", "b/lora-r8-s0"]);
    }

    #[test]
    fn names_have_the_settings_that_vary() {
        let text = "data_root = \"data\"\ntasks = [\"a\"]\nmethods = [\"sora\", \"lora\"]\nlr = [5e-4, 1e-3]\nalpha = 4\n\
                    [method.lora]\nlr = 1e-2\ntarget_modules = [[\"query\", \"key\"], [\"value\"]]\n";
        let expected = [
            "a/sora-r8-lr=0.0005-s0",
            "a/sora-r8-lr=0.001-s0",
            "a/lora-r8-target_modules=query+key-s0",
            "a/lora-r8-target_modules=value-s0",
        ];
        assert_eq!(names(text), expected);
        let job = &jobs(text).unwrap()[2];
        let command = "polyrank-train train --data data/a --output runs/a/lora-r8-target_modules=query+key-s0 --method lora \
                       --rank 8 --seed 0 --alpha 4 --lr 0.01 --target-modules query,key --resume";
        assert_eq!(job.command.join(" "), command);
        assert_eq!(job.facts.varying["target_modules"], serde_json::json!(["query", "key"]));
    }

    #[test]
    fn stronger_sections_replace_weaker_ones() {
        let text = format!(
            "{BASIC}epochs = 1\nseeds = [0]\n[method.lora]\nepochs = 2\n[task.b]\nepochs = 3\nseeds = [5]\n\
             data = \"elsewhere/b\"\n[variant.small]\nranks = [1]\n[variant.long]\nepochs = 9\n"
        );
        let jobs = jobs(&text).unwrap();
        let of = |name: &str| {
            let job = jobs.iter().find(|job| job.name == name).unwrap();
            let at = job.command.iter().position(|arg| arg == "--epochs").unwrap();
            (job.command[at + 1].clone(), job.data.display().to_string())
        };
        assert_eq!(jobs.len(), 8);
        assert_eq!(of("a/sora-r1-small-s0"), ("1".into(), "data/a".into()));
        assert_eq!(of("a/lora-r8-long-s0"), ("9".into(), "data/a".into()));
        assert_eq!(of("b/lora-r1-small-s5"), ("3".into(), "elsewhere/b".into()));
    }

    /// A folder of data may have another name than its task.
    #[test]
    fn runs_have_the_tasks_own_name() {
        let jobs = |more: &str| jobs(&format!("{BASIC}[task.b]\ndata = \"elsewhere/a\"\n{more}")).unwrap();
        let given = |jobs: &[Job]| -> Vec<Option<String>> { jobs.iter().map(|job| job.reading.task.clone()).collect() };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(given(&jobs("")), [None, None, name("b"), name("b")]);
        assert_eq!(given(&jobs("task = \"rte\"\n")), [None, None, name("rte"), name("rte")]);
    }

    #[test]
    fn methods_get_the_settings_that_they_have() {
        let text = "data_root = \"data\"\ntasks = [\"a\"]\nmethods = [\"sora\", \"lora\", \"bitfit\"]\nranks = [2, 4]\n\
                    target_ratio = [0.5, 0.65]\nalpha = 4\nepochs = 1\n[method.lora]\nalpha = 8\n";
        let jobs = jobs(text).unwrap();
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        let sora = [
            "sora-r2-target_ratio=0.5",
            "sora-r4-target_ratio=0.5",
            "sora-r2-target_ratio=0.65",
            "sora-r4-target_ratio=0.65",
        ];
        let expected = sora.into_iter().chain(["lora-r2", "lora-r4", "bitfit"]).map(|name| format!("a/{name}-s0"));
        assert_eq!(names, expected.collect::<Vec<_>>());
        let given = |name: &str| jobs.iter().find(|job| job.name == name).unwrap().command[6..].join(" ");
        assert_eq!(given("a/bitfit-s0"), "--method bitfit --seed 0 --epochs 1 --resume");
        assert_eq!(given("a/lora-r4-s0"), "--method lora --rank 4 --seed 0 --alpha 8 --epochs 1 --resume");
    }

    /// Otherwise, copies of a run would count as seeds.
    #[test]
    fn variants_that_concern_other_methods_make_one_run() {
        let text = "data_root = \"data\"\ntasks = [\"a\"]\nmethods = [\"lora\", \"bitfit\"]\n[variant.qk]\nranks = [4]\n\
                    target_modules = [\"query\", \"key\"]\n[variant.all]\nranks = [2]\n[variant.long]\nepochs = 9\n";
        let jobs = jobs(text).unwrap();
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        let expected = ["lora-r2-all-s0", "lora-r8-long-s0", "lora-r4-qk-s0", "bitfit-s0", "bitfit-long-s0"];
        assert_eq!(names, expected.map(|name| format!("a/{name}")));
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        let lists = "tasks = [\"a\"]\nmethods = [\"sora\"]\n";
        let with = |line: &str| format!("{BASIC}{line}\n");
        for (text, words) in [
            (with("epoch = 3"), "unknown key epoch (did you mean epochs?)"),
            (with("sseds = [3]"), "unknown key sseds (did you mean seeds?)"),
            (with("[method.lora]\nalpa = 3"), "[method.lora] unknown key alpa (did you mean alpha?)"),
            (
                with("[method.loara]\nalpha = 3"),
                "[method.loara]: expected one of methods = sora, lora (did you mean lora?)",
            ),
            (with("[method.lora]\ngate_lr = 3"), "[method.lora] gate_lr: expected with the method sora"),
            (
                lists.replace("sora", "full") + "data_root = \"data\"\n[method.full]\nranks = [3]",
                "[method.full] ranks: expected with the method sora or lora or adalora or dylora",
            ),
            (with("[task.c]\nalpha = 3"), "[task.c]: expected one of tasks = a, b"),
            (with("rank = 3"), "rank: expected a list called ranks"),
            (with("dataset = \"nyu-mll/glue\""), "dataset: expected a folder for each task: data_root, or data in "),
            (with("[task.a]\ndataset_config = \"rte\""), "[task.a] dataset_config: expected a folder for each task"),
            (with("seeds = []"), "seeds: expected a list of whole numbers, found []"),
            (with("seeds = [1, 1]"), "seeds: 1 is there twice"),
            (with("ranks = [1.5]"), "ranks: expected a list of whole numbers, found [1.5]"),
            (with("lr = []"), "lr: expected one value or more, found an empty list"),
            (with("lr = [1e-3, 1e-3]"), "two runs are called a/sora-r8-lr=0.001-s0"),
            (with("lr = \"fast\""), "a/sora-r8-s0: invalid value 'fast' for '--lr <LR>'"),
            (with("epochs = 0"), "a/sora-r8-s0: --epochs: expected 1 or more, found 0"),
            (with("epochs = 2020-01-01"), "a/sora-r8-s0: epochs: expected a number or a text, found datetime"),
            (with("variant = 3"), "variant: expected sections [variant.NAME], found 3"),
            (lists.to_owned(), "task a: expected data_root, --data-root, or data in [task.a]"),
            (lists.replace("\"a\"", "\"a\", \"a\""), "tasks: a is there twice"),
            (lists.replace("\"a\"", "\"../a\""), "tasks: expected a name of letters"),
            (lists.replace("\"a\"", ""), "tasks: expected a list of names"),
            (
                lists.replace("sora", "dora") + "data_root = \"data\"",
                "a/dora-r8-s0: invalid value 'dora' for '--method",
            ),
            ("tasks = [".to_owned(), "line 1: "),
        ] {
            let told = jobs(&text).unwrap_err().to_string();
            assert!(told.contains(&format!("sweep.toml: {words}")), "expected {words:?} in {told:?}");
        }
    }
}
