//! Settings as flags of `train`. What a setting is follows from its declaration, so that a new one needs nothing here.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Args, Command, FromArgMatches};
use toml::Value;

use crate::settings::{DataSettings, RunSettings, Settings};

/// The declared settings of `train`.
pub(super) struct Flags(Command);

/// The settings of a run, as `train` would read them.
pub(super) struct Read {
    pub(super) settings: Settings,
    pub(super) data: DataSettings,
    pub(super) run: RunSettings,
}

impl Flags {
    /// Environment variables count only for how a run is carried out, such as its device. The sweep's file alone says what the run is.
    pub(super) fn new() -> Self {
        Self(RunSettings::augment_args(identifying().mut_args(|arg| arg.env(None))))
    }

    /// The names of all settings, as in TOML files.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.get_arguments().map(|arg| arg.get_id().as_str()).collect()
    }

    fn get(&self, name: &str) -> Option<&Arg> {
        self.0.get_arguments().find(|arg| arg.get_id() == name)
    }

    /// The values that the entry `name = value` gives a setting: several if it is a list, and the setting itself takes no list.
    ///
    /// # Errors
    /// The list is empty.
    pub(super) fn values(&self, name: &str, value: &Value) -> Result<Vec<Value>, String> {
        let Value::Array(values) = value else { return Ok(vec![value.clone()]) };
        let takes_list = self.get(name).is_some_and(|arg| arg.get_value_delimiter().is_some());
        if values.is_empty() {
            return Err("expected one value or more, found an empty list".to_owned());
        }
        if takes_list && !values.iter().any(Value::is_array) { Ok(vec![value.clone()]) } else { Ok(values.clone()) }
    }

    /// The setting as arguments of `train`: none for a switch that is off.
    ///
    /// # Errors
    /// The value has a type that no setting has.
    pub(super) fn arguments(&self, name: &str, value: &Value) -> Result<Vec<String>, String> {
        let flag = format!("--{}", name.replace('_', "-"));
        let switch = self.get(name).is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
        match value {
            Value::Boolean(on) if switch => Ok(if *on { vec![flag] } else { Vec::new() }),
            Value::Array(values) => {
                let values: Result<Vec<String>, String> = values.iter().map(scalar).collect();
                Ok(vec![flag, values?.join(",")])
            }
            // A negative number would be read as a flag of its own.
            value => match scalar(value)? {
                text if text.starts_with('-') => Ok(vec![format!("{flag}={text}")]),
                text => Ok(vec![flag, text]),
            },
        }
    }

    /// The settings that `train` reads from these arguments.
    ///
    /// # Errors
    /// An argument is malformed, or a value is out of its limits.
    pub(super) fn read(&self, arguments: &[String]) -> Result<Read, String> {
        let matches = self.0.clone().try_get_matches_from(arguments).map_err(|error| message_of(&error))?;
        let settings = Settings::from_arg_matches(&matches).map_err(|error| message_of(&error))?;
        let data = DataSettings::from_arg_matches(&matches).map_err(|error| message_of(&error))?;
        let run = RunSettings::from_arg_matches(&matches).map_err(|error| message_of(&error))?;
        settings.check().and_then(|()| data.check()).and_then(|()| run.check()).map_err(|error| error.to_string())?;
        Ok(Read { settings, data, run })
    }
}

/// The settings that identify a run, which a sweep's processes must not take from the environment.
fn identifying() -> Command {
    DataSettings::augment_args(Settings::augment_args(Command::new("train").no_binary_name(true)))
}

/// The environment variables of the settings that identify a run.
pub(super) fn variables() -> Vec<OsString> {
    identifying().get_arguments().filter_map(|arg| arg.get_env().map(OsStr::to_owned)).collect()
}

/// clap's message in one line, without its usage.
fn message_of(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.split("\n\nUsage").next().unwrap_or_default().split("\n\nFor more").next().unwrap_or_default();
    text.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(_) | Value::Integer(_) | Value::Float(_) => Ok(crate::report::text(value)),
        Value::Boolean(value) => Ok(value.to_string()),
        other => Err(format!("expected a number or a text, found {}", other.type_str())),
    }
}
