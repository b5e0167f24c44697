//! Settings in layers, from the strongest: flags, environment variables, the file of `--config`, defaults. clap reads all but the file,
//! whose values are put between the variables and the defaults here.

use std::path::{Path, PathBuf};

use clap::error::Error as ClapError;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use polyrank::command_line::suggestion;
use polyrank_training::error::Error;
use polyrank_training::method::sora::GateRule;
use polyrank_training::settings::{
    AUTHORS_LAMBDA, DATASET, DataSettings, MethodName, RunSettings, Settings, default_init_rank,
};
use polyrank_training::toml_file;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::eprint;

/// Settings as clap read them, and where the value of each is from.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    /// The settings.
    pub(super) values: T,
    /// Each setting's name, and the source of its value; `None` if it has no value.
    sources: Vec<(String, Option<ValueSource>)>,
}

impl<T: Args> Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: Args> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        let command = T::augment_args(Command::new("settings"));
        let names = command.get_arguments().map(|arg| arg.get_id().to_string());
        let sources = names.map(|name| (name.clone(), matches.value_source(&name))).collect();
        Ok(Self { values: T::from_arg_matches(matches)?, sources })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T> Given<T> {
    fn source(&self, name: &str) -> Option<ValueSource> {
        self.sources.iter().find(|(other, _)| other == name).and_then(|(_, source)| *source)
    }

    /// The names of the settings that flags give.
    pub(super) fn flags(&self) -> impl Iterator<Item = &str> {
        let flags = self.sources.iter().filter(|(_, source)| *source == Some(ValueSource::CommandLine));
        flags.map(|(name, _)| name.as_str())
    }

    /// Whether a flag gives the setting.
    fn is_flag(&self, name: &str) -> bool {
        self.source(name) == Some(ValueSource::CommandLine)
    }

    /// Whether a flag or an environment variable gives the setting.
    fn overrides(&self, name: &str) -> bool {
        matches!(self.source(name), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Given<T> {
    /// These settings without the values of `names` that variables give. A setting without a value must be one that may be left out of
    /// a file.
    fn less_variables(&self, names: &[&str]) -> Result<Self, Error> {
        let is_dropped = |(name, source): &(String, Option<ValueSource>)| {
            *source == Some(ValueSource::EnvVariable) && names.contains(&name.as_str())
        };
        let mut left = self.clone();
        if !left.sources.iter().any(is_dropped) {
            return Ok(left);
        }
        let mut all = Table::try_from(&self.values).map_err(|error| Error::Settings(error.to_string()))?;
        for entry in left.sources.iter_mut().filter(|entry| is_dropped(entry)) {
            all.remove(entry.0.as_str());
            entry.1 = None;
        }
        left.values = all.try_into().map_err(|error: toml::de::Error| Error::Settings(error.to_string()))?;
        Ok(left)
    }

    /// These settings, where values of the file replace defaults.
    fn over(&self, file: &ConfigFile) -> Result<T, Error> {
        let replaces = |(name, value): (&String, &Value)| {
            let known = self.sources.iter().any(|(other, _)| other == name);
            (known && !self.overrides(name)).then(|| (name.clone(), value.clone()))
        };
        let replaced: Vec<(String, Value)> = file.entries.iter().filter_map(replaces).collect();
        if replaced.is_empty() {
            return Ok(self.values.clone());
        }
        let mut all = Table::try_from(&self.values).map_err(|error| Error::Settings(error.to_string()))?;
        all.extend(replaced);
        serde_path_to_error::deserialize(Value::Table(all))
            .map_err(|error| Error::malformed(&file.path, format!("{}: {}", error.path(), error.inner().message())))
    }
}

impl Given<Settings> {
    /// As [`Self::less_variables`]. TOML cannot hold a number that is too large. The check says what is wrong with such a number.
    fn without(&self, names: &[&str]) -> Result<Self, Error> {
        self.less_variables(names).or_else(|error| self.values.check().and(Err(error)))
    }

    /// These settings without the variables that a flag excludes: a threshold replaces any kind of threshold.
    fn less_excluded(&self) -> Result<Self, Error> {
        let is_flag = |name: &str| self.is_flag(name);
        let mut excluded: Vec<&str> = Vec::new();
        if THRESHOLDS.into_iter().any(is_flag) {
            excluded.extend(THRESHOLDS);
        }
        if self.excludes_adaptive(is_flag) {
            excluded.push("depth_bias");
            excluded.extend((self.values.gate == Some(GateRule::Adaptive)).then_some("gate"));
        }
        self.without(&excluded)
    }

    /// Whether the settings that are `given` exclude the adaptive gates of a weaker layer, and with them their depth bias.
    fn excludes_adaptive(&self, given: impl Fn(&str) -> bool) -> bool {
        let other_gates = given("gate") && self.values.gate != Some(GateRule::Adaptive);
        other_gates || CONSTANT.into_iter().any(given)
    }
}

/// The file of `--config`; empty if none is given.
#[derive(Default)]
struct ConfigFile {
    path: PathBuf,
    entries: Table,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), entries: toml_file::read(path)? })
    }

    /// Drops the entries `names`.
    fn drop(&mut self, names: &[&str]) {
        self.entries.retain(|name, _| !names.contains(&name));
    }

    /// Drops what stronger layers replace, besides settings of the same name. A threshold replaces any kind of threshold, and the gates
    /// that cannot have it. The stages of a schedule have thresholds of their own.
    fn drop_replaced(&mut self, stronger: &Given<Settings>, of_stages: bool) {
        let overrides = |name: &str| stronger.overrides(name);
        let constant = of_stages || CONSTANT.into_iter().any(overrides);
        if constant && self.entries.get("gate").and_then(Value::as_str) == Some("adaptive") {
            self.drop(&["gate", "sparse_lambda"]);
        }
        if stronger.excludes_adaptive(overrides) {
            self.drop(&["depth_bias"]);
        }
        if THRESHOLDS.into_iter().any(overrides) {
            // A run records the weight of the penalty that belongs to its own kind of threshold.
            if THRESHOLDS.into_iter().any(|name| self.entries.contains_key(name) && !overrides(name)) {
                self.drop(&["sparse_lambda"]);
            }
            self.drop(&THRESHOLDS);
        }
        let number = |name: &str| usize::try_from(self.entries.get(name)?.as_integer()?).ok();
        if let Some(rank) = number("rank").filter(|_| overrides("rank")) {
            // A run records the defaults that follow from its rank.
            let defaults = [("init_rank", default_init_rank(rank)), ("export_rank", rank)];
            let recorded = defaults.into_iter().filter(|&(name, default)| number(name) == Some(default));
            self.drop(&recorded.map(|(name, _)| name).collect::<Vec<_>>());
        }
        let weight = self.entries.get("sparse_lambda").and_then(Value::as_float);
        if overrides("gate") && stronger.values.gate != Some(GateRule::Authors) && weight == Some(AUTHORS_LAMBDA) {
            // A run records the weight that the authors' gates have by default.
            self.drop(&["sparse_lambda"]);
        }
        if overrides("epochs") {
            // The numbers of epochs before the last one belong to the last one in the file.
            self.drop(&["extended_from"]);
        }
        if of_stages {
            self.drop(&OF_STAGES);
            self.drop(&["method", "sparse_lambda"]);
        }
    }

    /// Refuses a key that is not in `accepted`.
    fn check_keys(&self, accepted: &[&str]) -> Result<(), Error> {
        match self.entries.keys().find(|key| !accepted.contains(&key.as_str())) {
            Some(key) => {
                let similar = suggestion(key, accepted);
                let reason = format!("unknown setting {key}{similar}; expected one of {}", accepted.join(", "));
                Err(Error::malformed(&self.path, reason))
            }
            None => Ok(()),
        }
    }
}

