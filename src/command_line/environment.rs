//! Which variables of the environment count.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;

use clap::Command;

use super::suggestion::similar;

/// A variable of an option that is ignored.
#[derive(Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Kubernetes gives a pod the addresses of its namespace's Services in variables. For a Service named `polyrank`, one of them is
    /// `POLYRANK_PORT=tcp://10.0.0.1:80`.
    ServiceLink {
        /// The variable.
        name: String,
        /// The address.
        value: String,
    },
    /// The API key's variable is empty, as it is where a secret is missing.
    EmptyKey,
    /// No option reads a variable of this name, but one reads a similar one.
    Misspelt {
        /// The variable.
        name: String,
        /// The similar one.
        meant: String,
    },
}

impl Ignored {
    /// Warns the user.
    pub fn log(&self) {
        match self {
            Self::ServiceLink { name, value } => {
                tracing::warn!(
                    "{name}={value} is ignored: it is the address that Kubernetes gives a pod for a Service"
                );
            }
            Self::EmptyKey => tracing::warn!("POLYRANK_API_KEY is empty, so that it gives no API key"),
            Self::Misspelt { name, meant } => tracing::warn!("{name} is no setting (did you mean {meant}?)"),
        }
    }
}

/// The variables of `polyrank-train` begin with this, and those of `polyrank` do not.
const TRAIN: &str = "POLYRANK_TRAIN_";
/// All variables begin with this.
const ALL: &str = "POLYRANK_";
/// A variable that no option has: the cache's folder.
const HOME: &str = "POLYRANK_HOME";

/// `command`, in which options do not read variables that are empty or hold the address of a Service, and what the user should know of
/// these and of misspelt variables.
#[must_use]
pub fn tolerant(command: Command) -> (Command, Vec<Ignored>) {
    let variables = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    tolerant_of(command, &variables.collect())
}

fn tolerant_of(command: Command, variables: &BTreeMap<String, OsString>) -> (Command, Vec<Ignored>) {
    let (mut ignored, mut known) = (Vec::new(), BTreeSet::new());
    let command = command.mut_subcommands(|command| {
        command.mut_args(|arg| {
            let Some(name) = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned) else { return arg };
            let value = variables.get(&name);
            known.insert(name.clone());
            let reason = match value {
                Some(value) if value.is_empty() => (name == "POLYRANK_API_KEY").then_some(Ignored::EmptyKey),
                Some(value) => match value.to_str().filter(|value| is_service_link(value)) {
                    Some(value) => Some(Ignored::ServiceLink { name, value: value.to_owned() }),
                    None => return arg,
                },
                None => return arg,
            };
            ignored.extend(reason.filter(|reason| !ignored.contains(reason)));
            arg.env(None::<&str>)
        })
    });
    ignored.extend(misspelt(variables, &known));
    (command, ignored)
}

/// The variables that no option reads, and that are so similar to one of `known` that they are likely to be misspelt.
fn misspelt(variables: &BTreeMap<String, OsString>, known: &BTreeSet<String>) -> Vec<Ignored> {
    let trains = known.iter().any(|name| name.starts_with(TRAIN));
    let prefix = if trains { TRAIN } else { ALL };
    let known: Vec<&str> = known.iter().filter_map(|name| name.strip_prefix(prefix)).collect();
    let others = variables.iter().filter(|(name, value)| {
        (trains || !name.starts_with(TRAIN)) && !is_of_service(name) && !value.to_str().is_some_and(is_service_link)
    });
    let others = others.map(|(name, _)| name.as_str()).filter(|&name| name != HOME);
    let own = others.filter_map(|name| name.strip_prefix(prefix)).filter(|name| !known.contains(name));
    let alike = own.filter_map(|name| Some((name, similar(name, &known)?)));
    alike
        .map(|(name, meant)| Ignored::Misspelt { name: format!("{prefix}{name}"), meant: format!("{prefix}{meant}") })
        .collect()
}

