//! One process of a sweep: `train`, or `evaluate` for the test split. What it prints goes to a file beside the run's folder, because
//! the folder of a run that has not begun must be empty.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
#[cfg(unix)]
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::Job;
use super::flags::variables;
use crate::error::Error;
use crate::run::{self, check_idle};
use crate::settings::Settings;

/// Threads of a process: the variable that rayon reads.
const THREADS: &str = "RAYON_NUM_THREADS";

/// The exit code of a run that a signal stopped.
const STOPPED: i32 = 130;

/// The file of what a run prints.
pub(super) fn log_path(job: &Job) -> PathBuf {
    let mut name: OsString = job.output.clone().into();
    name.push(".log");
    name.into()
}

/// Starts the job's training.
pub(super) fn train(exe: &Path, job: &Job, threads: usize) -> Result<Child, Error> {
    let log = log_path(job);
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    // What an earlier call printed about an earlier try says nothing about this one.
    let file = File::create(&log).map_err(Error::io(&log))?;
    let copy = file.try_clone().map_err(Error::io(&log))?;
    let mut command = Command::new(exe);
    command.args(&job.command[1..]).stdout(file).stderr(copy);
    start(command, exe, threads)
}

/// Starts the evaluation of the job's result on the test split, whose JSON can be read from the process's output.
pub(super) fn evaluate(exe: &Path, job: &Job, threads: usize) -> Result<Child, Error> {
    let log = log_path(job);
    let file = OpenOptions::new().create(true).append(true).open(&log).map_err(Error::io(&log))?;
    let mut command = Command::new(exe);
    command.args(evaluation(job)?).stdout(Stdio::piped()).stderr(file);
    start(command, exe, threads)
}

/// The arguments of that evaluation. Texts are truncated as those of the validation split were in training.
fn evaluation(job: &Job) -> Result<Vec<OsString>, Error> {
    let Settings { model_id, dtype, .. } = &job.settings;
    let device = job.device.to_string();
    let mut args: Vec<OsString> =
        ["evaluate", "--split", "test", "--json", "--model-id", model_id, "--dtype", dtype.name(), "--device", &device]
            .map(OsString::from)
            .into();
    let paths: [OsString; 4] =
        ["--data".into(), job.data.clone().into(), "--adapter".into(), job.output.clone().into()];
    args.extend(paths);
    let recorded = run::settings(&job.output.join("run"))?;
    if let Some(length) = recorded.and_then(|settings| settings.max_length) {
        args.extend([OsString::from("--max-length"), length.to_string().into()]);
    }
    Ok(args)
}

/// Starts a process in a group of its own, so that Ctrl-C reaches it only through [`ask_to_stop`], and once: a second signal would end
/// it without a checkpoint.
fn start(mut command: Command, exe: &Path, threads: usize) -> Result<Child, Error> {
    #[cfg(unix)]
    command.process_group(0);
    for variable in variables() {
        command.env_remove(variable);
    }
    command.env(THREADS, threads.to_string()).stdin(Stdio::null()).spawn().map_err(Error::io(exe))
}

/// Asks the process to stop as by Ctrl-C. It ends after its current step.
pub(super) fn ask_to_stop(child: &mut Child) {
    #[cfg(unix)]
    {
        let process = rustix::process::Pid::from_child(child);
        // The process may have ended by itself.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
    }
    #[cfg(not(unix))]
    let _ = child.kill();
}

/// Whether a process ended because it was asked to. One that does not listen for signals yet, because it is still starting, is ended by
/// the signal itself.
pub(super) fn was_stopped(status: ExitStatus) -> bool {
    #[cfg(unix)]
    let signalled = status.signal() == Some(rustix::process::Signal::INT.as_raw());
    #[cfg(not(unix))]
    let signalled = false;
    signalled || status.code() == Some(STOPPED)
}

/// Whether another process trains in the job's folder, such as one whose sweep was killed.
pub(super) fn is_busy(job: &Job) -> bool {
    check_idle(&job.output.join("run")).is_err()
}

/// Why the process failed: its last line that is an error, else its last line, else how it ended.
pub(super) fn reason(job: &Job, status: ExitStatus) -> String {
    let text = fs::read(log_path(job)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = lines.iter().rev().find_map(|line| line.strip_prefix("error: "));
    match (error, lines.last()) {
        (Some(error), _) => error.to_owned(),
        (None, Some(last)) if status.code().is_some() => format!("{status}: {last}"),
        _ => status.to_string(),
    }
}

/// What the process printed to its output, once it has ended.
pub(super) fn output_of(child: &mut Child) -> io::Result<String> {
    child.stdout.take().map_or(Ok(String::new()), io::read_to_string)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sweep::{Spec, expand};

    #[test]
    fn test_texts_are_truncated_as_in_training() {
        let room = tempfile::tempdir().unwrap();
        let file = room.path().join("sweep.toml");
        fs::write(&file, "data_root = \"data\"\ntasks = [\"a\"]\nmethods = [\"lora\"]\n").unwrap();
        let job = expand(&Spec::read(&file).unwrap(), room.path(), None).unwrap().remove(0);
        let run = job.output.join("run");
        fs::create_dir_all(&run).unwrap();
        // A run records the default of its base.
        let recorded = Settings { max_length: Some(48), ..job.settings.clone() };
        fs::write(run.join("config.toml"), toml::to_string(&recorded).unwrap()).unwrap();
        let args = evaluation(&job).unwrap();
        assert!(args.ends_with(&["--max-length".into(), "48".into()]), "{args:?}");
    }
}