/// The settings of which only one may be given.
const THRESHOLDS: [&str; 4] = ["target_ratio", "target_params", "xi", "lambda"];
/// The thresholds that adaptive gates do not have.
const CONSTANT: [&str; 2] = ["xi", "lambda"];
/// The settings that a schedule decides for its stages, or that its gates do not have.
const OF_STAGES: [&str; 7] =
    ["target_ratio", "target_params", "xi", "lambda", "depth_bias", "patience", "extended_from"];
/// The settings of [`DATASET`] that belong to one dataset, so that another dataset replaces them.
const OF_DATASET: [&str; 2] = ["dataset_config", "dataset_revision"];

/// All settings of a run that a file may give, as clap read them, and the file.
#[derive(Debug, Clone, Args)]
pub(super) struct Layers {
    /// Settings in TOML, named like the flags but with underscores (target_ratio), without paths.
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Given<Settings>,
    #[command(flatten)]
    data: Given<DataSettings>,
    #[command(flatten)]
    run: Given<RunSettings>,
}

/// The settings of all layers.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// What determines the run, apart from its data and base.
    pub(super) settings: Settings,
    /// How the data is read.
    pub(super) data: DataSettings,
    /// How the run is carried out.
    pub(super) run: RunSettings,
}

impl Layers {
    /// Puts the settings in the file under those that a flag or an environment variable gives, and checks the result. `has_data` is
    /// whether `--data` is given.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has an unknown key or a value of a wrong type; or a value is invalid.
    pub(super) fn resolve(&self, has_data: bool) -> Result<Resolved, Error> {
        self.resolved(has_data, false)
    }