/// Whether Kubernetes names the part of a Service's address like this: `POLYRANK_SERVICE_HOST`, `POLYRANK_SERVICE_PORT_HTTP`,
/// `POLYRANK_PORT_80_TCP_ADDR`.
fn is_of_service(name: &str) -> bool {
    let parts = ["_SERVICE_PORT", "_TCP_", "_UDP_", "_SCTP_"];
    name.ends_with("_SERVICE_HOST") || parts.iter().any(|part| name.contains(part))
}

/// Whether `value` is a protocol with a host and a port, as in `tcp://10.0.0.1:80` and `udp://[fd00::1]:53`. No option takes such a
/// value.
fn is_service_link(value: &str) -> bool {
    let Some((protocol, address)) = value.split_once("://") else { return false };
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    matches!(protocol, "tcp" | "udp" | "sctp")
        && !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
        && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Arg;

    use super::*;

    #[test]
    fn recognizes_service_links_by_their_form() {
        for link in ["tcp://10.0.0.1:80", "udp://10.96.0.10:53", "sctp://fd00::1:80", "tcp://[fd00::1]:8080"] {
            assert!(is_service_link(link), "{link}");
        }
        for other in [
            "",
            "8080",
            "tcp://",
            "tcp://host",
            "tcp://:80",
            "tcp://h:x",
            "tcp://h:99999",
            "http://h:80",
            "tcp://h/a:80",
        ] {
            assert!(!is_service_link(other), "{other}");
        }
    }

    /// The variables that a command's options still read where the environment has `variables`, and what is ignored.
    fn read(variables: &[(&str, &str)]) -> (Vec<String>, Vec<Ignored>) {
        let options = [("port", "POLYRANK_PORT"), ("api-key", "POLYRANK_API_KEY")];
        let options = options.map(|(flag, name)| Arg::new(flag).long(flag).env(name));
        let command = Command::new("polyrank").subcommand(Command::new("serve").args(options));
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        let (command, ignored) = tolerant_of(command, &variables);
        let options = command.find_subcommand("serve").unwrap().get_arguments();
        let names = options.filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
        (names.collect(), ignored)
    }

    #[test]
    fn empty_variables_and_service_links_are_as_if_unset() {
        let (port, key) = ("POLYRANK_PORT", "POLYRANK_API_KEY");
        let both = vec![port.to_owned(), key.to_owned()];
        assert_eq!(read(&[]), (both.clone(), vec![]));
        assert_eq!(read(&[(port, "80"), (key, "tcp")]), (both, vec![]));
        assert_eq!(read(&[(port, "")]), (vec![key.to_owned()], vec![]));
        assert_eq!(read(&[(key, "")]), (vec![port.to_owned()], vec![Ignored::EmptyKey]));
        let link = Ignored::ServiceLink { name: port.into(), value: "tcp://10.0.0.1:80".into() };
        assert_eq!(read(&[(port, "tcp://10.0.0.1:80")]), (vec![key.to_owned()], vec![link]));
    }

    #[test]
    fn misspelt_variables_are_told_with_the_name_that_was_meant() {
        let ignored = |name: &str| read(&[(name, "80")]).1;
        let misspelt = |name: &str, meant: &str| vec![Ignored::Misspelt { name: name.into(), meant: meant.into() }];
        assert_eq!(ignored("POLYRANK_PROT"), misspelt("POLYRANK_PROT", "POLYRANK_PORT"));
        assert_eq!(ignored("POLYRANK_APIKEY"), misspelt("POLYRANK_APIKEY", "POLYRANK_API_KEY"));
        for other in
            ["POLYRANK_TRAIN_PORT", "PORT", "polyrank_port", "POLYRANK_PORT_80_TCP_ADDR", "POLYRANK_SERVICE_PORT"]
        {
            assert_eq!(ignored(other), [], "{other}");
        }
        assert_eq!(read(&[("POLYRANK_PORTS", "tcp://10.0.0.1:80")]).1, [], "a Service's address");
    }
}
