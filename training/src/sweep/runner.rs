//! Runs the jobs of a sweep as processes, within a number of cores.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::data::Data;
use super::expand::{check_data, check_devices};
use super::results::Results;
use super::screen::{Row, Screen, State};
use super::{Job, Spec, process};
use crate::error::Error;
use crate::run;
use crate::settings::Settings;

/// The time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(100);

/// How much of the machine a sweep takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Cores for all runs together.
    pub cores: NonZeroUsize,
    /// The number of runs at the same time.
    pub at_once: NonZeroUsize,
}

impl Capacity {
    /// Checks that each run gets a core.
    ///
    /// # Errors
    /// There are fewer cores than runs at the same time.
    pub fn check(self) -> Result<(), Error> {
        if self.at_once > self.cores {
            let Self { cores, at_once } = self;
            return Err(Error::Settings(format!(
                "--at-once: expected at most --cores, which is {cores}, found {at_once}"
            )));
        }
        Ok(())
    }

    /// The number of threads of each run.
    fn threads(self) -> usize {
        self.cores.get() / self.at_once.get()
    }
}

/// How the runs of a sweep have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The number of runs that are finished.
    pub finished: usize,
    /// The number of all runs.
    pub all: usize,
    /// The names of failed runs, and why they failed.
    pub failed: Vec<(String, String)>,
    /// Whether a signal stopped the sweep.
    pub stopped: bool,
}

/// Runs those of `jobs` that have not finished, as processes of the program `exe`. Results are written to the folder `runs`. Once
/// `stop` is set, the running processes are asked to stop, and no other is started.
///
/// # Errors
/// A task's data does not exist, a run cannot be computed on its device, another sweep runs in the folder, or a file of results cannot be
/// read or written. A run that fails is no error, but part of the summary.
pub fn run(spec: &Spec, jobs: &[Job], runs: &Path, capacity: Capacity, stop: &AtomicBool) -> Result<Summary, Error> {
    capacity.check()?;
    check_data(&spec.path, jobs)?;
    check_devices(&spec.path, jobs)?;
    let exe = std::env::current_exe().map_err(Error::io(Path::new("the program's own file")))?;
    let results = Results::open(runs)?;
    let mut data = Data::default();
    // A run on data that has changed since is started again, and says so itself.
    let mut is_finished = |job: &Job| results.has(job) && data.is_unchanged(job).unwrap_or(false);
    let states: Vec<State> =
        jobs.iter().map(|job| if is_finished(job) { State::Finished } else { State::Waiting }).collect();
    let changed =
        jobs.iter().zip(&states).filter(|(job, state)| **state == State::Waiting && results.knows(job)).count();
    let screen = Screen::new(jobs, &states, changed, capacity.at_once.get());
    Runner { exe, jobs, capacity, results, states, active: Vec::new(), data, screen }.run(stop)
}

/// A process that runs.
struct Active {
    /// The index of its job.
    job: usize,
    child: Child,
    /// Whether it evaluates the result on the test split.
    tests: bool,
}

struct Runner<'a> {
    exe: PathBuf,
    jobs: &'a [Job],
    capacity: Capacity,
    results: Results,
    /// The state of each job.
    states: Vec<State>,
    active: Vec<Active>,
    data: Data,
    screen: Screen,
}

