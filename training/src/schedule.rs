//! SoRA's Algorithm 1: a run of stages, each with a larger threshold xi than the one before it and started from its variables. What is
//! left of the adapter, and of its metrics on train (memorisation) and on validation (generalisation), is the paper's figure 2.
//!
//! The learning rate, with its warm-up, and Adam's moments start anew in each stage, as do the order of the rows and the dropout, which
//! are the same in all stages. A stage keeps its last epoch and not its best,
//! because only the gates after all of the stage's steps belong to its xi.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, wrong};
use crate::json_lines;
use crate::method::sora::GateRule;
use crate::settings::{MethodName, Select, Settings};

/// The most stages of a schedule.
const MOST: usize = 1000;

/// How the thresholds lie between the first and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Spacing {
    /// At equal distances, as in the paper.
    Linear,
    /// Closer and closer together: logarithms of numbers at equal distances. (The authors' log_linear does not scale these numbers to the
    /// range, so that at their thresholds it is nearly linear.)
    Log,
    /// By equal factors: exponentials of numbers at equal distances (the authors' exp_linear).
    Exp,
}

/// The thresholds of all stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// The xi of the first stage.
    pub first: f64,
    /// No stage has a larger xi.
    pub last: f64,
    /// The distance between two stages. For other spacings than [`Spacing::Linear`], it only gives the number of stages.
    pub step: f64,
    /// How the thresholds lie between `first` and `last`.
    pub spacing: Spacing,
}

impl Thresholds {
    /// The xi of each stage.
    ///
    /// # Errors
    /// A number is not positive or not finite, the last is below the first, or there are too many stages.
    pub fn stages(&self) -> Result<Vec<f64>, Error> {
        let Self { first, last, step, spacing } = *self;
        for (flag, value) in [("--xi0", first), ("--xi-max", last), ("--xi-step", step)] {
            if !(value > 0.0 && value.is_finite()) {
                return wrong(flag, "a positive number", value);
            }
        }
        if last < first {
            return wrong("--xi-max", format_args!("--xi0 ({first}) or more"), last);
        }
        // A sum of decimal steps may end slightly above the last threshold.
        let more = ((last - first) / step * (1.0 + 1e-9)).floor();
        if more >= MOST as f64 {
            return wrong("--xi-step", format_args!("at most {MOST} stages"), format_args!("{:.0}", more + 1.0));
        }
        let more = more as usize;
        let part = |stage: usize| stage as f64 / more.max(1) as f64;
        let xi = |stage: usize| match spacing {
            Spacing::Linear => first + stage as f64 * step,
            Spacing::Log => first + (last - first) * (1.0 + (1f64.exp() - 1.0) * part(stage)).ln(),
            Spacing::Exp => first * (last / first).powf(part(stage)),
        };
        Ok((0..=more).map(xi).collect())
    }
}

/// Checks that stages may set the threshold of a run with these settings.
///
/// # Errors
/// The method has no gates, a setting gives another threshold, or the gates have no threshold xi.
pub fn check(given: &Settings) -> Result<(), Error> {
    if given.method != MethodName::Sora {
        return wrong("--method", "sora, whose gates have a threshold", given.method.name());
    }
    let thresholds = [
        ("--xi", given.xi.is_some()),
        ("--lambda", given.lambda.is_some()),
        ("--target-ratio", given.target_ratio.is_some()),
        ("--target-params", given.target_params.is_some()),
    ];
    if let Some((flag, _)) = thresholds.iter().find(|(_, given)| *given) {
        return wrong("schedule", "no threshold but --xi0, --xi-max and --xi-step", flag);
    }
    if given.gate == Some(GateRule::Adaptive) {
        return wrong("--gate", "paper or authors, which have a threshold xi", "adaptive");
    }
    if let Some(patience) = given.patience {
        return wrong("schedule", "no --patience, because each stage keeps its last epoch", patience);
    }
    Ok(())
}

/// The settings of a stage with the threshold `xi`, from those of the whole schedule. `epochs` replaces their epochs.
#[must_use]
pub fn settings(given: &Settings, xi: f64, epochs: Option<usize>) -> Settings {
    Settings {
        xi: Some(xi),
        // Algorithm 1 has no penalty beside its thresholds.
        sparse_lambda: given.sparse_lambda.or(Some(0.0)),
        select: Select::Last,
        epochs: epochs.or(given.epochs),
        // No stage is a run that was made longer, although the run whose settings these are may have been.
        extended_from: Vec::new(),
        ..given.clone()
    }
}

