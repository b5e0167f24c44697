//! An adapter with several versions, which are installed in turn, and which answers are right at which time.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::adapters::{self, Recipe};
use crate::common::Failure;
use crate::offline::{self, Answer};
use crate::options::World;

/// What lies in the adapter's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    /// A whole version.
    Version(usize),
    /// Something that is no whole version: the version before serves on.
    Broken,
    /// Nothing, or the adapter was taken out of service.
    Gone,
}

/// One adapter and its versions.
pub(crate) struct Versions {
    pub(crate) name: String,
    /// The folder of the adapter.
    pub(crate) dir: PathBuf,
    /// A folder for each version, outside the adapters' folder.
    pub(crate) pool: Vec<PathBuf>,
    /// The answers to each text, by version.
    answers: Vec<Vec<Answer>>,
    state: Mutex<State>,
}

struct State {
    /// What was installed, and when its installation began.
    spans: Vec<(Instant, Installed)>,
    /// The version that each generation answered with.
    generations: HashMap<u64, usize>,
    /// When a generation larger than all before first answered.
    newest: Vec<(Instant, u64)>,
    last: usize,
    /// For how long each version had been installed when it first answered. Versions that the next one replaced before are absent.
    delays: Vec<Duration>,
    /// Whether the last version has answered.
    answered: bool,
}

impl Versions {
    /// Writes `count` versions of the adapter `name` below `folder`, installs the first one in `root`, and computes the answers to the
    /// first `texts` texts.
    pub(crate) fn write(
        world: &World,
        folder: &Path,
        root: &Path,
        name: &str,
        count: usize,
        texts: usize,
    ) -> Result<Self, Failure> {
        let encoded = offline::encoded(world, texts)?;
        let (mut pool, mut answers) = (Vec::new(), Vec::new());
        for version in 0..count {
            let dir = folder.join("pool").join(format!("{name}-{version}"));
            let (seed, labels) = (seed(name, version), format!("{name}-v{version}"));
            adapters::write(world, &dir, Recipe { seed, labels: &labels, first_layer: 0 })?;
            answers.push(offline::answers(&world.engine, &dir, &encoded)?);
            pool.push(dir);
        }
        let state = State {
            spans: vec![(Instant::now(), Installed::Version(0))],
            generations: HashMap::new(),
            newest: Vec::new(),
            last: 0,
            delays: Vec::new(),
            answered: true,
        };
        let versions = Self { name: name.into(), dir: root.join(name), pool, answers, state: Mutex::new(state) };
        copy(&versions.pool[0], &versions.dir)?;
        Ok(versions)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that is installed next.
    pub(crate) fn next(&self) -> usize {
        (self.lock().last + 1) % self.pool.len()
    }

    /// Notes that `what` is being installed from now on.
    pub(crate) fn note(&self, what: Installed) {
        let mut state = self.lock();
        state.spans.push((Instant::now(), what));
        if let Installed::Version(version) = what {
            (state.last, state.answered) = (version, false);
        }
    }

    /// For how long each version had been installed when it first answered.
    pub(crate) fn delays(&self) -> Vec<Duration> {
        self.lock().delays.clone()
    }

    /// Notes that `version` answered at `ended`.
    fn note_answer(&self, version: usize, ended: Instant) {
        let mut state = self.lock();
        if let Some(&(since, Installed::Version(last))) = state.spans.last()
            && last == version
            && !state.answered
        {
            state.answered = true;
            state.delays.push(ended.saturating_duration_since(since));
        }
    }

    /// Copies the next version beside the adapter's folder, under a hidden name, and exchanges the two folders.
    pub(crate) fn install_next(&self) -> Result<usize, Failure> {
        let (version, beside) = (self.next(), self.dir.with_file_name(format!(".next-{}", self.name)));
        copy(&self.pool[version], &beside)?;
        self.note(Installed::Version(version));
        renameat_with(CWD, &beside, CWD, &self.dir, RenameFlags::EXCHANGE)?;
        fs::remove_dir_all(&beside)?;
        Ok(version)
    }

    /// Forgets which generation was which version: a new process counts anew.
    pub(crate) fn forget_generations(&self) {
        let mut state = self.lock();
        state.generations.clear();
        state.newest.clear();
    }

    /// What was installed at some time of a request from `begun` to `ended`, or up to `grace` before it began. Where that is something
    /// broken, the version before it as well.
    pub(crate) fn current(&self, (begun, ended): (Instant, Instant), grace: Duration) -> Vec<Installed> {
        let state = self.lock();
        let mut current = Vec::new();
        let mut before = None;
        for (i, &(from, what)) in state.spans.iter().enumerate() {
            let until = state.spans.get(i + 1).map(|&(until, _)| until + grace);
            if from <= ended && until.is_none_or(|until| until >= begun) {
                current.push(what);
                current.extend(before.filter(|_| what == Installed::Broken));
            }
            if let Installed::Version(_) = what {
                before = Some(what);
            }
        }
        current
    }

    /// Whether an answer to `texts` is that of one version that was current while it ran, and its generation, where it is told, is that
    /// version's.
    pub(crate) fn check(
        &self,
        body: &Value,
        texts: &[usize],
        generation: Option<&str>,
        during: (Instant, Instant),
        grace: Duration,
    ) -> Result<(), String> {
        let answers = body.as_array().map(Vec::as_slice).unwrap_or_default();
        let is = |version: &Vec<Answer>| {
            answers.len() == texts.len()
                && texts.iter().zip(answers).all(|(&text, found)| offline::is(found, &version[text]))
        };
        let Some(version) = self.answers.iter().position(is) else {
            return Err(format!("{}: no version's answer: {body}", self.name));
        };
        let current = self.current(during, grace);
        if !current.contains(&Installed::Version(version)) {
            return Err(format!("{}: version {version} answered while {current:?} was current", self.name));
        }
        self.note_answer(version, during.1);
        match generation {
            Some(generation) => self.check_generation(generation, version, during),
            None => Ok(()),
        }
    }

    /// Whether a generation is always the same version, and none answers a request that began after a larger one had answered.
    fn check_generation(
        &self,
        generation: &str,
        version: usize,
        (begun, ended): (Instant, Instant),
    ) -> Result<(), String> {
        let name = &self.name;
        let number: u64 = generation.parse().map_err(|error| format!("{name}: generation {generation:?}: {error}"))?;
        let mut state = self.lock();
        let known = *state.generations.entry(number).or_insert(version);
        if known != version {
            return Err(format!("{name}: generation {number} answered as version {known} and as version {version}"));
        }
        let before = state.newest.iter().rev().find(|(at, _)| *at < begun);
        if let Some((_, before)) = before.filter(|(_, before)| *before > number) {
            return Err(format!("{name}: generation {number} answered after generation {before} had"));
        }
        if state.newest.last().is_none_or(|&(_, newest)| newest < number) {
            state.newest.push((ended, number));
        }
        Ok(())
    }
}

/// A seed for each version of each adapter.
fn seed(name: &str, version: usize) -> u64 {
    name.bytes().fold(version as u64 + 1_000_000, |seed, byte| seed.wrapping_mul(131).wrapping_add(byte.into()))
}

/// Copies the files of a folder into another one, which is created if it does not exist.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
