//! Settings in layers, from the strongest: flags, environment variables, the file of `--config`, defaults. clap reads all but the file,
//! whose values are put between the variables and the defaults here.

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::Error as ClapError;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use polyrank_training::error::Error;
use polyrank_training::settings::{DataSettings, MethodName, Settings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Settings as clap read them, and where the value of each is from.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    values: T,
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

    /// Whether a flag or an environment variable gives the setting.
    fn overrides(&self, name: &str) -> bool {
        matches!(self.source(name), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Given<T> {
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

/// The file of `--config`; empty if none is given.
#[derive(Default)]
struct ConfigFile {
    path: PathBuf,
    entries: Table,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let entries = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::malformed(path, format!("line {line}: {}", error.message()))
        })?;
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Refuses a key that is not in `accepted`.
    fn check_keys(&self, accepted: &[&str]) -> Result<(), Error> {
        match self.entries.keys().find(|key| !accepted.contains(&key.as_str())) {
            Some(key) => {
                let reason = format!("unknown setting {key}; expected one of {}", accepted.join(", "));
                Err(Error::malformed(&self.path, reason))
            }
            None => Ok(()),
        }
    }
}

/// The settings of which only one may be given.
const THRESHOLDS: [&str; 4] = ["target_ratio", "target_params", "xi", "lambda"];

/// The settings that only a method with gates has.
const GATED: [&str; 8] =
    ["gate", "target_ratio", "target_params", "xi", "lambda", "sparse_lambda", "gate_lr", "depth_bias"];

/// Puts the settings in the file `config` under those that a flag or an environment variable gives, and checks the result.
///
/// # Errors
/// The file cannot be read, is not TOML, or has an unknown key or a value of a wrong type; or a value is invalid.
pub(super) fn resolve(
    settings: &Given<Settings>,
    data: &Given<DataSettings>,
    config: Option<&Path>,
) -> Result<(Settings, DataSettings), Error> {
    settings.values.check()?;
    let mut file = config.map(ConfigFile::read).transpose()?.unwrap_or_default();
    let names: Vec<&str> = settings.sources.iter().chain(&data.sources).map(|(name, _)| name.as_str()).collect();
    file.check_keys(&names)?;
    // A threshold by a flag or a variable replaces any kind of threshold in the file.
    if THRESHOLDS.iter().any(|name| settings.overrides(name)) {
        file.entries.retain(|name, _| !THRESHOLDS.contains(&name));
    }
    let resolved = (settings.over(&file)?, data.over(&file)?);
    // A variable or a file may serve several runs, so that their settings of gates are ignored in a run without gates.
    let by_flag = |name: &&&str| settings.source(name) == Some(ValueSource::CommandLine);
    if resolved.0.method == MethodName::Lora
        && let Some(name) = GATED.iter().find(by_flag)
    {
        let flag = name.replace('_', "-");
        return Err(Error::Settings(format!(
            "--{flag}: expected with the method sora, found lora, which has no gates"
        )));
    }
    resolved.0.check()?;
    Ok(resolved)
}