/// The file with a line for each finished stage.
pub const SCHEDULE: &str = "schedule.jsonl";

/// A finished stage, which is a line of [`SCHEDULE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The number of the stage, from 0. Its adapter is in the folder `stage-N`.
    pub stage: usize,
    /// The threshold of its gates.
    pub xi: f64,
    /// The number of its epochs.
    pub epochs: usize,
    /// The number of parameters that are left: the sum of `r (in + out)`.
    pub parameters: usize,
    /// The same as the paper counts them: `2 * hidden` for each rank.
    pub paper_parameters: usize,
    /// The number of rows of train on which its metrics are computed. Schedules of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_sample: Option<usize>,
    /// The metrics on these rows of train.
    pub train: BTreeMap<String, f64>,
    /// The metrics on validation.
    pub validation: BTreeMap<String, f64>,
    /// This stage in percent of stage 0.
    pub percent: Percent,
}

/// A stage in percent of stage 0. A value is `None` if stage 0 has 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percent {
    /// Of the parameters that are left.
    pub parameters: Option<f64>,
    /// Of the primary metric on rows of train.
    pub train: Option<f64>,
    /// Of the primary metric on validation.
    pub validation: Option<f64>,
}

impl Stage {
    /// Sets the percentages from `first`, which is stage 0, by the metric `primary`.
    #[must_use]
    pub fn relative_to(mut self, first: &Stage, primary: &str) -> Self {
        let percent = |of: f64, all: f64| (all != 0.0).then(|| 100.0 * of / all);
        let metric = |of: &BTreeMap<String, f64>| of.get(primary).copied().unwrap_or(0.0);
        self.percent = Percent {
            parameters: percent(self.parameters as f64, first.parameters as f64),
            train: percent(metric(&self.train), metric(&first.train)),
            validation: percent(metric(&self.validation), metric(&first.validation)),
        };
        self
    }

    /// The stage as a row of the table that [`header`] begins.
    #[must_use]
    pub fn row<'a>(&'a self, primary: &'a str) -> impl Display + 'a {
        Row { stage: self, primary }
    }
}

/// The first line of the table of stages, with the metric `primary`.
#[must_use]
pub fn header(primary: &str) -> String {
    let (train, validation) = (format!("train {primary}"), format!("val. {primary}"));
    let [stage, xi, ours, paper, share] = ["stage", "xi", "parameters", "as paper", "%"];
    format!("{stage:>5} {xi:>9} {ours:>10} {paper:>10} {share:>6}  {train:>16} {share:>6}  {validation:>16} {share:>6}")
}

struct Row<'a> {
    stage: &'a Stage,
    primary: &'a str,
}

impl Display for Row<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Stage { stage, xi, parameters, paper_parameters, train, validation, percent, .. } = self.stage;
        let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{share:.1}"));
        let metric = |of: &BTreeMap<String, f64>| of.get(self.primary).map_or("-".to_owned(), |x| format!("{x:.4}"));
        write!(f, "{stage:>5} {xi:>9.3e} {parameters:>10} {paper_parameters:>10} {:>6}", share(percent.parameters))?;
        write!(f, "  {:>16} {:>6}", metric(train), share(percent.train))?;
        write!(f, "  {:>16} {:>6}", metric(validation), share(percent.validation))
    }
}

/// Reads the finished stages; none if there is no file. The last line is dropped if a process was killed while it wrote it.
///
/// # Errors
/// The file cannot be read, or another line is malformed.
pub fn read(path: &Path) -> Result<Vec<Stage>, Error> {
    let stages: Vec<Stage> = json_lines::read(path)?;
    for (number, stage) in stages.iter().enumerate() {
        if stage.stage != number {
            let reason = format!("expected stage {number}, found stage {}", stage.stage);
            return Err(json_lines::malformed(path, number, reason));
        }
    }
    Ok(stages)
}

