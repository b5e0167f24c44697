//! Ctrl-C: the run ends after its current step and leaves a checkpoint, and the command that continues it is printed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use polyrank_training::error::Error;
use signal_hook::consts::{SIGINT, SIGTERM};

/// The exit code that a shell reports for a command that SIGINT ended.
pub(super) const EXIT_CODE: u8 = 130;

/// A flag that is set by the next SIGINT or SIGTERM. A second signal ends the process at once.
pub(super) fn flag() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let io = |source| Error::io(Path::new("signals"))(source);
        // This is registered first, so that it does not see the flag that the same signal sets.
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE.into(), Arc::clone(&stop)).map_err(io)?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(io)?;
    }
    Ok(stop)
}

/// The arguments of this call. What is no Unicode in a path is replaced, since it is only printed.
pub(super) fn arguments() -> impl Iterator<Item = String> {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned())
}

/// The message about a stopped run: where it stopped, and the command that continues it.
pub(super) fn resume_message(stopped: &Error, args: impl Iterator<Item = String>) -> String {
    let mut command: Vec<String> = args.filter(|arg| arg != "--overwrite").map(|arg| quoted(&arg)).collect();
    if !command.iter().any(|arg| arg == "--resume") {
        command.push("--resume".to_owned());
    }
    format!("{stopped}; continue from there with\n{}", command.join(" "))
}

/// The message about a stopped sweep, with the command that continues it.
pub(super) fn continue_message(finished: usize, all: usize, args: impl Iterator<Item = String>) -> String {
    let command: Vec<String> = args.map(|arg| quoted(&arg)).collect();
    format!("stopped with {finished} of {all} runs finished; continue the sweep with\n{}", command.join(" "))
}

/// The argument quoted for a POSIX shell.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("'{}'", arg.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::{Error, resume_message};

    #[test]
    fn message_has_the_command_that_continues() {
        let args = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>().into_iter();
        let stopped = Error::Stopped { step: 17, steps: 40, epoch: 3, epochs: 5 };
        let text = resume_message(&stopped, args(&["polyrank-train", "train", "--data", "my task's", "--overwrite"]));
        assert!(text.starts_with("stopped after step 17 of 40, in epoch 3 of 5; continue from there with\n"), "{text}");
        assert!(text.ends_with("\npolyrank-train train --data 'my task'\\''s' --resume"), "{text}");
        let text = resume_message(&stopped, args(&["polyrank-train", "train", "--resume"]));
        assert!(text.ends_with("\npolyrank-train train --resume"), "{text}");
    }
}
