//! Turns logits into scores and labels, as the `transformers` text-classification pipeline does.

use serde::Serialize;

use crate::adapter::{Adapter, ProblemType};

/// The function that turns logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// A softmax: scores sum to 1.
    Softmax,
    /// A sigmoid of each logit.
    Sigmoid,
    /// The logits themselves.
    Identity,
}

impl Function {
    /// The function for an adapter: the identity for regression, a sigmoid for multi-label problems or a single output, else a
    /// softmax.
    #[must_use]
    pub fn of(adapter: &Adapter) -> Self {
        match (adapter.info.problem_type, adapter.info.labels.len()) {
            (Some(ProblemType::Regression), _) => Self::Identity,
            (Some(ProblemType::MultiLabelClassification), _) | (_, 1) => Self::Sigmoid,
            (Some(ProblemType::SingleLabelClassification) | None, _) => Self::Softmax,
        }
    }

    /// Scores of `logits`, computed in f64.
    #[must_use]
    pub fn apply(self, logits: &[f32]) -> Vec<f32> {
        let wide = logits.iter().map(|&logit| f64::from(logit));
        match self {
            Self::Identity => logits.to_vec(),
            Self::Sigmoid => wide.map(|logit| (1.0 / (1.0 + (-logit).exp())) as f32).collect(),
            Self::Softmax => {
                let max = wide.clone().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = wide.map(|logit| (logit - max).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.into_iter().map(|power| (power / sum) as f32).collect()
            }
        }
    }
}

/// One label of a result.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Scored {
    /// The adapter's name for the output.
    pub label: String,
    /// The score.
    pub score: f32,
}

/// The `top` best of `labels` by `logits`, best first; equal logits are in order of id. `None` if the logits are not one finite
/// number for each label, because then there are no scores.
#[must_use]
pub fn rank(labels: &[String], logits: &[f32], function: Function, top: usize) -> Option<Vec<Scored>> {
    if labels.len() != logits.len() || logits.iter().any(|logit| !logit.is_finite()) {
        return None;
    }
    let scores = function.apply(logits);
    // Every function is increasing, and logits still differ where scores have saturated.
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(top);
    Some(order.into_iter().map(|id| Scored { label: labels[id].clone(), score: scores[id] }).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::adapter::{AdapterInfo, AdapterWeights};

    fn labels(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("L{i}")).collect()
    }

    fn adapter(problem_type: Option<ProblemType>, outputs: usize) -> Adapter {
        Adapter {
            info: AdapterInfo { labels: labels(outputs), problem_type, base_fingerprint: None, base_model: None },
            weights: AdapterWeights { sites: Vec::new(), head: BTreeMap::new() },
        }
    }

    #[test]
    fn problem_type_chooses_the_function() {
        use ProblemType::{MultiLabelClassification, Regression, SingleLabelClassification};
        let cases = [
            (None, 1, Function::Sigmoid),
            (None, 2, Function::Softmax),
            (Some(SingleLabelClassification), 3, Function::Softmax),
            // `transformers` checks for a single output first.
            (Some(SingleLabelClassification), 1, Function::Sigmoid),
            (Some(MultiLabelClassification), 3, Function::Sigmoid),
            (Some(Regression), 1, Function::Identity),
            (Some(Regression), 3, Function::Identity),
        ];
        for (problem_type, outputs, expected) in cases {
            assert_eq!(Function::of(&adapter(problem_type, outputs)), expected, "{problem_type:?}, {outputs} outputs");
        }
    }

    #[test]
    fn functions_match_expected_scores() {
        let logits = [1.5f32, -0.5, 0.25];
        let near = |found: Vec<f32>, expected: [f32; 3]| {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?} {expected:?}");
        };
        near(Function::Softmax.apply(&logits), [0.703_314, 0.095_183, 0.201_503]);
        near(Function::Sigmoid.apply(&logits), [0.817_574, 0.377_541, 0.562_177]);
        assert_eq!(Function::Identity.apply(&logits), logits);
    }

    #[test]
    fn large_logits_do_not_overflow_and_keep_their_order() {
        let ranked = rank(&labels(3), &[900.0, 1000.0, -1000.0], Function::Softmax, 3).unwrap();
        assert_eq!(ranked[0], Scored { label: "L1".into(), score: 1.0 });
        let ranked = rank(&labels(3), &[90.0, 100.0, 95.0], Function::Sigmoid, 3).unwrap();
        assert_eq!(ranked.iter().map(|s| s.label.as_str()).collect::<Vec<_>>(), ["L1", "L2", "L0"]);
    }

    #[test]
    fn ranks_best_first_and_equal_scores_by_id() {
        let ranked = rank(&labels(4), &[0.5, 2.0, 0.5, -1.0], Function::Identity, 3).unwrap();
        assert_eq!(
            ranked.iter().map(|s| (s.label.as_str(), s.score)).collect::<Vec<_>>(),
            [("L1", 2.0), ("L0", 0.5), ("L2", 0.5)]
        );
    }

    #[test]
    fn non_finite_logits_are_not_ranked() {
        assert_eq!(rank(&labels(2), &[1.0, f32::NAN], Function::Softmax, 2), None);
        assert_eq!(rank(&labels(2), &[f32::INFINITY, 0.0], Function::Identity, 2), None);
        assert_eq!(rank(&labels(2), &[1.0], Function::Sigmoid, 2), None);
    }
}