/// Writes the finished stages, without a line that was written in part.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, stages: &[Stage]) -> Result<(), Error> {
    json_lines::write(path, stages)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    fn thresholds(first: f64, last: f64, step: f64, spacing: Spacing) -> Thresholds {
        Thresholds { first, last, step, spacing }
    }

    fn close(found: &[f64], expected: &[f64]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4 * b)
    }

    #[test]
    fn thresholds_are_spaced_as_asked() {
        let of = |spacing| thresholds(1e-4, 9e-4, 2e-4, spacing).stages().unwrap();
        assert!(close(&of(Spacing::Linear), &[1e-4, 3e-4, 5e-4, 7e-4, 9e-4]), "{:?}", of(Spacing::Linear));
        // numpy: geomspace(1e-4, 9e-4, 5), and 1e-4 + 8e-4 * log(linspace(1, e, 5)).
        let exp = [1e-4, 1.732051e-4, 3e-4, 5.196152e-4, 9e-4];
        assert!(close(&of(Spacing::Exp), &exp), "{:?}", of(Spacing::Exp));
        let log = [1e-4, 3.858992e-4, 5.960956e-4, 7.623912e-4, 9e-4];
        assert!(close(&of(Spacing::Log), &log), "{:?}", of(Spacing::Log));
        // The last step would pass the largest xi; and a single stage.
        assert!(close(&thresholds(1e-4, 3.9e-4, 1e-4, Spacing::Linear).stages().unwrap(), &[1e-4, 2e-4, 3e-4]));
        for spacing in [Spacing::Linear, Spacing::Log, Spacing::Exp] {
            assert_eq!(thresholds(1e-4, 1e-4, 1e-4, spacing).stages().unwrap(), [1e-4]);
        }
    }

    #[test]
    fn impossible_thresholds_are_refused_by_flag() {
        for (first, last, step, words) in [
            (0.0, 1.0, 1.0, "--xi0: expected a positive number, found 0"),
            (1.0, f64::INFINITY, 1.0, "--xi-max: expected a positive number, found inf"),
            (1.0, 2.0, -1.0, "--xi-step: expected a positive number, found -1"),
            (1.0, 0.5, 1.0, "--xi-max: expected --xi0 (1) or more, found 0.5"),
            (1.0, 2.0, 1e-4, "--xi-step: expected at most 1000 stages, found 10001"),
        ] {
            let error = thresholds(first, last, step, Spacing::Linear).stages().unwrap_err();
            assert_eq!(error.to_string(), words);
        }
    }

    fn stage(number: usize, parameters: usize, metric: f64) -> Stage {
        let metrics = |value| BTreeMap::from([("accuracy".to_owned(), value)]);
        Stage {
            stage: number,
            xi: 1e-4,
            epochs: 5,
            parameters,
            paper_parameters: 2 * parameters,
            train_sample: Some(30),
            train: metrics(metric),
            validation: metrics(metric / 2.0),
            percent: Percent { parameters: None, train: None, validation: None },
        }
    }

    #[test]
    fn stages_are_told_in_percent_of_the_first() {
        let first = stage(0, 200, 0.8);
        let second = stage(1, 50, 0.6).relative_to(&first, "accuracy");
        let Percent { parameters, train, validation } = second.percent;
        assert_eq!(parameters, Some(25.0));
        assert!([train, validation].iter().all(|percent| (percent.unwrap() - 75.0).abs() < 1e-9));
        assert_eq!(stage(1, 50, 0.6).relative_to(&stage(0, 0, 0.0), "accuracy").percent.train, None);
        let (header, row) = (header("accuracy"), second.row("accuracy").to_string());
        assert_eq!(header.len(), row.len(), "{header}\n{row}");
        assert!(row.contains("25.0") && row.contains("0.6000") && row.contains("0.3000"), "{row}");
    }

    #[test]
    fn file_is_read_back_without_a_line_that_was_cut() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("schedule.jsonl");
        assert_eq!(read(&path).unwrap(), []);
        let stages = [stage(0, 200, 0.8), stage(1, 100, 0.7)];
        write(&path, &stages).unwrap();
        assert_eq!(read(&path).unwrap(), stages);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(read(&path).unwrap(), stages[..1]);
        fs::write(&path, text.lines().next_back().unwrap().to_owned() + "\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1: expected stage 0, found stage 1"));
        fs::write(&path, "{}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1: missing field"));
    }
}
