//! GLUE's metrics, with the conventions of scikit-learn and scipy.

use polyrank::adapter::ProblemType;
use polyrank::correlation::pearson;

use crate::data::Target;

/// A metric. Larger values are better for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// The share of right answers.
    Accuracy,
    /// F1 of class 1, for two classes.
    F1,
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
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
        }
    }
}

/// The metrics of a task. The best epoch is selected by the first. GLUE's tasks have their own metrics; others have accuracy, or the
/// correlations for a regression.
#[must_use]
pub fn metrics_for(task: &str, problem: ProblemType) -> &'static [Metric] {
    match (problem, task.to_lowercase().as_str()) {
        (ProblemType::Regression, _) => &[Metric::Pearson, Metric::Spearman],
        (_, "cola") => &[Metric::Matthews, Metric::Accuracy],
        (_, "mrpc" | "qqp") => &[Metric::Accuracy, Metric::F1],
        _ => &[Metric::Accuracy],
    }
}

/// The value of `metric` for `logits [examples][outputs]`; 0 if it is not defined.
#[must_use]
pub fn score(metric: Metric, logits: &[Vec<f32>], targets: &[Target]) -> f64 {
    match metric {
        Metric::Accuracy | Metric::F1 | Metric::Matthews => {
            let pairs: Vec<(usize, usize)> = logits
                .iter()
                .zip(targets)
                .filter_map(|(logits, target)| match target {
                    Target::Class(class) => Some((argmax(logits), *class)),
                    Target::Value(_) => None,
                })
                .collect();
            match metric {
                Metric::Accuracy => ratio(pairs.iter().filter(|(found, class)| found == class).count(), pairs.len()),
                Metric::F1 => f1(&pairs),
                _ => matthews(&pairs),
            }
        }
        Metric::Pearson | Metric::Spearman => {
            let found: Vec<f64> = logits.iter().map(|logits| f64::from(logits[0])).collect();
            let wanted: Vec<f64> = targets
                .iter()
                .map(|target| match target {
                    Target::Value(value) => *value,
                    Target::Class(class) => *class as f64,
                })
                .collect();
            match metric {
                Metric::Pearson => pearson(&found, &wanted),
                _ => pearson(&ranks(&found), &ranks(&wanted)),
            }
            .unwrap_or(0.0)
        }
    }
}

/// The mean loss of `logits [examples][outputs]`, as in training: the cross-entropy, or the squared error of the one output. It decides
/// between epochs with equal metrics, which are frequent with metrics that count right answers.
#[must_use]
pub fn mean_loss(logits: &[Vec<f32>], targets: &[Target]) -> f64 {
    let loss = |(logits, target): (&Vec<f32>, &Target)| match *target {
        Target::Value(value) => (f64::from(logits[0]) - value).powi(2),
        Target::Class(class) => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
            sum.ln() - f64::from(logits[class] - most)
        }
    };
    logits.iter().zip(targets).map(loss).sum::<f64>() / logits.len().max(1) as f64
}

fn argmax(logits: &[f32]) -> usize {
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
