//! What both programs print on standard error: logs, and a failure as one line.

mod lossy;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::io::{self, IsTerminal};
use std::iter::successors;
use std::thread;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use self::lossy::Lossy;
pub use self::lossy::{flush, print};

/// Sends logs to standard error from now on, as JSON or as text (coloured if standard error is a terminal). `RUST_LOG` chooses what is
/// logged. The default is the information and warnings of this project, and the warnings of other crates.
pub fn log_to_stderr(json: bool) {
    log_to(json, io::stderr);
}

/// [`log_to_stderr`] for a server, which must not wait for the reader of its logs: if nobody reads standard error, lines are dropped,
/// and later their number is logged. Panics are logged in the same way.
///
/// # Errors
/// The system cannot start the thread that writes the lines.
pub fn log_without_waiting(json: bool) -> io::Result<()> {
    log_to(json, Lossy::start(io::stderr())?);
    // The standard hook would wait for the reader of standard error.
    std::panic::set_hook(Box::new(|panic| {
        let name = thread::current().name().unwrap_or("unnamed").to_owned();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        let backtrace = backtrace.map(|trace| format!("\n{trace}")).unwrap_or_default();
        tracing::error!("thread {name:?} {}{backtrace}", in_one_line_of(&panic.to_string()));
    }));
    Ok(())
}

fn log_to(json: bool, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|asked| !asked.is_empty());
    let (filter, wrong) = match asked.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        asked => (EnvFilter::new("warn,polyrank=info"), asked.and_then(Result::err)),
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // Writing logs to a closed pipe must not end the process.
    let logs = logs.log_internal_errors(false);
    if json {
        logs.json().init()
    } else {
        logs.with_ansi(io::stderr().is_terminal()).init()
    }
    if let Some(wrong) = wrong {
        tracing::warn!("{} is ignored, because it is not valid: {wrong}", EnvFilter::DEFAULT_ENV);
    }
}

/// The text with its control characters replaced. They could control the user's terminal, and names come from untrusted files.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A failure, then its cause, then the cause of that, and so on.
pub fn causes<'a>(failure: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(failure), |&error| error.source())
}

/// The failure and its causes as one line. A cause that the line already contains is left out. The lines of a message are joined by
/// semicolons.
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
    in_one_line_of(&line)
}

/// The lines of `text`, joined by semicolons.
fn in_one_line_of(text: &str) -> String {
    printable(&text.lines().map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::in_one_line;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Effect(&'static str, #[source] std::io::Error);

    #[test]
    fn failure_and_its_causes_become_one_line() {
        let cause = || std::io::Error::other("no room\n  on the disk\n");
        assert_eq!(in_one_line(&Effect("writing x", cause())), "writing x: no room; on the disk");
        assert_eq!(in_one_line(&cause()), "no room; on the disk");
        assert_eq!(in_one_line(&Effect("\x1b[2J\x07", cause())), "\u{fffd}[2J\u{fffd}: no room; on the disk");
        assert_eq!(in_one_line(&Effect("x: no room\n  on the disk\n", cause())), "x: no room; on the disk");
    }
}
