//! Which variables of the environment count.

use std::env;
use std::ffi::OsString;

use clap::Command;

/// A variable of an option that is ignored.
#[derive(Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Kubernetes tells a pod the addresses of its namespace's Services in variables. For a Service named `polyrank`, one of them is
    /// `POLYRANK_PORT=tcp://10.0.0.1:80`.
    ServiceLink {
        /// The variable.
        name: String,
        /// The address.
        value: String,
    },
    /// The API key's variable is empty, as it is where a secret is missing.
    EmptyKey,
}

impl Ignored {
    /// Tells the user.
    pub fn log(&self) {
        match self {
            Self::ServiceLink { name, value } => {
                tracing::warn!(
                    "{name}={value} is ignored: it is the address that Kubernetes gives a pod for a Service"
                );
            }
            Self::EmptyKey => tracing::warn!("POLYRANK_API_KEY is empty, so that it gives no API key"),
        }
    }
}

/// `command`, in which options do not read variables that are empty or hold the address of a Service, and what the user should know of
/// these.
#[must_use]
pub fn tolerant(command: Command) -> (Command, Vec<Ignored>) {
    tolerant_of(command, |name| env::var_os(name))
}

fn tolerant_of(command: Command, variable: impl Fn(&str) -> Option<OsString>) -> (Command, Vec<Ignored>) {
    let mut ignored = Vec::new();
    let command = command.mut_subcommands(|command| {
        command.mut_args(|arg| {
            let Some(name) = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned) else { return arg };
            match variable(&name) {
                Some(value) if value.is_empty() => {
                    if name == "POLYRANK_API_KEY" && !ignored.contains(&Ignored::EmptyKey) {
                        ignored.push(Ignored::EmptyKey);
                    }
                    arg.env(None::<&str>)
                }
                Some(value) => match value.to_str().filter(|value| is_service_link(value)) {
                    Some(value) => {
                        let link = Ignored::ServiceLink { name, value: value.to_owned() };
                        if !ignored.contains(&link) {
                            ignored.push(link);
                        }
                        arg.env(None::<&str>)
                    }
                    None => arg,
                },
                None => arg,
            }
        })
    });
    (command, ignored)
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
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into());
        let (command, ignored) = tolerant_of(command, find);
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
}
