//! What a user sees of a sweep: a table of the runs in progress that is drawn again and again, with the finished runs above it; or one
//! line for each event where there is no terminal.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

use super::Job;
use crate::report::TrainedRun;

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Training,
    /// Its result is evaluated on the test split.
    Testing,
    Finished,
    /// Why it failed.
    Failed(String),
}

/// A run in progress.
pub(super) struct Row<'a> {
    pub(super) job: &'a Job,
    pub(super) state: &'a State,
}

/// The time between two drawings, each of which reads the logs of the runs in progress.
const REDRAW: Duration = Duration::from_millis(500);

pub(super) struct Screen {
    table: MultiProgress,
    /// The table's lines: its head, the runs in progress, and all runs together.
    lines: Vec<ProgressBar>,
    /// The width of the column of names.
    width: usize,
    started: Instant,
    drawn: Option<Instant>,
    /// The number of runs that were finished before this call.
    before: usize,
}

impl Screen {
    /// Prints how many runs there are. `changed` of those that wait were finished by an earlier call with another command or other data.
    pub(super) fn new(jobs: &[Job], states: &[State], changed: usize, at_once: usize) -> Self {
        let table = MultiProgress::new();
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let line = |_| table.add(ProgressBar::new(0).with_style(style.clone()));
        let lines: Vec<ProgressBar> = (0..at_once + 2).map(line).collect();
        let width = jobs.iter().map(|job| job.name.chars().count()).max().unwrap_or(0).max(3);
        let before = states.iter().filter(|state| **state == State::Finished).count();
        let screen = Self { table, lines, width, started: Instant::now(), drawn: None, before };
        let earlier = match changed {
            0 => String::new(),
            changed => format!("; {changed} were finished with other settings or data, and go on if these allow it"),
        };
        screen.print(&format!("{} runs, {before} of them finished{earlier}", jobs.len()));
        screen
    }

    /// Prints a run's new state.
    pub(super) fn report(&self, job: &Job, state: &State) {
        let name = format!("{:width$}", job.name, width = self.width);
        match state {
            State::Finished => self.print(&format!("{name}  finished  {}", summary(job))),
            State::Failed(reason) => self.print(&format!("{name}  failed    {reason}")),
            State::Training if self.table.is_hidden() => self.print(&format!("{name}  started")),
            State::Waiting => self.print(&format!("{name}  stopped")),
            State::Training | State::Testing => {}
        }
    }

    /// Draws the table, unless it was drawn a moment ago.
    pub(super) fn draw(&mut self, rows: &[Row<'_>], states: &[State]) {
        let recent = self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW);
        if self.table.is_hidden() || recent {
            return;
        }
        self.drawn = Some(Instant::now());
        let head = format!(
            "{:width$}  {:9} {:>8} {:>18} {:>11}  {}",
            "run",
            "state",
            "epoch",
            "metric",
            "parameters",
            "time left",
            width = self.width
        );
        self.lines[0].set_message(head);
        let (last, middle) = (self.lines.len() - 1, self.lines.len() - 2);
        for (i, line) in self.lines[1..=middle].iter().enumerate() {
            line.set_message(rows.get(i).map_or(String::new(), |row| self.row(row)));
        }
        self.lines[last].set_message(self.total(rows.len(), states));
    }

    fn row(&self, Row { job, state }: &Row<'_>) -> String {
        let state = if **state == State::Testing { "testing" } else { "training" };
        // A run that has just begun has no files yet.
        let Ok(run) = TrainedRun::read(&job.output) else {
            return format!("{:width$}  {state}", job.name, width = self.width);
        };
        let all = run.settings.get("epochs").and_then(toml::Value::as_integer).unwrap_or(0).max(0) as usize;
        let (done, last) = (run.epochs.len(), run.epochs.last());
        let metric =
            last.and_then(|epoch| epoch.metric()).map_or(String::new(), |(name, value)| format!("{name} {value:.4}"));
        let parameters = last.map_or(String::new(), |epoch| HumanCount(epoch.parameters as u64).to_string());
        let left = run.seconds_per_epoch().map(|seconds| seconds * all.saturating_sub(done) as f64);
        let left = left.map_or(String::new(), duration);
        format!(
            "{:width$}  {state:9} {:>8} {metric:>18} {parameters:>11}  {left}",
            job.name,
            format!("{done}/{all}"),
            width = self.width
        )
    }

    /// The line about all runs. The time that is left follows from the runs that this call has finished.
    fn total(&self, running: usize, states: &[State]) -> String {
        let count = |of: fn(&State) -> bool| states.iter().filter(|state| of(state)).count();
        let finished = count(|state| *state == State::Finished);
        let failed = count(|state| matches!(state, State::Failed(_)));
        let waiting = count(|state| *state == State::Waiting);
        let own = (finished - self.before.min(finished)) as f64;
        let left = self.started.elapsed().as_secs_f64() / own * (waiting as f64 + running as f64 / 2.0);
        let left = if own > 0.0 { format!(", about {} left", duration(left)) } else { String::new() };
        format!("{finished} of {} finished, {running} running, {waiting} waiting, {failed} failed{left}", states.len())
    }

    /// Removes the table.
    pub(super) fn clear(&self) {
        self.lines.iter().for_each(ProgressBar::finish_and_clear);
        let _ = self.table.clear();
    }

    /// Prints a line above the table. The user may have closed standard error.
    fn print(&self, line: &str) {
        let line = polyrank::logging::printable(line);
        let _ = if self.table.is_hidden() { writeln!(std::io::stderr(), "{line}") } else { self.table.println(line) };
    }
}

/// The result of a finished run in a few words.
fn summary(job: &Job) -> String {
    let Ok(Some((run, exported))) = TrainedRun::read(&job.output).map(|run| run.exported.clone().map(|of| (run, of)))
    else {
        return String::new();
    };
    let metric = exported.metric().map_or(String::new(), |(name, value)| format!("{name} {value:.4}, "));
    let parameters = HumanCount(exported.parameters as u64);
    let seconds = run.epochs.iter().map(|epoch| epoch.seconds).sum();
    format!("{metric}{parameters} parameters, {}", duration(seconds))
}

fn duration(seconds: f64) -> String {
    // A huge estimate is no duration that the type can hold.
    let known = Duration::try_from_secs_f64(seconds.round().max(0.0));
    known.map_or(String::new(), |known| HumanDuration(known).to_string())
}
