//! What both programs print on standard error: logs, and a failure in one line.

use std::error::Error;
use std::io::{self, IsTerminal};
use std::iter::successors;

use tracing_subscriber::EnvFilter;

/// Sends logs to standard error from now on, coloured for a terminal, or as JSON. `RUST_LOG` chooses what is logged; by default our
/// own information and the warnings of other crates.
pub fn log_to_stderr(json: bool) {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|asked| !asked.is_empty());
    let (filter, wrong) = match asked.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        asked => (EnvFilter::new("warn,polyrank=info"), asked.and_then(Result::err)),
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A pipe of logs that was closed must not end the process.
    let logs = logs.log_internal_errors(false);
    if json {
        logs.json().init()
    } else {
        logs.with_ansi(io::stderr().is_terminal()).init()
    }
    if let Some(wrong) = wrong {
        tracing::warn!("{} is not understood, and not heeded: {wrong}", EnvFilter::DEFAULT_ENV);
    }
}

/// The text without control characters, which could steer a terminal: names come from files of others.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A failure and its causes, the failure itself first.
pub fn causes<'a>(failure: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(failure), |&error| error.source())
}

/// The failure and its causes in one line. A cause that is already part of the message is left out, and lines of a message are joined
/// by semicolons.
#[must_use]
pub fn in_one_line(failure: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for cause in causes(failure).map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    printable(&line.lines().map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::in_one_line;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Effect(&'static str, #[source] std::io::Error);

    #[test]
    fn a_failure_is_one_line() {
        let cause = || std::io::Error::other("no room\n  on the disk\n");
        assert_eq!(in_one_line(&Effect("writing x", cause())), "writing x: no room; on the disk");
        assert_eq!(in_one_line(&cause()), "no room; on the disk");
        assert_eq!(in_one_line(&Effect("\x1b[2J\x07", cause())), "\u{fffd}[2J\u{fffd}: no room; on the disk");
        assert_eq!(in_one_line(&Effect("x: no room\n  on the disk\n", cause())), "x: no room; on the disk");
    }
}