impl Runner<'_> {
    fn run(mut self, stop: &AtomicBool) -> Result<Summary, Error> {
        let mut stopping = false;
        loop {
            if !stopping && stop.load(Ordering::Relaxed) {
                stopping = true;
                self.active.iter_mut().for_each(|active| process::ask_to_stop(&mut active.child));
            }
            if let Err(error) = self.reap(stopping) {
                self.abandon();
                return Err(error);
            }
            if !stopping {
                self.fill();
            }
            let waits = self.states.contains(&State::Waiting);
            if self.active.is_empty() && (stopping || !waits) {
                break;
            }
            self.draw();
            thread::sleep(LOOK);
        }
        self.screen.clear();
        let finished = self.states.iter().filter(|state| **state == State::Finished).count();
        let failed = self.jobs.iter().zip(&self.states).filter_map(|(job, state)| match state {
            State::Failed(reason) => Some((job.name.clone(), reason.clone())),
            _ => None,
        });
        Ok(Summary { finished, all: self.jobs.len(), failed: failed.collect(), stopped: stopping })
    }

    /// Starts waiting jobs while there is room. A job whose folder another process holds waits until that one has ended.
    fn fill(&mut self) {
        while self.active.len() < self.capacity.at_once.get() {
            let waits = |job: &usize| self.states[*job] == State::Waiting && !process::is_busy(&self.jobs[*job]);
            let Some(job) = (0..self.jobs.len()).find(waits) else { return };
            let started = check_length(&self.jobs[job])
                .and_then(|()| process::train(&self.exe, &self.jobs[job], self.capacity.threads()));
            match started {
                Ok(child) => {
                    self.set(job, State::Training);
                    self.active.push(Active { job, child, tests: false });
                }
                Err(error) => self.set(job, State::Failed(error.to_string())),
            }
        }
    }

    /// Stops all processes and waits for them: none may run on after the sweep.
    fn abandon(&mut self) {
        self.active.iter_mut().for_each(|active| process::ask_to_stop(&mut active.child));
        for active in &mut self.active {
            // The error of the sweep is the one to report.
            let _ = active.child.wait();
        }
    }

    /// Takes in the processes that have ended.
    fn reap(&mut self, stopping: bool) -> Result<(), Error> {
        let mut i = 0;
        while let Some(active) = self.active.get_mut(i) {
            let Some(status) = active.child.try_wait().map_err(Error::io(&self.exe))? else {
                i += 1;
                continue;
            };
            let ended = self.active.remove(i);
            if let Some(next) = self.ended(ended, status, stopping)? {
                self.active.insert(i, next);
                i += 1;
            }
        }
        Ok(())
    }

    /// Takes in a process that has ended. Returns the one that follows it, if there is one.
    fn ended(&mut self, mut ended: Active, status: ExitStatus, stopping: bool) -> Result<Option<Active>, Error> {
        let jobs = self.jobs;
        let job = &jobs[ended.job];
        if !status.success() {
            let stopped = stopping && (ended.tests || process::was_stopped(status));
            let state = if stopped { State::Waiting } else { State::Failed(process::reason(job, status)) };
            self.set(ended.job, state);
            return Ok(None);
        }
        if !ended.tests && !stopping {
            match self.test(job) {
                Ok(None) => {}
                Ok(Some(child)) => {
                    self.set(ended.job, State::Testing);
                    return Ok(Some(Active { job: ended.job, child, tests: true }));
                }
                Err(error) => {
                    self.set(ended.job, State::Failed(error.to_string()));
                    return Ok(None);
                }
            }
        }
        if !ended.tests && stopping {
            // The next call reads the test split.
            self.set(ended.job, State::Waiting);
            return Ok(None);
        }
        let test = if ended.tests {
            let text = process::output_of(&mut ended.child).map_err(Error::io(&process::log_path(job)))?;
            match serde_json::from_str::<Value>(&text) {
                Ok(found) => Some(found["metrics"].clone()),
                Err(error) => {
                    self.set(ended.job, State::Failed(format!("evaluate printed no JSON: {error}")));
                    return Ok(None);
                }
            }
        } else {
            None
        };
        let state = match self.results.put(self.jobs, job, test) {
            Ok(()) => State::Finished,
            Err(error @ Error::Malformed { .. }) => State::Failed(error.to_string()),
            Err(error) => return Err(error),
        };
        self.set(ended.job, state);
        Ok(None)
    }

    /// Starts the evaluation of the job on the test split; `None` if its data has none.
    fn test(&mut self, job: &Job) -> Result<Option<Child>, Error> {
        if self.data.has_test(job)? {
            process::evaluate(&self.exe, job, self.capacity.threads()).map(Some)
        } else {
            Ok(None)
        }
    }

    fn set(&mut self, job: usize, state: State) {
        self.screen.report(&self.jobs[job], &state);
        self.states[job] = state;
    }

    fn draw(&mut self) {
        let rows: Vec<Row<'_>> = self
            .active
            .iter()
            .map(|active| Row { job: &self.jobs[active.job], state: &self.states[active.job] })
            .collect();
        self.screen.draw(&rows, &self.states);
    }
}

/// Checks that the job does not make a run longer, or continue one that was made longer: the other seeds would be trained otherwise.
///
/// # Errors
/// It does, or the settings of the run in its folder are malformed.
pub fn check_length(job: &Job) -> Result<(), Error> {
    let (run, Settings { epochs, extended_from: longer, .. }) = (job.output.join("run"), &job.settings);
    let (plans, epochs) = run::extended_from(&run, *epochs)?;
    match (plans.first(), epochs) {
        (Some(&before), Some(now)) if plans.len() > longer.len() => {
            Err(Error::LongerRun { path: run.join("config.toml"), before, now })
        }
        _ => Ok(()),
    }
}
