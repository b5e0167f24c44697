//! The metrics of GLUE's tasks and of tasks with several labels a row, with the conventions of scikit-learn and scipy.

use polyrank::adapter::ProblemType;
use polyrank::correlation::pearson;

use crate::data::{Target, TaskData};

/// A metric. Larger values are better for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// The share of right answers. If a row has several labels, an answer is right if it has exactly these.
    Accuracy,
    /// F1 of class 1, for two classes.
    F1,
    /// F1 over all labels of all rows that have several.
    F1Micro,
    /// The mean of the labels' F1, where rows have several labels. The F1 of a label that is neither expected nor found is 0.
    F1Macro,
    /// The Matthews correlation coefficient, for any number of classes.
    Matthews,
    /// Pearson correlation.
    Pearson,
    /// Spearman correlation: the Pearson correlation of ranks, where ties get their mean rank.
    Spearman,
}

impl Metric {
    /// The metric's name in logs and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::F1Micro => "f1_micro",
            Self::F1Macro => "f1_macro",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
        }
    }
}

/// The metrics of a task's data. The folder's name decides them where the task's is none of GLUE's: a sweep may give `cola`'s rows another
/// name.
#[must_use]
pub fn metrics_of(data: &TaskData) -> &'static [Metric] {
    metrics_for(&[&data.task, &data.folder], data.problem, data.labels.len())
}

/// The metrics of a task. The best epoch is selected by the first. GLUE's tasks have their own metrics, by the first of `names` that is
/// one of theirs; others have accuracy, the F1 scores if rows have several labels, or the correlations for a regression. The F1 of class
/// 1 counts only where the task has two `labels`.
#[must_use]
pub fn metrics_for(names: &[&str], problem: ProblemType, labels: usize) -> &'static [Metric] {
    let own = |name: &&str| -> Option<&'static [Metric]> {
        match name.to_lowercase().as_str() {
            "cola" => Some(&[Metric::Matthews, Metric::Accuracy]),
            "mrpc" | "qqp" if labels == 2 => Some(&[Metric::Accuracy, Metric::F1]),
            "mrpc" | "qqp" | "sst2" | "mnli" | "qnli" | "rte" | "wnli" => Some(&[Metric::Accuracy]),
            _ => None,
        }
    };
    match problem {
        ProblemType::Regression => &[Metric::Pearson, Metric::Spearman],
        ProblemType::MultiLabelClassification => &[Metric::F1Micro, Metric::F1Macro, Metric::Accuracy],
        ProblemType::SingleLabelClassification => names.iter().find_map(own).unwrap_or(&[Metric::Accuracy]),
    }
}

/// The value of `metric` for `logits [examples][outputs]`; 0 if it is not defined. The answer to a row is its largest logit or, if
/// targets are [`Target::Classes`], all logits above 0, whose sigmoid is above 0.5.
#[must_use]
pub fn score(metric: Metric, logits: &[Vec<f32>], targets: &[Target]) -> f64 {
    match metric {
        Metric::Accuracy => {
            let right = |(logits, target): (&Vec<f32>, &Target)| match target {
                Target::Class(class) => argmax(logits) == *class,
                Target::Classes(classes) => above_zero(logits).eq(classes.iter().copied()),
                Target::Value(_) => false,
            };
            ratio(logits.iter().zip(targets).filter(|&row| right(row)).count(), targets.len())
        }
        Metric::F1 => f1(&pairs(logits, targets)),
        Metric::Matthews => matthews(&pairs(logits, targets)),
        Metric::F1Micro => {
            let sum = |sum: Counts, of: Counts| Counts {
                right: sum.right + of.right,
                found: sum.found + of.found,
                expected: sum.expected + of.expected,
            };
            counts(logits, targets).into_iter().fold(Counts::default(), sum).f1()
        }
        Metric::F1Macro => {
            let labels = counts(logits, targets);
            labels.iter().map(|label| label.f1()).sum::<f64>() / labels.len().max(1) as f64
        }
        Metric::Pearson | Metric::Spearman => {
            let found: Vec<f64> = logits.iter().map(|logits| f64::from(logits[0])).collect();
            let wanted: Vec<f64> = targets.iter().map(Target::value).collect();
            match metric {
                Metric::Pearson => pearson(&found, &wanted),
                _ => pearson(&ranks(&found), &ranks(&wanted)),
            }
            .unwrap_or(0.0)
        }
    }
}

/// The class with the largest logit, and the target, of each row that has one class.
fn pairs(logits: &[Vec<f32>], targets: &[Target]) -> Vec<(usize, usize)> {
    let pair = |(logits, target): (&Vec<f32>, &Target)| match target {
        Target::Class(class) => Some((argmax(logits), *class)),
        Target::Classes(_) | Target::Value(_) => None,
    };
    logits.iter().zip(targets).filter_map(pair).collect()
}

