//! The server as a process, and what `/proc` tells about it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Failure;
use crate::options::Options;

/// How long a start or an end may take.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Lines of the log that are kept.
const LINES: usize = 40;

/// A running server, which is killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<VecDeque<String>>>,
}

/// A moment of a server's life, from `/proc`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    /// Resident memory, in bytes.
    pub(crate) memory: usize,
    pub(crate) files: usize,
    pub(crate) threads: usize,
}

impl Server {
    /// Starts a server on a free port and waits until it listens.
    pub(crate) fn start(options: &Options, adapters: &Path, flags: &[&str]) -> Result<Self, Failure> {
        Self::start_on(options, adapters, flags, 0)
    }

    /// As [`Server::start`], on `port`.
    pub(crate) fn start_on(options: &Options, adapters: &Path, flags: &[&str], port: u16) -> Result<Self, Failure> {
        let mut command = Command::new(&options.polyrank);
        command
            .args(["serve", "--model-id", &options.model_id, "--port", &port.to_string(), "--adapters"])
            .arg(adapters);
        command.args(flags).args(&options.flags).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", options.polyrank.display()))?;
        let stderr = child.stderr.take().ok_or("no standard error")?;
        let (sender, listening) = std::sync::mpsc::channel();
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = listening_on(&line) {
                    let _ = sender.send(address);
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > LINES {
                    kept.pop_front();
                }
            }
        });
        match listening.recv_timeout(START_TIMEOUT) {
            Ok(address) => Ok(Self { child, address, log }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                let lines = log.lock().unwrap_or_else(PoisonError::into_inner);
                Err(format!("the server does not listen: {}", lines.iter().cloned().collect::<Vec<_>>().join("; "))
                    .into())
            }
        }
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.child.id()))
    }

    pub(crate) fn moment(&self) -> Result<Moment, Failure> {
        let status = fs::read_to_string(self.proc().join("status"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let files = fs::read_dir(self.proc().join("fd"))?.count();
        Ok(Moment { memory: 1024 * number("VmRSS:"), files, threads: number("Threads:") })
    }

    /// Kills the process at once, as the kernel does when memory runs out.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the process to stop and waits for its end. Stacks are written into `dumps` if it does not end.
    pub(crate) fn stop(mut self, dumps: &Path) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        if !told.success() {
            return Err("kill -TERM failed".into());
        }
        while begun.elapsed() < START_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                let failed = || format!("the server ended with {status}: {}", self.log().join("; "));
                return if status.success() { Ok(begun.elapsed()) } else { Err(failed().into()) };
            }
            thread::sleep(Duration::from_millis(5));
        }
        let file = self.dump_stacks(dumps)?;
        Err(format!("SIGTERM did not end the server: {}", file.display()).into())
    }

    /// Writes what all of its threads do into a file of the folder `dumps`.
    pub(crate) fn dump_stacks(&self, dumps: &Path) -> Result<PathBuf, Failure> {
        let pid = self.child.id();
        let path = dumps.join(format!("polyrank-{pid}-stacks.txt"));
        let mut file = File::create(&path)?;
        for task in fs::read_dir(self.proc().join("task"))?.flatten() {
            for what in ["comm", "wchan", "stack", "syscall", "status"] {
                let text = fs::read_to_string(task.path().join(what)).unwrap_or_else(|error| error.to_string());
                writeln!(file, "--- {} {what}\n{text}", task.file_name().display())?;
            }
        }
        let mut gdb = Command::new("gdb");
        gdb.args(["-p", &pid.to_string(), "-batch", "-ex", "set pagination off", "-ex", "thread apply all bt"]);
        match gdb.stdin(Stdio::null()).output() {
            Ok(output) => file.write_all(&output.stdout)?,
            Err(error) => writeln!(file, "gdb: {error}")?,
        }
        Ok(path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in a line of the log that says "listening on http://ADDRESS".
fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on")?;
    let (_, rest) = rest.split_once("http://")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:[]abcdef".contains(c))).unwrap_or(rest.len());
    rest[..end].trim_end_matches([':', '.']).parse().ok()
}
