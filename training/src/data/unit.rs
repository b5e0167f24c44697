//! The unit in which a regression is learned.

use serde::{Deserialize, Serialize};

use super::{Example, Target};

/// The mean and the spread of a regression's targets. A run learns `(y - mean) / spread`, and its head is given the targets' own unit when
/// it is exported, so that the result does not depend on whether targets are in metres or millimetres. Otherwise, the weights would have
/// to learn the distance to the mean and the spread, at the price of what distinguishes texts: SoRA's Pearson correlation on STS-B, whose
/// mean is 2.7, was 0.15 after three epochs, and predictions of targets from 0 to 500 hardly varied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TargetUnit {
    /// The mean of the training targets.
    pub mean: f64,
    /// Their standard deviation, or 1 if all are equal.
    pub spread: f64,
}

impl TargetUnit {
    /// The unit of the targets of `train`, whose targets are numbers.
    #[must_use]
    pub fn of(train: &[Example]) -> Self {
        let rows = train.len().max(1) as f64;
        let mean = train.iter().map(|example| example.target.value()).sum::<f64>() / rows;
        let variance = train.iter().map(|example| (example.target.value() - mean).powi(2)).sum::<f64>() / rows;
        let spread = variance.sqrt();
        Self { mean, spread: if spread > 0.0 && spread.is_finite() { spread } else { 1.0 } }
    }

    /// The target in this unit, as it is learned.
    #[must_use]
    pub fn learned(self, target: &Target) -> Target {
        match target {
            Target::Value(value) => Target::Value((value - self.mean) / self.spread),
            labels => labels.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_targets_have_mean_0_and_spread_1_in_any_unit() {
        let row = |value| Example { text: String::new(), pair: None, target: Target::Value(value) };
        for unit in [1e-4, 1.0, 1e9] {
            let rows: Vec<Example> = [1.0, 2.0, 6.0].map(|value| row(unit * (value + 7.0))).into();
            let found = TargetUnit::of(&rows);
            let learned = rows.iter().map(|row| found.learned(&row.target).value());
            let expected = [-2.0, -1.0, 3.0].map(|x: f64| x / (14.0f64 / 3.0).sqrt());
            assert!(learned.zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{unit}");
        }
        assert_eq!(TargetUnit::of(&[row(5.0), row(5.0)]), TargetUnit { mean: 5.0, spread: 1.0 });
        assert_eq!(TargetUnit::of(&[row(5.0)]).learned(&Target::Class(2)), Target::Class(2));
    }
}
