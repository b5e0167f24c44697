//! Default epochs, batch size and learning rate. They depend on the task's kind and size, and on the base's width.
//!
//! | setting | rule | reason |
//! | --- | --- | --- |
//! | batch size | 16 below 3,000 rows, else 32 | few rows give few steps, and it takes steps to find out which ranks matter |
//! | epochs | as many as give about 1,000 steps, but 3 to 20 | further epochs over few rows only memorise them |
//! | epochs with several labels a row | 3 to 60 | most labels are absent, and it takes long until any is predicted |
//! | rate | 1e-3 up to width 384, less for wider bases (5e-4 at 768) | wide bases diverge at the rates that narrow bases need |
//! | rate of full fine-tuning | a tenth of that | all parameters move at once |
//! | rate of AdaLoRA | five times that | both its factors start near 0; on CoLA, 1e-3 stayed at the majority class, and 5e-3 did not |
//! | rate below 1,000 rows | 1.5 times as much | if there are few steps, they must be larger |
//! | rate of SoRA, LoRA and DyLoRA from 3,000 rows, except for regression and from 20 classes | at most 5e-4 | on CoLA, 1e-3 stayed at the majority class for one seed of three, and 5e-4 for none of five |
//!
//! `--epochs`, `--batch-size` and `--lr` each replace one default; the epochs follow from a given batch size. On the three example tasks
//! (246 rows), a batch size of 8 with a rate of 2e-3 diverged in one of three runs, and with 1e-3 two of them lost 3 and 4 points. On the
//! example with several labels (144 rows), 20 epochs gave an F1 of .38, and 60 of .85. On STS-B, a regression, SoRA and LoRA lost 0.5 to
//! 0.9 points at 5e-4; on MRPC, nothing. Many classes are not learned in four epochs at 5e-4: with 77 (Banking77), SoRA has .789 then and
//! .895 at 1e-3, and with 20 (tweet_emoji) .288 and .293; at 2e-3 the latter stayed at the majority class. The reports of the project have
//! the runs.

use std::fmt::{self, Display, Formatter};

use polyrank::adapter::ProblemType;

/// The number of steps that a run should have.
const STEPS: usize = 1000;
/// The most epochs by default.
const MOST_EPOCHS: usize = 20;
/// The same for several labels a row.
const MOST_EPOCHS_OF_SEVERAL: usize = 60;
/// With fewer rows than this, a run has so few steps that they must be larger.
const FEW: usize = 1000;
/// From this number of rows, batches are larger, and some methods have lower rates.
const MANY: usize = 3000;

/// From this number of classes, the lower rate is not enough.
const MANY_CLASSES: usize = 20;

/// What the defaults depend on in a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskSize {
    /// Rows of training data.
    pub rows: usize,
    /// Labels, which are the outputs of the head.
    pub labels: usize,
    /// The kind of task.
    pub problem: ProblemType,
}

/// A method's default learning rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeakRates {
    /// The rate on a narrow base.
    pub narrow: f64,
    /// The most from 3,000 rows, except for regression and for many classes.
    pub many: f64,
}

impl PeakRates {
    /// Of methods that train few parameters.
    pub const FEW_PARAMETERS: Self = Self::same(1e-3);
    /// Of SoRA, LoRA and DyLoRA.
    pub const LORA: Self = Self { narrow: 1e-3, many: 5e-4 };
    /// Of AdaLoRA.
    pub const ADALORA: Self = Self::same(5e-3);
    /// Of full fine-tuning.
    pub const FULL: Self = Self::same(1e-4);

    const fn same(rate: f64) -> Self {
        Self { narrow: rate, many: rate }
    }
}

/// The epochs, batch size and learning rate of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    /// Passes over the training data.
    pub epochs: usize,
    /// The number of texts in a step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
}

impl Hyperparameters {
    /// The defaults for a task and a base of width `hidden`, with the user's batch size, if there is one. `rates` are the method's.
    #[must_use]
    pub fn new(size: TaskSize, hidden: usize, batch_size: Option<usize>, rates: PeakRates) -> Self {
        let TaskSize { rows, labels, problem } = size;
        let batch_size = batch_size.unwrap_or(match rows {
            ..MANY => 16,
            _ => 32,
        });
        let most = match problem {
            ProblemType::MultiLabelClassification => MOST_EPOCHS_OF_SEVERAL,
            ProblemType::SingleLabelClassification | ProblemType::Regression => MOST_EPOCHS,
        };
        // A caller's size may be the product of two settings, each of which may be large.
        let epochs = STEPS.saturating_mul(batch_size).div_ceil(rows.max(1)).clamp(3, most);
        let narrow = (384.0 / hidden.max(1) as f64).min(1.0);
        let rate = rates.narrow * narrow;
        let has_many_classes = problem == ProblemType::SingleLabelClassification && labels >= MANY_CLASSES;
        let lr = match rows {
            ..FEW => 1.5 * rate,
            MANY.. if problem != ProblemType::Regression && !has_many_classes => rate.min(rates.many),
            _ => rate,
        };
        Self { epochs, batch_size, lr }
    }
}