/// The labels whose logits are above 0.
fn above_zero(logits: &[f32]) -> impl Iterator<Item = usize> + '_ {
    logits.iter().enumerate().filter(|(_, logit)| **logit > 0.0).map(|(label, _)| label)
}

/// The numbers of rows in which a label was found or expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that have the label, and for which it was found.
    pub right: usize,
    /// Rows for which it was found.
    pub found: usize,
    /// Rows that have it.
    pub expected: usize,
}

impl Counts {
    /// The share of the rows for which the label was found that have it; 0 if it was never found.
    #[must_use]
    pub fn precision(self) -> f64 {
        ratio(self.right, self.found)
    }

    /// The share of the rows with the label for which it was found; 0 if no row has it.
    #[must_use]
    pub fn recall(self) -> f64 {
        ratio(self.right, self.expected)
    }

    /// The harmonic mean of precision and recall; 0 if the label is neither found nor expected.
    #[must_use]
    pub fn f1(self) -> f64 {
        ratio(2 * self.right, self.found + self.expected)
    }
}

/// The counts of each label for `logits [examples][labels]`. No label is expected of a [`Target::Value`].
#[must_use]
pub fn counts(logits: &[Vec<f32>], targets: &[Target]) -> Vec<Counts> {
    let mut counts = vec![Counts::default(); logits.first().map_or(0, Vec::len)];
    for (logits, target) in logits.iter().zip(targets) {
        target.classes().iter().for_each(|&label| counts[label].expected += 1);
        let mut found = |label: usize| {
            counts[label].found += 1;
            counts[label].right += usize::from(target.classes().contains(&label));
        };
        match target {
            Target::Class(_) => found(argmax(logits)),
            Target::Classes(_) => above_zero(logits).for_each(found),
            Target::Value(_) => {}
        }
    }
    counts
}

/// The mean loss of `logits [examples][outputs]` with equal weights of the classes: the cross-entropy, the binary cross-entropy, or the
/// squared error of the one output. It decides between epochs with equal metrics, which are frequent with metrics that count right
/// answers.
#[must_use]
pub fn mean_loss(logits: &[Vec<f32>], targets: &[Target]) -> f64 {
    let loss = |(logits, target): (&Vec<f32>, &Target)| match target {
        Target::Value(value) => (f64::from(logits[0]) - value).powi(2),
        Target::Class(class) => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
            sum.ln() - f64::from(logits[*class] - most)
        }
        Target::Classes(classes) => {
            // -log sigmoid(x) = log(1 + exp(-x)) = max(-x, 0) + log(1 + exp(-|x|)), and the same with -x for an absent label.
            let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
            let absent: f64 = logits.iter().map(|&x| softplus(f64::from(x))).sum();
            let present: f64 = classes.iter().map(|&label| f64::from(logits[label])).sum();
            (absent - present) / logits.len() as f64
        }
    };
    logits.iter().zip(targets).map(loss).sum::<f64>() / logits.len().max(1) as f64
}

/// The class with the largest of the `logits [classes]`, the first among equals.
pub(crate) fn argmax(logits: &[f32]) -> usize {
    logits.iter().enumerate().fold(0, |best, (i, x)| if *x > logits[best] { i } else { best })
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn f1(pairs: &[(usize, usize)]) -> f64 {
    let count = |found, class| pairs.iter().filter(|&&pair| pair == (found, class)).count();
    let right = 2 * count(1, 1);
    ratio(right, right + count(1, 0) + count(0, 1))
}

/// Gorodkin's generalisation to many classes, as in scikit-learn.
fn matthews(pairs: &[(usize, usize)]) -> f64 {
    let classes = pairs.iter().map(|&(found, class)| 1 + found.max(class)).max().unwrap_or(0);
    let (mut found, mut wanted, mut right) = (vec![0.0; classes], vec![0.0; classes], 0.0);
    for &(f, w) in pairs {
        found[f] += 1.0;
        wanted[w] += 1.0;
        right += f64::from(f == w);
    }
    let n = pairs.len() as f64;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let spread = (n * n - dot(&found, &found)) * (n * n - dot(&wanted, &wanted));
    if spread > 0.0 { (right * n - dot(&found, &wanted)) / spread.sqrt() } else { 0.0 }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let first = values[order[start]];
        let tied = |value: f64| value == first || value.is_nan() && first.is_nan();
        let ties = order[start..].iter().take_while(|&&i| tied(values[i])).count();
        for &i in &order[start..start + ties] {
            ranks[i] = start as f64 + (ties as f64 + 1.0) / 2.0;
        }
        start += ties;
    }
    ranks
}
