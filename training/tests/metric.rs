//! Compares metrics with the values of scikit-learn and scipy, printed by:
//! `matthews_corrcoef([0,1,2,2,1,0,2,1],[0,2,2,2,1,0,1,1])`, `f1_score([1,0,1,1,0,1],[1,1,1,0,0,1])`,
//! `pearsonr(...)`, `spearmanr(...)` of the numbers below.

use polyrank::adapter::ProblemType;
use polyrank_training::data::Target;
use polyrank_training::metric::{Metric, metrics_for, score};

fn classes(metric: Metric, wanted: &[usize], found: &[usize], labels: usize) -> f64 {
    let logits: Vec<Vec<f32>> =
        found.iter().map(|&f| (0..labels).map(|i| if i == f { 1.0 } else { -1.0 }).collect()).collect();
    score(metric, &logits, &wanted.iter().map(|&class| Target::Class(class)).collect::<Vec<_>>())
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

#[test]
fn classification_metrics_equal_scikit_learn() {
    let (wanted, found) = ([0, 1, 2, 2, 1, 0, 2, 1], [0, 2, 2, 2, 1, 0, 1, 1]);
    close(classes(Metric::Accuracy, &wanted, &found, 3), 0.75);
    close(classes(Metric::Matthews, &wanted, &found, 3), 0.619_047_619);
    close(classes(Metric::F1, &[1, 0, 1, 1, 0, 1], &[1, 1, 1, 0, 0, 1], 2), 0.75);
    close(classes(Metric::Matthews, &[0, 1, 1], &[1, 1, 1], 2), 0.0);
    close(classes(Metric::F1, &[0, 0], &[0, 0], 2), 0.0);
}

#[test]
fn correlations_equal_scipy() {
    let found: Vec<Vec<f32>> = [1.0, 2.0, 2.0, 3.5, -1.0].iter().map(|&x| vec![x]).collect();
    let wanted = [0.5, 1.5, 4.0, 3.0, 0.5].map(Target::Value);
    close(score(Metric::Pearson, &found, &wanted), 0.701_868_573);
    close(score(Metric::Spearman, &found, &wanted), 0.789_473_684);
    // NaN has a rank, too.
    let with_nan = [f32::NAN, 1.0, f32::NAN, 2.0].map(|x| vec![x]);
    close(score(Metric::Spearman, &with_nan, &[3.5, 1.0, 3.5, 2.0].map(Target::Value)), 1.0);
    close(score(Metric::Pearson, &[vec![1.0], vec![1.0]], &[Target::Value(1.0), Target::Value(2.0)]), 0.0);
}

#[test]
fn glue_tasks_have_their_own_metrics() {
    let primary = |task| metrics_for(task, ProblemType::SingleLabelClassification)[0];
    assert_eq!(
        [primary("cola"), primary("mrpc"), primary("trec")],
        [Metric::Matthews, Metric::Accuracy, Metric::Accuracy]
    );
    assert_eq!(metrics_for("stsb", ProblemType::Regression), [Metric::Pearson, Metric::Spearman]);
}