/// The plan of a run, printed as `246 rows, 20 epochs of 16 steps (320 in all), batch size 16, rate 0.0015`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Records of training data.
    pub rows: usize,
    /// Epochs, batch size and learning rate.
    pub hyperparameters: Hyperparameters,
    /// The number of batches in a step.
    pub accumulate: usize,
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { rows, hyperparameters: Hyperparameters { epochs, batch_size, lr }, accumulate } = self;
        let steps = rows.div_ceil(batch_size.saturating_mul(*accumulate).max(1));
        let all = steps * epochs;
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (epoch_s, step_s) = (plural(*epochs), plural(steps));
        write!(
            f,
            "{rows} rows, {epochs} epoch{epoch_s} of {steps} step{step_s} ({all} in all), batch size {batch_size}"
        )?;
        if *accumulate > 1 {
            write!(f, " x {accumulate}")?;
        }
        // Rates that follow from the base's width have more digits than a person wants to read.
        let shown = format!("{lr:.2e}").parse::<f64>().unwrap_or(*lr);
        write!(f, ", rate {shown}")
    }
}

#[cfg(test)]
mod tests {
    use polyrank::adapter::ProblemType;

    use super::{Hyperparameters, PeakRates, Plan, TaskSize};

    /// A task with two classes.
    fn binary(rows: usize) -> TaskSize {
        TaskSize { rows, labels: 2, problem: ProblemType::SingleLabelClassification }
    }

    #[test]
    fn small_tasks_get_small_batches_and_wide_bases_small_rates() {
        let of = |rows, hidden| {
            let Hyperparameters { epochs, batch_size, lr } =
                Hyperparameters::new(binary(rows), hidden, None, PeakRates::LORA);
            (epochs, batch_size, lr)
        };
        assert_eq!(of(246, 384), (20, 16, 1.5e-3));
        assert_eq!(of(2490, 384), (7, 16, 1e-3));
        assert_eq!(of(8551, 384), (4, 32, 5e-4));
        assert_eq!(of(67_349, 768), (3, 32, 5e-4));
        assert_eq!(of(67_349, 1024), (3, 32, 3.75e-4));
        assert_eq!(of(0, 384).0, 20);
        assert_eq!(Hyperparameters::new(binary(5000), 384, Some(64), PeakRates::LORA).epochs, 13);
        assert_eq!(Hyperparameters::new(binary(5000), 384, Some(usize::MAX), PeakRates::LORA).epochs, 20);
        let regression = TaskSize { labels: 1, problem: ProblemType::Regression, ..binary(5749) };
        assert_eq!(Hyperparameters::new(regression, 384, None, PeakRates::LORA).lr, 1e-3);
        for (labels, lr) in [(19, 5e-4), (20, 1e-3), (77, 1e-3)] {
            assert_eq!(Hyperparameters::new(TaskSize { labels, ..binary(9003) }, 384, None, PeakRates::LORA).lr, lr);
        }
        assert_eq!(Hyperparameters::new(binary(8551), 384, None, PeakRates::ADALORA).lr, 5e-3);
        assert_eq!(Hyperparameters::new(binary(67_349), 768, None, PeakRates::FULL).lr, 5e-5);
        let several = TaskSize { labels: 5, problem: ProblemType::MultiLabelClassification, ..binary(144) };
        assert_eq!(Hyperparameters::new(several, 384, None, PeakRates::LORA).epochs, 60);
    }

    #[test]
    fn plan_shows_its_steps() {
        let plan = Plan {
            rows: 246,
            hyperparameters: Hyperparameters::new(binary(246), 384, None, PeakRates::LORA),
            accumulate: 1,
        };
        assert_eq!(plan.to_string(), "246 rows, 20 epochs of 16 steps (320 in all), batch size 16, rate 0.0015");
        let plan = Plan { accumulate: 4, ..plan };
        assert_eq!(plan.to_string(), "246 rows, 20 epochs of 4 steps (80 in all), batch size 16 x 4, rate 0.0015");
    }
}
