//! What a sweep knows of the data of its runs. Runs of one task share it, so that each file is read once.

use std::path::PathBuf;

use super::Job;
use crate::data::{DataError, DataOptions, TaskData};
use crate::error::Error;
use crate::run::Facts;

/// The data of a sweep's runs, as far as it was asked for.
#[derive(Default)]
pub(super) struct Data {
    known: Vec<Known>,
}

/// The data of some runs, which read it in the same way.
struct Known {
    source: PathBuf,
    options: DataOptions,
    /// The facts of a run on it, which name no base.
    facts: Facts,
    /// Whether there is a test split with labels.
    has_test: bool,
}

impl Data {
    /// Whether the job's data has a test split with labels.
    ///
    /// # Errors
    /// The data cannot be read.
    pub(super) fn has_test(&mut self, job: &Job) -> Result<bool, Error> {
        self.of(job).map(|known| known.has_test)
    }

    /// Whether the job's run, which has finished, was trained on the data as it is now.
    ///
    /// # Errors
    /// The data or the run's facts cannot be read.
    pub(super) fn is_unchanged(&mut self, job: &Job) -> Result<bool, Error> {
        let Some(trained_on) = Facts::read(&job.output.join("run"))? else { return Ok(false) };
        let now = &self.of(job)?.facts;
        Ok(trained_on == Facts { base: trained_on.base.clone(), ..now.clone() })
    }

    fn of(&mut self, job: &Job) -> Result<&Known, Error> {
        let options = job.reading.options(job.facts.seed);
        let same = |known: &Known| known.source == job.data && known.options == options;
        let at = match self.known.iter().position(same) {
            Some(at) => at,
            None => {
                let data = TaskData::load(&job.data, &options)?;
                let has_test = match data.split("test") {
                    Ok(_) => true,
                    Err(DataError::NoSplit { .. }) => false,
                    Err(error) => return Err(error.into()),
                };
                self.known.push(Known { source: job.data.clone(), options, facts: Facts::new(&data, ""), has_test });
                self.known.len() - 1
            }
        };
        Ok(&self.known[at])
    }
}