    /// The same for a schedule, which sets the thresholds of its stages itself: variables and a file may serve it and `train`, and what
    /// they say about these settings does not count.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub(super) fn resolve_for_schedule(&self, has_data: bool) -> Result<Resolved, Error> {
        if self.settings.is_flag("select") {
            let reason = "schedule: expected no --select, because each stage keeps its last epoch";
            return Err(Error::Settings(reason.to_owned()));
        }
        let mut layers = self.clone();
        layers.settings = layers.settings.without(&OF_STAGES)?;
        if !layers.settings.is_flag("method") {
            layers.settings.values.method = MethodName::Sora;
        }
        if !layers.settings.is_flag("gate") && layers.settings.values.gate == Some(GateRule::Adaptive) {
            layers.settings = layers.settings.without(&["gate"])?;
        }
        layers.resolved(has_data, true)
    }

    /// The settings of the data without the variables that `--data` or `--dataset` replaces.
    fn less_excluded_data(&self, has_data: bool) -> Result<Given<DataSettings>, Error> {
        let data = &self.data;
        if has_data && data.source("dataset") == Some(ValueSource::EnvVariable) {
            data.less_variables(&DATASET)
        } else if data.is_flag("dataset") {
            data.less_variables(&OF_DATASET)
        } else {
            Ok(data.clone())
        }
    }

    fn resolved(&self, has_data: bool, of_stages: bool) -> Result<Resolved, Error> {
        let Self { config, run, .. } = self;
        let (settings, data) = (&self.settings.less_excluded()?, &self.less_excluded_data(has_data)?);
        let mut file = config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
        let all = settings.sources.iter().chain(&data.sources).chain(&run.sources);
        file.check_keys(&all.map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
        file.drop_replaced(settings, of_stages);
        if has_data && file.entries.contains_key("dataset") {
            file.drop(&DATASET);
        }
        if data.overrides("dataset") {
            file.drop(&OF_DATASET);
        }
        // TOML cannot hold a number that is too large. The check says what is wrong with such a number.
        let settings_of_all = settings.over(&file).or_else(|error| settings.values.check().and(Err(error)))?;
        let resolved = Resolved { settings: settings_of_all, data: data.over(&file)?, run: run.over(&file)? };
        // A variable or a file may serve several runs, so that it may have settings that a method ignores. A flag may not.
        let method = resolved.settings.method;
        let names = settings.sources.iter().map(|(name, _)| name.as_str());
        for name in names.filter(|name| settings.is_flag(name)) {
            if let Some(methods) = MethodName::with(name).filter(|methods| !methods.contains(&method)) {
                let (flag, found) = (name.replace('_', "-"), method.name());
                let expected: Vec<String> = methods.iter().map(|method| method.name()).collect();
                let reason = format!("--{flag}: expected with the method {}, found {found}", expected.join(" or "));
                return Err(Error::Settings(reason));
            }
        }
        let names = settings.sources.iter().map(|(name, _)| name.as_str());
        let given = names.filter(|name| settings.overrides(name) || file.entries.contains_key(*name));
        let ignored: Vec<&str> = given.filter(|name| !MethodName::has(&method.name(), name)).collect();
        if !ignored.is_empty() {
            eprint(format_args!("the method {} has no {}: ignored", method.name(), ignored.join(", ")));
        }
        resolved.settings.check()?;
        resolved.settings.check_on(resolved.run.device)?;
        resolved.data.check()?;
        resolved.run.check()?;
        Ok(resolved)
    }
}
