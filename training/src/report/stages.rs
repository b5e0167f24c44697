//! Reads what `polyrank-train schedule` left in its folder: a line for each stage of Algorithm 1.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::table::{Csv, Table, count, number, plain};
use super::trained::TrainedRun;
use crate::error::Error;
use crate::schedule::{self, SCHEDULE, Stage};

/// A run of Algorithm 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schedule {
    /// Name of the task.
    pub(super) task: String,
    /// Its stages, in order.
    pub(super) stages: Vec<Stage>,
}

impl Schedule {
    pub(super) fn is_at(folder: &Path) -> bool {
        folder.join(SCHEDULE).is_file()
    }

    /// Reads the schedule in `folder`. Its task is that of a stage, else the folder's name.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let stages = schedule::read(&folder.join(SCHEDULE))?;
        let mut task = None;
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if task.is_none() && TrainedRun::is_at(&path) {
                task = Some(TrainedRun::read(&path)?.task);
            }
        }
        let named = || folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { task: task.unwrap_or_else(named), stages })
    }
}

/// The stages of all schedules; `None` if there are none.
pub(super) fn table(schedules: &[Schedule]) -> Option<Table> {
    let stages = || schedules.iter().flat_map(|of| of.stages.iter().map(|stage| (&of.task, stage)));
    stages().next()?;
    let row = |(task, stage): (&String, &Stage)| {
        let percent = [stage.percent.parameters, stage.percent.train, stage.percent.validation];
        let counts = [stage.parameters, stage.paper_parameters].map(|parameters| count(Some(parameters as f64)));
        let head = [task.clone(), stage.stage.to_string(), format!("{:.2e}", stage.xi)];
        let shares = percent.map(|percent| number(percent, 1));
        head.into_iter().chain(counts).chain(shares).chain([metrics(&stage.validation)]).collect()
    };
    let line = |(task, stage): (&String, &Stage)| {
        let percent = [stage.percent.parameters, stage.percent.train, stage.percent.validation];
        let numbers = [stage.stage, stage.epochs, stage.parameters, stage.paper_parameters];
        let head = [task.clone(), stage.xi.to_string()];
        let rest = [metrics(&stage.train), metrics(&stage.validation)];
        head.into_iter().chain(numbers.map(|number| number.to_string())).chain(percent.map(plain)).chain(rest).collect()
    };
    let head =
        ["task", "stage", "threshold", "parameters", "paper's count", "%", "train %", "validation %", "validation"];
    Some(Table {
        name: "compression",
        title: "Stages of Algorithm 1".to_owned(),
        note: "Parameters and the task's first metric in percent of stage 0, on rows of train and on validation."
            .to_owned(),
        head: head.map(str::to_owned).to_vec(),
        rows: stages().map(row).collect(),
        csv: Csv {
            head: vec![
                "task",
                "xi",
                "stage",
                "epochs",
                "parameters",
                "paper_parameters",
                "parameters_percent",
                "train_percent",
                "validation_percent",
                "train",
                "validation",
            ],
            rows: stages().map(line).collect(),
        },
    })
}

/// Metrics in a cell: `accuracy=0.9 f1=0.8`.
fn metrics(of: &BTreeMap<String, f64>) -> String {
    of.iter().map(|(name, value)| format!("{name}={value:.4}")).collect::<Vec<_>>().join(" ")
}
